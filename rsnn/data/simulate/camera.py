"""Simulate an event camera: frames in, `Events` out."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import Events
from rsnn.data.simulate.parameters import DVSParameters, resolve_parameters
from rsnn.data.simulate.pixels import DVSPixels, PixelEvents, join
from rsnn.data.simulate.readout import read_out
from rsnn.errors import InputError


def to_events(
    frames: Iterable[tuple[npt.NDArray[Any], int]],
    parameters: DVSParameters | str = "dvs128",
    *,
    seed: int | tuple[int, ...] = 0,
) -> Events:
    """Return the events that a DVS sees in a sequence of frames.

    Brightness runs straight in log intensity from frame to frame, so frames should be close enough for an edge to
    move about a pixel from one to the next: 200 to 1,000 frames a second for moving hands. Only one frame is kept.

    Args:
        frames: pairs of an image (H, W), uint8 (0 to 255) or float (0 to 1), and its time in whole microseconds;
            times increase. At least one pair.
        parameters: of the pixels, or the name of a preset: "clean", "noisy" or "dvs128".
        seed: of mismatch and noise: the same seed and frames give the same events.

    Returns:
        Events from the first frame's time to the last one's, sensor_size = (W, H).

    Raises:
        InputError: a frame or a time is not as above.
        UnknownNameError: there is no such preset.

    """
    chosen = resolve_parameters(parameters)
    pixel_seed, readout_seed = np.random.SeedSequence(seed).spawn(2)
    pixels: DVSPixels | None = None
    parts: list[PixelEvents] = []
    first_us = last_us = 0
    for number, (image, time) in enumerate(frames):
        time_us = _check_time(time, number)
        frame = _check_frame(image, number, pixels.shape if pixels else None)
        if pixels is None:
            pixels = DVSPixels((frame.shape[0], frame.shape[1]), chosen, np.random.default_rng(pixel_seed))
            first_us = time_us
        elif time_us <= last_us:
            raise InputError(
                f"frame {number} is at {time_us} us and the one before at {last_us} us; expected times that increase"
            )
        last_us = time_us
        parts += pixels.advance(frame, time_us)
    if pixels is None:
        raise InputError("there are no frames; expected pairs of an image and its time in microseconds")
    H, W = pixels.shape
    if not parts:
        return Events.empty((W, H))
    sent = read_out(join(parts), (H, W), chosen, np.random.default_rng(readout_seed))
    # What is still on its way when the last frame ends is not in the recording.
    number = int(np.searchsorted(sent.t, last_us, side="right"))
    t = np.clip(np.rint(sent.t[:number]), first_us, last_us).astype(np.int64)
    y, x = np.divmod(sent.pixel[:number], W)
    return Events(t=t, x=x, y=y, p=sent.p[:number], sensor_size=(W, H))


def _check_time(time: object, number: int) -> int:
    try:
        return operator.index(time)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"the time of frame {number} is {time!r}; expected whole microseconds, such as int(seconds * 1e6)"
        ) from None


def _check_frame(image: npt.NDArray[Any], number: int, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
    frame = np.asarray(image)
    if frame.ndim != 2 or 0 in frame.shape:
        raise InputError(
            f"frame {number} has shape {frame.shape}; expected (H, W): average the colours of an image first"
        )
    if shape is not None and frame.shape != shape:
        raise InputError(f"frame {number} has shape {frame.shape} and the first one {shape}; expected one size")
    if frame.dtype == np.uint8:
        return frame
    if frame.dtype.kind != "f":
        raise InputError(f"frame {number} holds {frame.dtype} values; expected uint8 (0 to 255) or float (0 to 1)")
    # One pass finds bad values: NaN fails the comparison as well.
    if not (frame.min() >= 0 and frame.max() <= 1):
        raise InputError(
            f"frame {number} holds values from {frame.min()} to {frame.max()}; expected floats between 0 and 1: "
            "divide by the largest intensity"
        )
    return frame.astype(np.float32, copy=False)
