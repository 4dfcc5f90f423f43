"""Frames of random windows of clips, seen through random sensors; on a GPU by the kernels of `gesture_windows.cu`."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gesture_clips import CLASSES, SLICE, TICK_US, Clips
from torch import Tensor

from rsnn.kernels import cuda, gpu

STEPS = 20
MAX_STEP_MS = 100  # what lasts longer than STEPS of these is cut into 2, 3, ... times as many steps
WHOLE_S = (100.0, 100.0)  # seconds of a window: all there is of a clip
MIRRORED = torch.tensor([0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10])  # what a class is in a mirror


@dataclass(frozen=True)
class View:
    """How clips are seen.

    Attributes:
        side: of the frames.
        window_s: shortest and longest window in seconds.
        steps: of a window.
        distorted: share of the windows that are distorted. Networks should be best at what recordings look like, and
            cope with the rest.

    """

    side: int
    window_s: tuple[float, float]
    steps: int = STEPS
    distorted: float = 0.5

    def longer(self, multiple: int) -> View:
        """Return the view of windows that need `multiple` times the steps."""
        shortest = (multiple - 1) * STEPS * MAX_STEP_MS / 1000
        window_s = (shortest, shortest + STEPS * MAX_STEP_MS / 1000)
        return dataclasses.replace(self, window_s=window_s, steps=multiple * STEPS)


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
    u, augmented = rng.uniform, rng.random(size) < view.distorted
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
    """Return what `_seen` does by the kernels of `gesture_windows.cu`, and `target`, on the words' device."""
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
