"""Clips of simulated gestures in files: filming them, and reading those that are there so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsnn.data.simulate import SimulatedGestures

CLASSES, OTHER = 11, 10
OTHERS = 3  # clips of other_gestures beside the one of each round of the eleven, since there are 36 kinds of them
TOGETHER = CLASSES + OTHERS  # clips of a file
SECONDS = {"train": (0.8, 6.0), "short": (0.5, 2.0)}  # of the clips to train with; validation clips are as the test's
TICK_US = 100  # events are kept in 32 bits: ticks since the clip's begin, y, x, polarity
SLICE = 100  # ticks; windows begin and end with slices of so many
FULL = 0.9  # share of the GPU's memory beyond which no more clips are loaded


def simulate(
    folder: Path, worker: int, workers: int, validation: int, seed: int, device: str, most: int | None, short: int
) -> None:
    """Make this worker's share of the validation clips, then of `most` to train with (None: without end).

    Meanwhile `short` clips are made: they cost less, so that there are more performers and scenes in the same time.
    """
    torch.set_num_threads(1)
    clips = SimulatedGestures(validation, seed, split="validation", device=device)
    for first in range(worker * CLASSES, validation, workers * CLASSES):
        write(folder / f"validation-{seed}-{first:05d}.npz", (clips, range(first, first + CLASSES)))
    rounds = {"train": 10**5 if most is None else math.ceil(most / TOGETHER), "short": math.ceil(short / TOGETHER)}
    seeds = {"train": (seed, seed + 1), "short": (seed + 2, seed + 3)}
    sources = {
        part: [
            SimulatedGestures(10**7, one, split="train", duration_s=SECONDS[part], device=device) for one in seeds[part]
        ]
        for part in rounds
    }
    for round_ in range(worker, max(rounds.values()), workers):
        of_all = range(round_ * CLASSES, (round_ + 1) * CLASSES)
        more = [(round_ * OTHERS + i) * CLASSES + OTHER for i in range(OTHERS)]
        for part, (clips, others) in sources.items():
            if round_ < rounds[part]:
                write(folder / f"{part}-{seed}-{round_:05d}.npz", (clips, of_all), (others, more))


def write(file: Path, *chosen: tuple[SimulatedGestures, Sequence[int]]) -> None:
    """Simulate these clips into `file`, unless it is there."""
    if file.exists():
        return
    clips, labels = [], []
    for data, indices in chosen:
        for events, label in data.__getitems__(list(indices)):
            ticks = (events.t // TICK_US).astype(np.int32)
            clips.append(ticks << 15 | events.y.astype(np.int32) << 8 | events.x.astype(np.int32) << 1 | events.p)
            labels.append(label)
    made = file.with_suffix(".tmp")
    with made.open("wb") as target:
        np.savez(target, events=np.concatenate(clips), ends=np.cumsum([len(clip) for clip in clips]), labels=labels)
    made.replace(file)


class Clips:
    """The clips of a part that are there so far, on a device."""

    def __init__(self, folder: Path, part: str, device: torch.device) -> None:
        self.folder, self.part, self.device = folder, part, device
        self.events: list[Tensor] = []  # of one clip each
        self.labels = np.zeros(0, dtype=np.int64)
        self.slices = np.zeros(0, dtype=np.int64)  # of each clip, their number
        self.first_of = np.zeros(0, dtype=np.int32)  # first event of every slice and number of all, clip after clip
        self.start = np.zeros(0, dtype=np.int64)  # where a clip's begin in `first_of`
        self.by_class = np.zeros(0, dtype=np.int64)  # the clips of the first class, of the second, ...
        self.of_class = np.zeros(CLASSES, dtype=np.int64)  # how many of each
        self.seen: set[Path] = set()

    def refresh(self) -> None:
        """Load the files that have come since, as long as there is room."""
        labels, firsts = [self.labels], [self.first_of]
        slices = self.slices.tolist()
        for file in sorted(set(self.folder.glob(f"{self.part}-*.npz")) - self.seen):
            if self.device.type == "cuda":
                free, total = torch.cuda.mem_get_info(self.device)
                if free < (1 - FULL) * total:
                    break
            self.seen.add(file)
            with np.load(file) as archive:
                events, ends, of_file = (archive[name] for name in ("events", "ends", "labels"))
            lengths = np.diff(ends, prepend=0)
            there = torch.from_numpy(events).to(self.device).split(lengths.tolist())
            chosen = np.flatnonzero(lengths >= 20)
            labels.append(of_file[chosen].astype(np.int64))
            for index in chosen.tolist():
                clip = events[ends[index] - lengths[index] : ends[index]]
                bounds = np.arange((clip[-1] >> 15) // SLICE + 2, dtype=np.int32) * SLICE << 15
                firsts.append(np.searchsorted(clip, bounds).astype(np.int32))
                slices.append(len(bounds) - 1)
                self.events.append(there[index])
        self.labels, self.first_of = np.concatenate(labels), np.concatenate(firsts)
        self.slices = np.array(slices, dtype=np.int64)
        self.start = np.cumsum(self.slices + 1) - (self.slices + 1)
        self.by_class = np.argsort(self.labels, kind="stable")
        self.of_class = np.bincount(self.labels, minlength=CLASSES)

    def __len__(self) -> int:
        return len(self.labels)
