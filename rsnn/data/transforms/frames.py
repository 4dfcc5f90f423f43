"""Changes of frames, and what makes frames of events.

Letters: N recordings of a batch, T frames, H height, W width, K classes. Frames are tensors (T, 2, H, W) of any type,
which what comes back has too; all frames of a recording change alike. What comes in from outside is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rsnn.data.events import Events
from rsnn.data.frames import check_dtype, check_num_frames, check_split_by, crop_to_shape, to_frames
from rsnn.data.transforms.base import Transform, check_range
from rsnn.data.transforms.events import check_mirror, check_shape
from rsnn.errors import InputError

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


@dataclass(frozen=True)
class ToFrames(Transform):
    """Make frames of events, as `to_frames` does.

    Attributes:
        num_frames: T.
        split_by: "time" or "number".
        size: (H, W); by default the sensor's.
        dtype: "uint8", "uint16", "uint32" or "float32", of all recordings: batches have one type.

    """

    num_frames: int = 20
    split_by: str = "time"
    size: tuple[int, int] | None = None
    dtype: str = "uint16"

    def __post_init__(self) -> None:
        check_num_frames(self.num_frames)
        check_split_by(self.split_by)
        object.__setattr__(self, "dtype", check_dtype(self.dtype).name)
        if self.size is not None:
            check_shape(self, self.size)

    def __call__(self, events: Events, rng: np.random.Generator) -> Tensor:  # noqa: ARG002 - nothing is random here
        inside = events if self.size is None else crop_to_shape(events, *self.size)
        return torch.from_numpy(to_frames(inside, self.num_frames, self.split_by, size=self.size, dtype=self.dtype))


@dataclass(frozen=True)
class ShiftFrames(Transform):
    """Move the picture by a random number of whole pixels.

    Attributes:
        most: the largest shift either way, as a share of H and W.

    """

    most: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, 0, 1, most=self.most)

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        H, W = check_frames(self, frames)
        dy, dx = (int(rng.integers(-int(self.most * side), int(self.most * side) + 1)) for side in (H, W))
        moved = torch.zeros_like(frames)
        moved[..., max(dy, 0) : H + min(dy, 0), max(dx, 0) : W + min(dx, 0)] = frames[
            ..., max(-dy, 0) : H + min(-dy, 0), max(-dx, 0) : W + min(-dx, 0)
        ]
        return moved


@dataclass(frozen=True)
class ScaleFrames(Transform):
    """Zoom about the middle by a random factor; each pixel takes the nearest one's counts.

    Attributes:
        lowest: least factor.
        highest: greatest factor; any between is as likely, on a logarithmic scale.

    """

    lowest: float = 0.8
    highest: float = 1.25

    def __post_init__(self) -> None:
        check_range(self, 1e-2, 1e2, lowest=self.lowest, highest=self.highest)
        check_range(self, self.lowest, 1e2, highest=self.highest)

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        factor = math.exp(rng.uniform(math.log(self.lowest), math.log(self.highest)))
        return resampled(self, frames, np.eye(2) / factor)


@dataclass(frozen=True)
class RotateFrames(Transform):
    """Turn the picture about its middle by a random angle; each pixel takes the nearest one's counts.

    Attributes:
        most_degrees: the largest angle either way.

    """

    most_degrees: float = 15.0

    def __post_init__(self) -> None:
        check_range(self, 0, 180, most_degrees=self.most_degrees)

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        angle = math.radians(rng.uniform(-self.most_degrees, self.most_degrees))
        cos, sin = math.cos(angle), math.sin(angle)
        return resampled(self, frames, np.array([[cos, sin], [-sin, cos]]))


@dataclass(frozen=True)
class FlipFrames(Transform):
    """Mirror left and right, and the class with it.

    Attributes:
        probability: of the mirror image.
        labels: what a class becomes, as for `Flip`.

    """

    probability: float = 0.5
    labels: Mapping[int, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_range(self, 0, 1, probability=self.probability)
        check_mirror(self, self.labels)

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        return self.with_label(frames, 0, rng)[0]

    def with_label(self, frames: Tensor, label: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        check_frames(self, frames)
        if rng.random() >= self.probability:
            return frames, label
        return _signed(frames).flip(-1).view(frames.dtype), self.labels.get(label, label)


@dataclass(frozen=True)
class Cutout(Transform):
    """Set random rectangles of all frames to zero.

    Attributes:
        most: the largest share of H and of W that a rectangle takes.
        number: how many.

    """

    most: float = 0.3
    number: int = 1

    def __post_init__(self) -> None:
        check_range(self, 0, 1, most=self.most)
        check_range(self, 0, 1000, number=self.number)

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        sides = check_frames(self, frames)
        cut = frames.clone()
        for _ in range(int(self.number)):
            rows, columns = (_stretch(rng.uniform(0, self.most), side, rng) for side in sides)
            cut[..., rows, columns] = 0
        return cut


@dataclass(frozen=True)
class MixUp:
    """Mix each recording of a batch with another one, and their classes in the same ratio.

    After Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. Called as
    `mix(frames, labels, num_classes, rng)` with frames (N, T, 2, H, W) and labels (N,); returns the mixed frames,
    float32, and the share of each class (N, K).

    Attributes:
        alpha: of the Beta(alpha, alpha) that shares are drawn from; the smaller, the less is mixed.

    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_range(self, 1e-6, 1e6, alpha=self.alpha)

    def __call__(
        self, frames: Tensor, labels: Tensor, num_classes: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        targets = _one_hot(self, frames, labels, num_classes)
        partner = torch.from_numpy(rng.permutation(len(frames))).to(frames.device)
        share = torch.from_numpy(rng.beta(self.alpha, self.alpha, len(frames))).to(frames.device, torch.float32)
        kept, mixed = frames.to(torch.float32), share.view(-1, *(1,) * (frames.ndim - 1))
        weight = share.unsqueeze(1)
        return kept * mixed + kept[partner] * (1 - mixed), targets * weight + targets[partner] * (1 - weight)


@dataclass(frozen=True)
class CutMix:
    """Replace a random box of time and place in each recording of a batch by the same box of another one.

    After Yun et al., "CutMix", ICCV 2019, with what suits events: the box has an extent in time as well, and classes
    are mixed in the ratio of the events that are left of each recording, since an empty corner says nothing of a class.
    Called as `MixUp` is; the frames that come back have the type of those that came in.

    Attributes:
        alpha: of the Beta(alpha, alpha) that the box's share of time and place is drawn from.

    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, 1e-6, 1e6, alpha=self.alpha)

    def __call__(
        self, frames: Tensor, labels: Tensor, num_classes: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        targets = _one_hot(self, frames, labels, num_classes)
        partner = rng.permutation(len(frames))
        _, T, _, H, W = frames.shape
        mixed, weight = frames.clone(), torch.ones(len(frames), 1)
        for index, other in enumerate(partner.tolist()):
            side = rng.beta(self.alpha, self.alpha) ** (1 / 3)  # of a box that has that share of time x height x width
            times, rows, columns = (_stretch(side, length, rng) for length in (T, H, W))
            box = (times, slice(None), rows, columns)
            mixed[(index, *box)] = frames[(other, *box)]
            total = float(mixed[index].sum(dtype=torch.float64))
            taken = float(frames[(other, *box)].sum(dtype=torch.float64))
            weight[index] = 1 - taken / total if total else 1.0
        weight = weight.to(frames.device)
        return mixed, targets * weight + targets[torch.from_numpy(partner).to(frames.device)] * (1 - weight)


def resampled(what: object, frames: Tensor, matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Tensor:
    """Return frames whose pixel at (y, x) from the middle is the old one nearest to matrix (y, x)."""
    H, W = check_frames(what, frames)
    rows, columns = np.mgrid[:H, :W].reshape(2, -1) - np.array([[(H - 1) / 2], [(W - 1) / 2]])
    places = matrix @ np.stack((rows, columns)) + np.array([[(H - 1) / 2], [(W - 1) / 2]])
    # A hair towards the origin, so that places half-way between two pixels do not depend on rounding errors.
    y, x = np.floor(places + 0.5 - 1e-9).astype(np.int64)
    inside = torch.from_numpy((y >= 0) & (y < H) & (x >= 0) & (x < W))
    source = torch.from_numpy(np.clip(y, 0, H - 1) * W + np.clip(x, 0, W - 1))
    flat = _signed(frames).flatten(-2)
    return (flat[..., source.to(frames.device)] * inside.to(frames.device)).view(frames.dtype).view(frames.shape)


def check_frames(what: object, frames: Tensor) -> tuple[int, int]:
    """Return H and W of frames (T, 2, H, W).

    Raises:
        InputError: the tensor is no such frames.

    """
    if not isinstance(frames, Tensor) or frames.ndim != 4 or frames.shape[1] != 2:
        shape = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        raise InputError(f"{type(what).__name__}: got {shape}; expected a tensor of frames (T, 2, H, W): see ToFrames")
    return frames.shape[2], frames.shape[3]


def _signed(frames: Tensor) -> Tensor:
    """Return the same bits as a type that torch can index and multiply: it can do little with wide unsigned ones."""
    return frames.view(_SIGNED[frames.dtype]) if frames.dtype in _SIGNED else frames


def _stretch(share: float, length: int, rng: np.random.Generator) -> slice:
    """Return a random stretch of about `share` of `length` places."""
    taken = min(round(share * length), length)
    begin = int(rng.integers(length - taken + 1))
    return slice(begin, begin + taken)


def _one_hot(what: object, frames: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    if frames.ndim != 5 or frames.shape[2] != 2 or labels.shape != (len(frames),):
        raise InputError(
            f"{type(what).__name__}: got frames {tuple(frames.shape)} and labels {tuple(labels.shape)}; expected "
            "(N, T, 2, H, W) and (N,)"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise InputError(
            f"{type(what).__name__}: labels run from {int(labels.min())} to {int(labels.max())}; expected 0 to "
            f"{num_classes - 1}"
        )
    return torch.nn.functional.one_hot(labels.long(), num_classes).to(torch.float32)
