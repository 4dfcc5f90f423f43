"""Batches in an order that is a function of the place alone, whenever and on however many processes it runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rsnn.data import FrameCache
from rsnn.errors import ConfigError, RecordingError, RSNNError
from rsnn.models import Preprocessing
from rsnn.training.augment import Augment
from rsnn.training.recipe import Recipe
from rsnn.training.sources import Part

PHASES = {"encoder": 0, "classifier": 1, "joint": 2}


class FramesOf(Dataset[tuple[Tensor, int]]):
    """Frames of counts and labels of a part's recordings; an index is (epoch, recording).

    With a cache of the frames of the part's source they come from there. With `augment`, each epoch shows each
    recording as another draw changes it, which epoch, recording and seed decide. A recording without events within
    the frames is a `RecordingError` with a cache, when that is made, and without one.
    """

    def __init__(
        self,
        part: Part,
        preprocessing: Preprocessing,
        augment: Augment | None = None,
        seed: tuple[int, ...] = (),
        cache: FrameCache | None = None,
    ) -> None:
        self.part = part
        self.cache = cache
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, recording = index
        if self.cache is not None:
            frames, _ = self.cache[int(self.part.order[recording])]
            return frames.float(), int(self.part.labels[recording])
        events = self.part.read(recording)
        if not len(self.preprocessing.cropped(events)):
            raise RecordingError(
                f"recording {self.part.ids[recording]} of {self.part.source.name}: it has no events within the frames; "
                "expected at least one"
            )
        if self.augment is not None:
            changed = self.augment(events, np.random.default_rng((*self.seed, epoch, recording)))
            events = changed if len(self.preprocessing.cropped(changed)) else events
        return self.preprocessing.frames(events), int(self.part.labels[recording])


def frame_cache(recipe: Recipe, training: Part, preprocessing: Preprocessing) -> FrameCache | None:
    """Return the frames of a recipe's data set, made once for all runs; None where augmentation changes them."""
    if not recipe.data.cache or recipe.augment != Augment():
        return None
    return FrameCache(training.source, preprocessing.num_frames, preprocessing.split_by, size=preprocessing.frame_size)


@dataclass(frozen=True)
class Plan:
    """How the recordings of an epoch are shared out.

    Attributes:
        recordings: number of them.
        batch_size: of one process in one pass.
        accumulate: passes before each update.
        processes: that train together.

    """

    recordings: int
    batch_size: int
    accumulate: int = 1
    processes: int = 1

    @classmethod
    def of(cls, recordings: int, batch_size: int, accumulate: int, processes: int) -> Plan:
        """Return the plan, with smaller batches where there are not enough recordings for one update.

        Raises:
            ConfigError: there are fewer recordings than processes.

        """
        if recordings < accumulate * processes:
            raise ConfigError(
                f"{recordings} recordings to train on for {processes} processes x loop.accumulate = {accumulate}; "
                "expected at least one each"
            )
        return cls(recordings, min(batch_size, recordings // (accumulate * processes)), accumulate, processes)

    @property
    def updates(self) -> int:
        """Updates in an epoch; the recordings left over are others every epoch."""
        return self.recordings // (self.batch_size * self.accumulate * self.processes)


class Order(Sampler[list[tuple[int, int]]]):
    """One process's batches of one epoch, from an update on: pass k takes what follows the recordings of pass k - 1."""

    def __init__(self, plan: Plan, seed: tuple[int, ...], epoch: int, rank: int = 0, first_update: int = 0) -> None:
        self.plan = plan
        self.seed = seed
        self.epoch = epoch
        self.rank = rank
        self.first = first_update * plan.accumulate

    def __len__(self) -> int:
        return self.plan.updates * self.plan.accumulate - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((*self.seed, self.epoch)).permutation(self.plan.recordings)
        size = self.plan.batch_size
        for number in range(self.first, self.first + len(self)):
            start = (number * self.plan.processes + self.rank) * size
            yield [(self.epoch, int(recording)) for recording in order[start : start + size]]


class Share(Sampler[list[tuple[int, int]]]):
    """One process's batches of a part that is measured: every recording once, over all processes."""

    def __init__(self, recordings: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.mine = range(rank, recordings, processes)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self.mine), self.batch_size):
            yield [(0, i) for i in self.mine[start : start + self.batch_size]]


def loader(
    frames: FramesOf, order: Sampler[Any], workers: int = 0, *, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return an iterator of batches: frames (T, N, C, H, W) and labels (N,).

    Raises:
        RSNNError: from the iterator: a recording cannot be read, or has no events within the frames.

    """
    batches = DataLoader(
        _Tried(frames),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_together_or_error,
        pin_memory=pin,
        worker_init_fn=_leave_interrupts_to_the_trainer,
    )
    return _without_errors(iter(batches))  # now: it draws a number, and the first update has a seed of its own


def _without_errors(batches: Iterator[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        if isinstance(batch, RSNNError):
            raise batch
        yield batch


class _Tried(Dataset[Any]):
    """Items, or the errors they end in: what another process raises comes with its traceback for a message."""

    def __init__(self, frames: FramesOf) -> None:
        self.frames = frames

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, int] | RSNNError:
        try:
            return self.frames[index]
        except RSNNError as error:
            return error


def _together_or_error(samples: list[Any]) -> tuple[Tensor, Tensor] | RSNNError:
    wrong = next((sample for sample in samples if isinstance(sample, RSNNError)), None)
    return together(samples) if wrong is None else wrong


def _leave_interrupts_to_the_trainer(_worker: int) -> None:
    """Let a Ctrl-C, which all processes of a terminal get, stop the training where it can be gone on with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def together(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Stack the frames and labels of some recordings to a batch."""
    frames, labels = zip(*samples, strict=True)
    return torch.stack(frames, dim=1), torch.tensor(labels)
