"""Train the gesture checkpoints (tag `sim`) on clips that are simulated meanwhile.

    python examples/train_gesture.py runs/gesture --models cl cla scnn --minutes 60

Some processes have performers of `SimulatedGestures` carry out gestures and film them as long as the training lasts, or
until there are as many clips as `--most` says; one process a model trains on all clips there are so far. Both are done
on the GPU where there is one (filming there needs CuPy; with it, one kernel, `train_gesture.cu`, makes the frames of a
batch). `cl` and `cla` are an encoder under two classifiers at once, its decision head and the spiking CNN: they
become `convlstm-gesture-cl-sum` and `rsnn-gesture-cl`, or `convlstm-gesture-cla-mean` and `rsnn-gesture-cla`. `scnn`
has no encoder. `cl-sum` and `cla-mean` are these decision heads alone, on an encoder that stays as it is.

What a network sees is a random window of a clip, or its begin. Half of the windows are mirrored, turned, scaled,
shifted, thinned or thickened, through a sensor with more noise or exchanged polarities; the others are mirrored and
little else. Windows of more than two seconds get more time steps, as `Preprocessing.max_step_ms` gives them to whole
recordings. The learning rate rises, and falls to nothing at the end of the minutes; what is kept is the moving average
of the weights, in `<name>/best` from the first minute on. Nothing is selected: the validation clips, of performers of
their own as the test clips are, only tell how it went, and `--validation 0` does without them.

`--start` goes on from checkpoints, of the zoo or in `FOLDER/<name>`. From nothing, the encoder CL learns which way an
arm turns only from short windows in which the arm moves little from one frame to the next: give it
`--window 0.25 0.7` first.

`--teachers` are checkpoints that see the same windows; what they say of them counts as much as the labels do
(distillation, Hinton et al. 2015). A batch that was dear to make, because teachers or an encoder that stays saw it, can
be shown several times, with others between: `--repeats`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import rsnn
from rsnn.data.simulate import SimulatedGestures
from rsnn.kernels import cuda, gpu

MODELS = {
    "cl": ("convlstm-gesture-cl-sum", "rsnn-gesture-cl"),
    "cla": ("convlstm-gesture-cla-mean", "rsnn-gesture-cla"),
    "scnn": ("scnn-gesture",),
    "cl-sum": ("convlstm-gesture-cl-sum",),
    "cla-mean": ("convlstm-gesture-cla-mean",),
}
HEADS = ("cl-sum", "cla-mean")  # the decision head alone learns
# Of the frames; attention takes sixteen times as long on whole ones.
SIDE = {"cl": 128, "cla": 64, "scnn": 128, "cl-sum": 128, "cla-mean": 64}
SENSOR = 128  # teachers have frames of their own sides, made from the sensor's
STEPS, CLASSES, OTHER = 20, 11, 10
MAX_STEP_MS = 100  # what lasts longer than STEPS of these is cut into 2, 3, ... times as many steps
TICK_US = 100  # events are kept in 32 bits: ticks since the clip's begin, y, x, polarity
SLICE = 100  # ticks; windows begin and end with slices of so many
SECONDS = (0.8, 6.0)  # of the clips to train with; validation clips are as the test's
OTHERS = 3  # clips of other_gestures beside those of each round of the eleven: there are as many kinds of them
BEGINNINGS, ENDS = 0.15, (5, 9, 14)  # share of the batches that end early, lest the first steps be too sure; after what
LONG, MULTIPLES = 0.25, (2, 3)  # share of the batches with windows of 2 or 3 times STEPS
# Share of the windows that are distorted. Networks should be best at what recordings look like, and cope with the rest.
AUGMENTED = 0.5
SMOOTHED = 0.05  # share of a label that goes to all classes alike
TRUST = 0.5  # in teachers; the rest is in the label
KEPT = 150  # batches to be shown again
AVERAGED = 0.998  # what the average of the weights keeps of itself in each step
AHEAD = 4  # batches that the GPU may be behind
FULL = 0.9  # share of the GPU's memory beyond which no more clips are loaded
MIRRORED = torch.tensor([0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10])  # what a class is in a mirror


# --- Clips


def simulate(
    folder: Path, worker: int, workers: int, validation: int, seed: int, device: str, most: int | None
) -> None:
    """Make this worker's share of the validation clips, then of `most` to train with (None: without end)."""
    torch.set_num_threads(1)
    clips = SimulatedGestures(validation, seed, split="validation", device=device)
    for first in range(worker * CLASSES, validation, workers * CLASSES):
        write(folder / f"validation-{seed}-{first:05d}.npz", (clips, range(first, first + CLASSES)))
    clips, others = (
        SimulatedGestures(10**7, seed + i, split="train", duration_s=SECONDS, device=device) for i in (0, 1)
    )
    rounds = 10**5 if most is None else math.ceil(most / (CLASSES + OTHERS))
    for round_ in range(worker, rounds, workers):
        of_all = range(round_ * CLASSES, (round_ + 1) * CLASSES)
        more = [(round_ * OTHERS + i) * CLASSES + OTHER for i in range(OTHERS)]
        write(folder / f"train-{seed}-{round_:05d}.npz", (clips, of_all), (others, more))


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


