"""How a recording becomes the frames a checkpoint was trained on; it travels with the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from rsnn.data import Events, to_frames
from rsnn.data.frames import crop_to_shape
from rsnn.errors import InputError
from rsnn.nn.checks import check_positive

SplitBy = Literal["time", "number"]
Normalize = Literal["counts", "log1p", "binary", "clip", "per-sample"]

# Numbers in the frames of one recording: 2**28 are 1 GiB, or 145 steps of 1280 x 720 pixels.
_LARGEST_RECORDING = 2**28


@dataclass(frozen=True)
class Preprocessing:
    """The steps from events to the input of a network.

    Attributes:
        frame_size: (height, width) of the frames.
        num_frames: T, the time steps a recording is cut into.
        split_by: `"time"` for steps of equal duration (the paper's), `"number"` for equal numbers of events.
        normalize: what the network sees of a count: `"counts"` itself, `"log1p"` its log(1 + count), `"binary"`
            whether it is above zero, `"clip"` at most `clip_at`, `"per-sample"` its ratio to the mean of the
            recording's counts above zero. Models apply it inside `forward`, so frames of counts are what they take.
            The last needs the whole recording at once: such a model can neither go on from a state nor follow a stream.
        window_ms: the usual duration of the recordings trained on, in milliseconds: what a stream, which has no end,
            takes for one; None where it is not known.
        clip_at: the largest count that the network sees, for `normalize="clip"` and None otherwise.
        max_step_ms: the longest that a time step may last, in milliseconds, for `split_by="time"`: a recording longer
            than `num_frames * max_step_ms` is cut into 2, 3, ... times `num_frames` steps, the fewest of which none is
            longer. None cuts every recording into `num_frames`.

    """

    frame_size: tuple[int, int] = (128, 128)
    num_frames: int = 20
    split_by: SplitBy = "time"
    normalize: Normalize = "counts"
    window_ms: int | None = None
    clip_at: int | None = None
    max_step_ms: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.frame_size, tuple | list) or len(self.frame_size) != 2:
            raise InputError(f"frame_size={self.frame_size!r}: expected (height, width)")
        height, width = self.frame_size
        check_positive(height=height, width=width, num_frames=self.num_frames)
        if self.num_frames * 2 * height * width > _LARGEST_RECORDING:
            raise InputError(
                f"num_frames={self.num_frames} of frame_size={self.frame_size!r} are more than {_LARGEST_RECORDING} "
                "numbers for each recording; expected fewer or smaller frames"
            )
        object.__setattr__(self, "frame_size", (height, width))
        if self.split_by not in get_args(SplitBy):
            raise InputError(f"split_by={self.split_by!r}: expected one of {get_args(SplitBy)}")
        if self.normalize not in get_args(Normalize):
            raise InputError(f"normalize={self.normalize!r}: expected one of {get_args(Normalize)}")
        if self.window_ms is not None:
            check_positive(window_ms=self.window_ms)
        if self.clip_at is not None:
            check_positive(clip_at=self.clip_at)
        if (self.normalize == "clip") != (self.clip_at is not None):
            raise InputError(
                f"normalize={self.normalize!r} with clip_at={self.clip_at!r}: expected clip_at, the largest count, "
                "with normalize='clip' and without it otherwise"
            )
        if self.max_step_ms is not None:
            check_positive(max_step_ms=self.max_step_ms)
            if self.split_by != "time":
                raise InputError(
                    f"max_step_ms={self.max_step_ms!r} with split_by={self.split_by!r}: expected split_by='time', for "
                    "steps of equal numbers of events have no duration to choose; or max_step_ms=None"
                )

    def frames(self, events: Events) -> Float[Tensor, "T 2 H W"]:
        """Cut a recording into frames of counts (T, 2, height, width), float32; T is `num_steps(events)`.

        A recording of the frames' size is taken as it is. A larger one of the same shape is scaled by adding events
        into the coarser grid; of another shape, its largest centred crop of the frames' shape is (346 x 260 for a
        128 x 128 model: the centred 260 x 260, columns 43 to 302). A smaller one would have to be made up, and is
        refused.

        Raises:
            InputError: the sensor is smaller than the frames, the crop holds no event, or the recording is too long.

        """
        inside = self.cropped(events)
        if len(events) and not len(inside):
            raise InputError(
                f"the recording has no events in the centred {inside.sensor_size[0]} x {inside.sensor_size[1]} pixels "
                "of its sensor"
            )
        steps = self.steps_in(inside.duration_us)
        counts = to_frames(inside, steps, self.split_by, size=self.frame_size, dtype="float32")
        return torch.from_numpy(counts)

    def num_steps(self, events: Events) -> int:
        """Return T, the steps that `frames` cuts a recording into.

        Raises:
            InputError: the sensor is smaller than the frames, or the recording is too long.

        """
        return self.steps_in(self.cropped(events).duration_us)

    def steps_in(self, duration_us: int) -> int:
        """Return the steps that a recording, or a stream's window, of so many microseconds is cut into.

        Raises:
            InputError: its frames would be too many numbers.

        """
        if self.max_step_ms is None:
            return self.num_frames
        height, width = self.frame_size
        longest_us = 1000 * self.num_frames * self.max_step_ms  # of num_frames steps
        steps = self.num_frames * max(-(-duration_us // longest_us), 1)
        if steps * 2 * height * width > _LARGEST_RECORDING:
            most = _LARGEST_RECORDING // (2 * height * width * self.num_frames)
            raise InputError(
                f"{duration_us / 1e6:.6g} s in steps of at most max_step_ms={self.max_step_ms} are {steps} frames of "
                f"{width} x {height}, more than {_LARGEST_RECORDING} numbers; expected at most "
                f"{most * longest_us / 1e6:.6g} s: cut the recording with events.between(start_us, end_us), or follow "
                "it with model.stream(), whose windows may follow each other without end"
            )
        return steps

    def cropped(self, events: Events) -> Events:
        """Return the events, none perhaps, within the largest centred crop of the sensor with the frames' shape.

        Raises:
            InputError: the sensor is smaller than the frames.

        """
        sensor_width, sensor_height = events.sensor_size
        if (sensor_height, sensor_width) == self.frame_size:
            return events
        return crop_to_shape(events, *self.frame_size)

    def normalized(self, frames: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Apply `normalize` to frames of counts (T, N, 2, H, W), or of one recording (T, 2, H, W).

        Args:
            frames: the counts.
            out: where to write the result, for `normalize="log1p"`.

        """
        if self.normalize == "log1p":
            # Of counts the logarithm is exact, and on a CPU it takes a sixth of the time of log1p.
            return torch.log1p(frames, out=out) if frames.is_cuda else torch.add(frames, 1, out=out).log_()
        if self.normalize == "binary":
            return (frames > 0).to(frames.dtype)
        if self.normalize == "clip":
            return frames.clamp(max=self.clip_at)
        if self.normalize == "per-sample":
            of_one = tuple(axis for axis in range(frames.ndim) if frames.ndim < 5 or axis != 1)
            above = (frames > 0).sum(of_one, keepdim=True)
            wide = torch.promote_types(frames.dtype, torch.float32)  # float16 ends at 65504 events
            return frames * (above / frames.sum(of_one, keepdim=True, dtype=wide).clamp(min=1)).to(frames.dtype)
        return frames
