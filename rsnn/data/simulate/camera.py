"""Simulate an event camera: frames in, `Events` out."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.checks import check_whole, is_number
from rsnn.data.events import Events
from rsnn.data.simulate.footage import LUMA, check_array, check_fps, read_frames
from rsnn.data.simulate.parameters import DVSParameters, resolve_parameters
from rsnn.data.simulate.pixels import DVSPixels, PixelEvents, check_memory, join
from rsnn.data.simulate.readout import Readout
from rsnn.errors import InputError, shown

LATEST_US = 1 << 53  # before or after 0, up to which floats hold whole microseconds
LONGEST_US = 24 * 3_600_000_000  # from one frame to the next
ONE_AS_BITS = int(np.float32(1).view(np.uint32))

Frames = str | os.PathLike[str] | Iterable[tuple[npt.NDArray[Any], int]] | Iterable[npt.NDArray[Any]]


def to_events(
    frames: Frames,
    parameters: DVSParameters | str = "dvs128",
    *,
    fps: float | None = None,
    seed: int | tuple[int, ...] = 0,
) -> Events:
    """Return the events that a DVS sees in a sequence of frames.

    Brightness runs straight in log intensity from frame to frame, so frames should be close enough for an edge to
    move about a pixel from one to the next: 200 to 1,000 frames a second for moving hands. Only one frame is kept.

    Args:
        frames: a video, an animated picture or a folder of images (see `read_frames`, which can also rescale them);
            or pairs of an image and its time in whole microseconds, which increase, by a day at most; or images alone,
            if `fps` says their rate. An image is (H, W) or (H, W, 3) in RGB, uint8 (0 to 255) or float (0 to 1), and
            proportional to the light. At least one.
        parameters: of the pixels, or the name of a preset: "clean", "noisy" or "dvs128".
        fps: frames a second; for a file in place of its own.
        seed: of mismatch and noise: the same seed and frames give the same events.

    Returns:
        Events from the first frame's time to the last one's, sensor_size = (W, H).

    Raises:
        InputError: a frame, a time, `fps` or `seed` is not as above, or memory cannot hold so many pixels.
        UnknownNameError: there is no such preset.

    """
    (events,) = _simulate(frames, parameters, fps, seed, math.inf)
    return events


def iter_events(
    frames: Frames,
    parameters: DVSParameters | str = "dvs128",
    *,
    fps: float | None = None,
    seed: int | tuple[int, ...] = 0,
    piece_us: float = 100_000,
) -> Iterator[Events]:
    """Yield the events of a long or endless sequence of frames in pieces, as they come.

    Arguments are those of `to_events`. Pieces end at the first frame `piece_us` or more after the last one's end; they
    may hold no events. The pixels see the same as in one piece; the readout's chances fall differently.

    Raises:
        InputError: `piece_us` is not positive; and when it is reached, what `to_events` refuses.
        UnknownNameError: there is no such preset; raised with the first piece.

    """
    if not is_number(piece_us) or not piece_us > 0:
        raise InputError(f"piece_us is {shown(piece_us)}; expected a positive number of microseconds")
    return _simulate(frames, parameters, fps, seed, piece_us)


def _simulate(
    frames: Frames, parameters: DVSParameters | str, fps: float | None, seed: int | tuple[int, ...], piece_us: float
) -> Iterator[Events]:
    chosen = resolve_parameters(parameters)
    pixel_seed, readout_seed = np.random.SeedSequence(_check_seed(seed)).spawn(2)
    pixels: DVSPixels | None = None
    readout: Readout | None = None
    parts: list[PixelEvents] = []
    start_us = last_us = 0
    for number, (image, time) in enumerate(_timed(frames, fps)):
        time_us = _check_time(time, number)
        frame = _check_frame(image, number, pixels.shape if pixels else None)
        if pixels is None or readout is None:
            shape = (frame.shape[0], frame.shape[1])
            check_memory(shape)
            pixels = DVSPixels(shape, chosen, np.random.default_rng(pixel_seed))
            readout = Readout(shape, chosen, np.random.default_rng(readout_seed))
            start_us = time_us
        elif time_us <= last_us:
            raise InputError(
                f"frame {number} is at {time_us} us and the one before at {last_us} us; expected times that increase"
            )
        elif time_us - last_us > LONGEST_US:
            raise InputError(
                f"frame {number} is at {time_us} us and the one before at {last_us} us, more than a day apart; "
                "expected times in microseconds that all count from the same moment"
            )
        last_us = time_us
        parts += pixels.advance(frame, time_us)
        if last_us - start_us >= piece_us:
            yield deliver(readout, parts, start_us, last_us)
            start_us, parts = last_us, []
    if readout is None:
        raise InputError("there are no frames; expected pairs of an image and its time in microseconds")
    # What is still on its way when the last frame ends is not in the recording.
    if last_us > start_us or math.isinf(piece_us):
        yield deliver(readout, parts, start_us, last_us)


def deliver(readout: Readout, parts: list[PixelEvents], start_us: int, end_us: int) -> Events:
    """Return what the readout sends until `end_us` of what the pixels did."""
    H, W = readout.shape
    sent = readout.deliver(join(parts), end_us)
    t = np.clip(np.rint(sent.t), start_us, end_us).astype(np.int64)
    row = sent.pixel // W
    x, y = (sent.pixel - row * W).astype(np.uint16), row.astype(np.uint16)
    return Events(t=t, x=x, y=y, p=sent.p, sensor_size=(W, H))


def _timed(frames: Frames, fps: float | None) -> Iterable[tuple[npt.NDArray[Any], int]]:
    if isinstance(frames, str | os.PathLike):
        return read_frames(frames, fps=fps)
    if not isinstance(frames, Iterable):
        raise InputError(
            f"frames is {shown(frames)}; expected a file or folder, pairs of an image and its time in microseconds, "
            "or images with fps="
        )
    return _pairs(frames) if fps is None else _images(frames, 1e6 / check_fps(fps))


def _pairs(frames: Iterable[Any]) -> Iterator[tuple[npt.NDArray[Any], int]]:
    for number, pair in enumerate(frames):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"frame {number} is of type {type(pair).__name__}; expected a pair of an image and its time in "
                "microseconds, or images alone with fps="
            )
        yield pair[0], pair[1]


def _images(frames: Iterable[Any], step_us: float) -> Iterator[tuple[npt.NDArray[Any], int]]:
    for number, image in enumerate(frames):
        if isinstance(image, tuple | list) and len(image) == 2 and np.ndim(image[1]) == 0:
            raise InputError(
                f"frame {number} is a pair with a time of its own, and fps is given; expected images alone with fps=, "
                "or pairs of an image and its time in microseconds without"
            )
        yield image, round(number * step_us)


def _check_time(time: object, number: int) -> int:
    try:
        time_us = operator.index(time)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"the time of frame {number} is {time!r}; expected whole microseconds, such as int(seconds * 1e6)"
        ) from None
    if abs(time_us) > LATEST_US:
        raise InputError(
            f"the time of frame {number} is {time_us}; expected microseconds between {-LATEST_US} and {LATEST_US}"
        )
    return time_us


def _check_frame(image: npt.NDArray[Any], number: int, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
    try:
        frame = np.asarray(image)
    except Exception as error:  # what other libraries raise when they are asked for an array
        raise InputError(f"frame {number} is no array ({error}); expected (H, W), or (H, W, 3)") from error
    check_array(frame, f"frame {number}")
    if shape is not None and frame.shape[:2] != shape:
        raise InputError(f"frame {number} has shape {frame.shape[:2]} and the first one {shape}; expected one size")
    if frame.dtype == np.uint8:
        return frame if frame.ndim == 2 else (frame @ LUMA) / np.float32(255)
    frame32 = np.ascontiguousarray(frame, dtype=np.float32)
    # As whole numbers the bits of 0 to 1 are the least, so one fast pass shows that all is well; -0.0 looks bad there.
    if frame32.view(np.uint32).max() > ONE_AS_BITS and not (frame.min() >= 0 and frame.max() <= 1):
        raise InputError(
            f"frame {number} holds values from {frame.min()} to {frame.max()}; expected floats between 0 and 1: "
            "divide by the largest intensity"
        )
    return frame32 if frame.ndim == 2 else frame32 @ LUMA


def _check_seed(seed: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return a seed as plain whole numbers.

    Raises:
        InputError: it is none, or below 0.

    """
    if isinstance(seed, tuple | list):
        return tuple(check_whole("seed", part, 0) for part in seed)
    return check_whole("seed", seed, 0)