@dataclasses.dataclass(frozen=True)
class View:
    """How clips are seen: side of the frames, shortest and longest window in seconds, and its time steps."""

    side: int
    window_s: tuple[float, float]
    steps: int = STEPS

    def longer(self, multiple: int) -> View:
        """Return the view of windows that need `multiple` times the steps."""
        shortest = (multiple - 1) * STEPS * MAX_STEP_MS / 1000
        return View(self.side, (shortest, shortest + STEPS * MAX_STEP_MS / 1000), multiple * STEPS)


def frames_of(clip: Tensor, side: int) -> Tensor:
    """Return the words of a whole clip as counts (T, 1, 2, side, side)."""
    ticks = (clip >> 15) - (clip[0] >> 15)
    T = STEPS * max(1, math.ceil(float(ticks[-1]) * TICK_US / (STEPS * MAX_STEP_MS * 1000)))
    step = (ticks * T).div(ticks[-1] + 1, rounding_mode="floor")
    return _count(torch.zeros_like(step), step, clip >> 1 & 127, clip >> 8 & 127, clip & 1, (T, 1), side)


def _count(
    sample: Tensor, step: Tensor, x: Tensor, y: Tensor, p: Tensor, steps_samples: tuple[int, int], side: int
) -> Tensor:
    """Return counts (T, N, 2, side, side) of events at (x, y) on 128 x 128 pixels; others than these are left out."""
    T, N = steps_samples
    pixel = 128 // side
    column, row = x.floor().long(), y.floor().long()
    cell = (((step.long() * N + sample) * 2 + p) * side + row // pixel) * side + column // pixel
    inside = (column >= 0) & (column < 128) & (row >= 0) & (row < 128)
    counts = torch.zeros(T * N * 2 * side * side, device=x.device)
    counts.index_add_(0, cell.clamp(0, counts.numel() - 1), inside.float())
    return counts.reshape(T, N, 2, side, side)


class Noise(NamedTuple):
    """Sources of noise: the window of each, its events, and where it is; below zero it is everywhere."""

    sample: np.ndarray
    number: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def of(self, sample: int) -> Noise:
        """Return the sources of one window, as of window 0."""
        chosen = [column[self.sample == sample] for column in self]
        return Noise(np.zeros_like(chosen[0]), *chosen[1:])


def batch(clips: Clips, size: int, view: View, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return frames (T, N, 2, side, side) of random windows through random sensors, and labels (N)."""
    labels = rng.permutation(np.resize(rng.permutation(CLASSES), size))
    chosen, begins, windows, first, end = _windows(clips, labels, view.window_s, rng)
    parts = [clips.events[i][a:b] for i, a, b in zip(*(x.tolist() for x in (chosen, first, end)), strict=True)]
    u, augmented = rng.uniform, rng.random(size) < AUGMENTED
    angle, wide = np.deg2rad(rng.normal(0, 5, size)) * augmented, np.exp(u(-0.2, 0.2, size) * augmented)
    high = wide * np.exp(u(-0.07, 0.07, size) * augmented)
    mirrored, swapped = rng.random(size) < 0.5, (rng.random(size) < 0.25) & augmented
    sign = np.where(mirrored, -1.0, 1.0)
    right, down = (u(-1, 1, size) * np.where(augmented, most, 4) for most in (16, 14))
    # From 0.37 to twice as many events, ON and OFF not quite alike: each is kept or repeated; a repeat lands nearby.
    gain = np.exp(np.where(augmented, u(-1.0, 0.7, size), u(-0.2, 0.2, size)))
    tilt = rng.normal(0, 0.12, size) * augmented
    of_sample = np.stack((
        wide * np.cos(angle) * sign, -wide * np.sin(angle), 64 + right,
        high * np.sin(angle) * sign, high * np.cos(angle), 64 + down,
        gain * np.exp(-tilt), gain * np.exp(tilt), swapped, begins * SLICE, windows * SLICE,
    )).astype(np.float32)  # fmt: skip
    noise = _noise(windows * SLICE * TICK_US * 1e-6, augmented, rng)
    target = np.where(mirrored, MIRRORED.numpy()[labels], labels)
    if clips.device.type == "cuda" and made_by_kernel(clips.device):
        return _seen_by_kernel(parts, of_sample, target, noise, view, rng, _kernel)
    sensors = torch.from_numpy(of_sample).to(clips.device)
    # A GPU takes all windows at once; on a CPU one at a time stays in its cache, which is several times as fast.
    if clips.device.type == "cuda":
        frames = _seen(parts, sensors, noise, view)
    else:
        frames = torch.cat([_seen([parts[i]], sensors[:, [i]], noise.of(i), view) for i in range(size)], dim=1)
    return frames, torch.from_numpy(target).to(clips.device)


def _windows(
    clips: Clips, labels: np.ndarray, window_s: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Return of random windows, one of a class each: the clip, first slice, slices, first event and end of events.

    The clips last as long as the shortest window, or are any of the class where no such one is found.
    """
    size = len(labels)
    first_of_class = np.cumsum(clips.of_class) - clips.of_class
    draws = rng.integers(clips.of_class[labels], size=(20, size))
    candidates = clips.by_class[first_of_class[labels] + draws]
    long = clips.slices[candidates] > window_s[0] * 1e6 / TICK_US / SLICE
    long[-1] = True
    chosen = candidates[long.argmax(0), np.arange(size)]
    total, start = clips.slices[chosen], clips.start[chosen]
    wanted = np.rint(np.exp(rng.uniform(*np.log(window_s), size)) * 1e6 / TICK_US / SLICE).astype(np.int64)
    window = np.where(rng.random(size) < 0.1, total, np.minimum(total, wanted))
    begin = rng.integers(total - window + 1)
    few = clips.first_of[start + begin + window] - clips.first_of[start + begin] < 20
    begin, window = np.where(few, 0, begin), np.where(few, total, window)
    return chosen, begin, window, clips.first_of[start + begin], clips.first_of[start + begin + window]


def _noise(seconds: np.ndarray, augmented: np.ndarray, rng: np.random.Generator) -> Noise:
    """Return the noise of noisier sensors: three in ten have more of it everywhere, as many a few hot pixels."""
    N = len(seconds)
    everywhere = np.minimum(rng.exponential(0.3, N) * 128 * 128 * seconds, 60_000) * (rng.random(N) < 0.3) * augmented
    hot = rng.integers(1, 12, N) * (rng.random(N) < 0.3) * augmented
    of_pixel = np.repeat(np.arange(N), hot)
    x, y = rng.uniform(0, 128, (2, len(of_pixel)))
    nowhere = np.full(N, -1.0)
    sample = np.concatenate((np.arange(N), of_pixel))
    number = np.concatenate((everywhere, rng.poisson(rng.exponential(15, len(of_pixel)) * seconds[of_pixel])))
    noise = Noise(sample, number.astype(np.int64), np.concatenate((nowhere, x)), np.concatenate((nowhere, y)))
    return Noise(*(column[noise.number > 0] for column in noise))


def _seen(parts: list[Tensor], of_sample: Tensor, noise: Noise, view: View) -> Tensor:
    """Return counts (T, N, 2, side, side) of windows' words through the sensors that `of_sample` (11, N) describes."""
    N, device = len(parts), of_sample.device
    words = torch.cat(parts)
    if N == 1:
        sample = words.new_zeros(())
    else:
        lengths = torch.tensor([len(part) for part in parts], device=device)
        sample = torch.repeat_interleave(torch.arange(N, device=device), lengths, output_size=len(words))
    luck = torch.rand(words.numel(), device=device)
    kept = of_sample[6:8].T.flatten()[2 * sample + (words & 1)]
    copies = (luck < kept).int() + (luck < kept - 1).int()
    which = torch.repeat_interleave(copies)
    repeated = (which[1:] == which[:-1]).nonzero().flatten() + 1
    words = words[which]
    if N > 1:
        sample = sample[which]
    xx, xy, x0, yx, yy, y0, *_, swap, begin, span = of_sample[:, sample]
    x, y = ((words >> shift & 127) - 64 + torch.rand(words.numel(), device=device) for shift in (1, 8))
    for axis in (x, y):
        axis[repeated] += 0.7 * torch.randn(len(repeated), device=device)
    x, y = xx * x + xy * y + x0, yx * x + yy * y + y0
    step = (((words >> 15) - begin) * view.steps / span).long().clamp(0, view.steps - 1)
    p = words & 1 ^ swap.int()
    events = [(sample.expand(len(words)), step, x, y, p), _noise_events(noise, view.steps, device)]
    return _count(*map(torch.cat, zip(*events, strict=True)), (view.steps, N), view.side)


def _noise_events(noise: Noise, steps: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return sample, step, x, y and polarity of the events of `noise`."""
    columns = torch.from_numpy(np.stack([noise.sample, noise.x, noise.y])).to(device, torch.float32)
    number = torch.from_numpy(noise.number).to(device)
    total = int(noise.number.sum())
    sample, *place = torch.repeat_interleave(columns, number, dim=1, output_size=total)
    x, y = (torch.where(one < 0, 128 * torch.rand(total, device=device), one) for one in place)
    step, p = (torch.randint(high, (total,), device=device) for high in (steps, 2))
    return sample.long(), step, x, y, p.int()


def _seen_by_kernel(
    parts: list[Tensor],
    of_sample: np.ndarray,
    target: np.ndarray,
    noise: Noise,
    view: View,
    rng: np.random.Generator,
    kernel: Callable[[str], Callable[..., None]],
) -> tuple[Tensor, Tensor]:
    """Return what `_seen` does by the kernels of `train_gesture.cu`, and `target`, on the words' device."""
    device, N, sources = parts[0].device, len(parts), len(noise.sample)
    # All that the device has to know in one array, and so in one copy that nothing waits for.
    columns = [
        of_sample.ravel().view(np.int32), target, _begins([len(part) for part in parts]),
        _begins(noise.number), noise.sample, np.concatenate((noise.x, noise.y)).astype(np.float32).view(np.int32),
    ]  # fmt: skip
    told = torch.from_numpy(np.concatenate([column.astype(np.int32, copy=False) for column in columns]))
    if device.type == "cuda":
        told = told.pin_memory().to(device, non_blocking=True)
    sensors, labels, begins, noise_begins, samples, places = told.split([len(column) for column in columns])
    words = parts[0] if N == 1 else torch.cat(parts)
    frames = torch.zeros(view.steps, N, 2, view.side, view.side, device=device)
    of_frames = (N, view.steps, view.side)
    seeds = rng.integers(2**63, size=2).tolist()
    given = [words, begins, sensors, frames, len(words), *of_frames, seeds[0]]
    _launch(kernel("seen"), given, len(words), device)
    total = int(noise.number.sum())
    if total:
        given = [noise_begins, samples, places, frames, total, sources, *of_frames, seeds[1]]
        _launch(kernel("noise"), given, total, device)
    return frames, labels.long()


def _begins(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where parts of these lengths begin, and where the last one ends."""
    return np.concatenate(([0], np.cumsum(lengths)))


def _launch(kernel: Callable[..., None], given: list[Tensor | int], threads: int, device: torch.device) -> None:
    arguments = [x.data_ptr() if isinstance(x, Tensor) else int(x) for x in given]
    kernel(-(-threads // cuda.THREADS), arguments, device)


def kernel_source() -> str:
    """Return the CUDA source."""
    return Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")


@functools.cache
def _kernel(name: str) -> Callable[..., None]:
    return cuda.launcher(kernel_source(), name)


@functools.cache
def made_by_kernel(device: torch.device) -> bool:
    """Tell whether the kernels make frames on a GPU; where they do not, PyTorch does."""

    def self_test() -> None:
        sensors = np.array([[1, 0, 64, 0, 1, 64, 1, 1, 0, 0, 10]], dtype=np.float32).repeat(2, 0).T.copy()
        words = torch.tensor([9 << 15 | 5 << 8 | 7 << 1 | 1], dtype=torch.int32, device=device)
        noise = Noise(*(np.array([value]) for value in (0, 3, 2.5, 3.5)))
        target, rng = np.arange(2), np.random.default_rng(0)
        frames, labels = _seen_by_kernel([words] * 2, sensors, target, noise, View(128, (1, 1)), rng, _kernel)
        right = float(frames[:, 0].sum()) == 4 and float(frames[:, 0, :, 3, 2].sum()) == 3
        if not right or float(frames[18, :, 1, 5, 7].sum()) != 2 or labels.tolist() != [0, 1]:
            raise RuntimeError("wrong frames")

    reason = gpu.failure(self_test)
    if reason:
        print(f"PyTorch makes the frames, several times as slowly; the CUDA kernel is left out: {reason}", flush=True)
    return reason is None


# --- Training


class Networks(nn.Module):
    """The classifiers of one encoder, which is shared; or a network without one."""

    def __init__(self, kind: str, start: str | None) -> None:
        super().__init__()
        size = {"frame_size": (SIDE[kind], SIDE[kind]), "num_frames": STEPS, "normalize": "log1p"}
        self.members = nn.ModuleList(rsnn.create_model(name, **size) for name in MODELS[kind])
        for name, member in zip(MODELS[kind], self.members, strict=True):
            if start:
                folder = Path(start) / name
                member.load_state_dict(rsnn.load(folder if folder.is_dir() else name).state_dict())
        for member in self.members[1:]:
            member.encoder = self.members[0].encoder
        self.head_only = kind in HEADS
        if self.head_only:
            self.members[0].encoder.requires_grad_(False)

    def forward(self, seen: Tensor) -> list[Tensor]:
        """Return the logits (N, K) of every classifier, of frames or of what `prepared` has made of them."""
        first = self.members[0]
        if self.head_only and seen.ndim == 4:
            return [first.logit_scale * first.classifier.classifier(seen)]
        features = first.forward_features(seen)
        return [member.logit_scale * member.classifier(features)[0] for member in self.members]

    @torch.no_grad()
    def prepared(self, frames: Tensor) -> Tensor:
        """Return frames, or what the encoder that stays and the reduction over time make of them (N, C, H, W)."""
        if not self.head_only:
            return frames
        first = self.members[0]
        reduced: Tensor = first.classifier.reduction(first.forward_features(frames))[0]
        return reduced


def shrunk(frames: Tensor, side: int) -> Tensor:
    """Return counts (T, N, 2, side, side) of larger ones."""
    pixels = frames.shape[-1] // side
    if pixels == 1:
        return frames
    return F.avg_pool2d(frames.flatten(0, 1), pixels).mul_(pixels**2).unflatten(0, frames.shape[:2])


class Lesson(NamedTuple):
    """A batch to learn from."""

    inputs: Tensor  # of the networks
    target: Tensor  # probabilities (N, K)
    labels: Tensor  # (N)


class Lessons:
    """Batches to learn from, without end: new ones, and those that are shown again.

    Args:
        networks: who learns.
        clips: where windows are from.
        view: of the windows; some batches have longer ones, some end early.
        options: of the command line.
        rng: what chooses.

    """

    def __init__(
        self, networks: Networks, clips: Clips, view: View, options: argparse.Namespace, rng: np.random.Generator
    ) -> None:
        self.networks, self.clips, self.view, self.options, self.rng = networks, clips, view, options, rng
        teachers = [rsnn.load(name).to(clips.device).eval() for name in options.teachers]
        self.teachers = [(teacher.preprocessing.frame_size[0], _quick(teacher, options)) for teacher in teachers]
        self.kept: list[Lesson] = []
        self.given = 0

    def __iter__(self) -> Lessons:
        return self

    def __next__(self) -> Lesson:
        again = self.given % self.options.repeats > 0
        self.given += 1
        if again:
            lesson = self.kept[int(self.rng.integers(len(self.kept)))]
            return lesson._replace(inputs=lesson.inputs.float())
        lesson = self._new()
        if self.options.repeats > 1:
            counts = lesson.inputs.ndim == 5
            kept = lesson._replace(inputs=lesson.inputs.clamp(max=255).byte() if counts else lesson.inputs.half())
            if len(self.kept) < KEPT:
                self.kept.append(kept)
            else:
                self.kept[int(self.rng.integers(KEPT))] = kept
        return lesson

    @torch.no_grad()
    def _new(self) -> Lesson:
        kind_of_window = self.rng.random()
        ends, long = kind_of_window < BEGINNINGS, kind_of_window > 1 - LONG
        side, view = self.view.side, self.view
        if self.teachers:
            view = dataclasses.replace(view, side=SENSOR)
        if long:
            view = view.longer(int(self.rng.choice(MULTIPLES)))
        frames, labels = batch(self.clips, self.options.batch, view, self.rng)
        if ends:
            frames = frames[: int(self.rng.choice(ENDS))]
        target = F.one_hot(labels, CLASSES) * (1 - SMOOTHED) + SMOOTHED / CLASSES
        if self.teachers:
            said = sum(teacher(shrunk(frames, side)).softmax(1) for side, teacher in self.teachers) / len(self.teachers)
            target = torch.lerp(target, said, TRUST)
        return Lesson(self.networks.prepared(shrunk(frames, side)), target, labels)


def _quick(function: Callable[..., Any], options: argparse.Namespace) -> Callable[..., Any]:
    """Return `function` so that its calls on a GPU are replays of a graph a length, if graphs are wanted."""
    return rsnn.kernels.graphed(function, most=8) if options.graphs else function


@torch.no_grad()
def accuracies(networks: nn.Module, clips: Clips, side: int) -> list[float]:
    """Return the share of the clips that each classifier has right."""
    networks.eval()
    answers = [torch.cat(networks(frames_of(clip, side))).argmax(1).cpu() for clip in clips.events]
    networks.train()
    return (torch.stack(answers, 1) == torch.from_numpy(clips.labels)).float().mean(1).tolist()


@torch.no_grad()
def follow(average: nn.Module, networks: nn.Module) -> None:
    """Move the average of the weights on. (torch.optim.swa_utils would wait for the GPU in each step.)"""
    pairs = zip((*average.parameters(), *average.buffers()), (*networks.parameters(), *networks.buffers()), strict=True)
    moving, counting = [], []
    for pair in pairs:
        (moving if pair[0].is_floating_point() else counting).append(pair)
    torch._foreach_lerp_([own for own, _ in moving], [new.detach() for _, new in moving], 1 - AVERAGED)
    for own, new in counting:
        own.copy_(new)


def keep(kind: str, networks: Networks, output: Path) -> None:
    """Write the classifiers into `output/<name>/best`, over those that are there."""
    for name, member in zip(MODELS[kind], networks.members, strict=True):
        plain, member = rsnn.create_model(name), deepcopy(member).cpu()
        member.preprocessing = dataclasses.replace(
            member.preprocessing, window_ms=plain.preprocessing.window_ms, max_step_ms=MAX_STEP_MS
        )
        member.save_pretrained(output / name / "best")


def train(kind: str, output: Path, options: argparse.Namespace) -> None:
    """Train the networks of `kind` for the given minutes, into `output/<name>`."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    device = torch.empty(0, device=options.device).device  # with its number
    if device.type == "cuda":
        torch.cuda.set_device(device)
    networks = Networks(kind, options.start).to(device)
    average = deepcopy(networks)
    decayed = [p for p in networks.parameters() if p.ndim > 1]
    others = [p for p in networks.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=device.type == "cuda")
    clips = Clips(output / "clips", "train", device)
    validation = Clips(output / "clips", "validation", device)
    view = View(SIDE[kind], tuple(options.window))
    state_file = output / f"{kind}.pt"
    spent, passes = 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        networks.load_state_dict(state["networks"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        spent, passes = state["spent"], state["passes"]
    clips.refresh()
    while len(clips.seen) * (CLASSES + OTHERS) < options.least or not clips.of_class.all():
        time.sleep(1)
        clips.refresh()
    limit = 60 * options.minutes
    told = saved = time.monotonic()
    begin = told - spent
    loss_sum, right, shown = 0.0, torch.zeros(len(MODELS[kind]), device=device), 0
    networks.train()
    classify, lessons = _quick(networks, options), Lessons(networks, clips, view, options, rng)
    ends: deque[torch.cuda.Event] = deque()  # of the batches that the GPU may not be through with
    while (spent := time.monotonic() - begin) < limit:
        done = spent / limit
        rate = options.lr * (done / 0.05 if done < 0.05 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.05) / 0.95))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, options.lr / 100)
        inputs, target, labels = next(lessons)
        logits = classify(inputs)
        loss = sum(F.cross_entropy(scores, target) for scores in logits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        follow(average, networks)
        if device.type == "cuda":  # lest the work that waits for the GPU go on long after the time is over
            ends.append(torch.cuda.Event(blocking=True))
            ends[-1].record()
            if len(ends) > AHEAD:
                ends.popleft().synchronize()
        passes += options.batch
        loss_sum, shown = loss_sum + loss.detach(), shown + options.batch
        right += torch.stack([(scores.argmax(1) == labels).sum() for scores in logits])
        if time.monotonic() - told > 20:
            told = time.monotonic()
            share = ", ".join(f"{x:.3f}" for x in (right / shown).tolist())
            print(
                f"{kind}: {spent:.0f} of {limit:.0f} s, {passes} windows of {len(clips)} clips, right {share}, "
                f"loss {float(loss_sum) / shown * options.batch:.3f}",
                flush=True,
            )
            loss_sum, shown = 0.0, 0
            right.zero_()
            clips.refresh()
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            parts = {"networks": networks, "average": average, "optimizer": optimizer}
            state = {name: part.state_dict() for name, part in parts.items()} | {"passes": passes, "spent": spent}
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
            try:
                keep(kind, average, output)
            except rsnn.errors.RSNNError as error:
                print(f"{kind}: the weights so far were not kept: {error}", flush=True)
    keep(kind, average, output)
    validation.refresh()
    found = {}
    if len(validation):
        found["validation_last_state"] = accuracies(networks, validation, view.side)
        found["validation_average"] = accuracies(average, validation, view.side)
    for place, name in enumerate(MODELS[kind]):
        metrics = {part: right[place] for part, right in found.items()}
        metrics |= {"passes": passes, "clips": len(clips), "seed": options.seed}
        if len(validation):
            metrics["validation_clips"] = len(validation)
        (output / name / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"{name}: {metrics}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["cl"])
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, for each model")
    parser.add_argument(
        "--start", metavar="FOLDER", help="go on from FOLDER/<name>, or from the zoo where it is not there"
    )
    parser.add_argument(
        "--window",
        nargs=2,
        type=float,
        default=(0.5, 2.0),
        metavar=("SHORTEST", "LONGEST"),
        help="of the windows of 20 steps, in seconds; longer ones come besides",
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--teachers", nargs="+", default=[], metavar="NAME", help="checkpoints to learn from as well")
    parser.add_argument("--repeats", type=int, default=1, help="how often a batch is shown, on average")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--least", type=int, default=500, help="clips to wait for before the training begins")
    parser.add_argument("--most", type=int, metavar="CLIPS", help="to train with, about; without end by default")
    parser.add_argument("--validation", type=int, default=440, help="clips, eleven to a file; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--film", metavar="DEVICE", help="where clips are filmed; where the training is by default")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs")
    parser.add_argument("--simulators", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="processes that film")
    parser.add_argument("--threads", type=int, default=1, help="of each training on a CPU")
    options = parser.parse_args()
    if options.most is not None and options.most < max(options.least, 1):
        parser.error(f"--most {options.most} is less than --least {options.least}: the training would never begin")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: expected at least 1")
    film = options.film or options.device
    try:
        SimulatedGestures(1, device=film)[0]
    except rsnn.errors.RSNNError as error:
        parser.error(f"no clip can be filmed: {error}")
    (options.output / "clips").mkdir(parents=True, exist_ok=True)
    spawn = get_context("spawn")
    folder = options.output / "clips"
    common = (options.simulators, options.validation, options.seed, film, options.most)
    shares = [(folder, worker, *common) for worker in range(options.simulators)]
    cameras = [spawn.Process(target=simulate, args=share, daemon=True) for share in shares]
    trainings = [spawn.Process(target=train, args=(kind, options.output, options)) for kind in options.models]
    for process in (*cameras, *trainings):
        process.start()
    for process in track(trainings, "training"):
        process.join()
    for process in cameras:
        process.terminate()
    if failed := [kind for kind, process in zip(options.models, trainings, strict=True) if process.exitcode]:
        raise SystemExit(f"the training of {', '.join(failed)} failed")


if __name__ == "__main__":
    main()
