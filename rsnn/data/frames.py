"""From events to frames: every event is added to one pixel of one frame.

Letters: n events, T frames, H height, W width; frames are (T, 2, H, W), channel 0 darker (p = 0), channel 1
brighter.
"""

from __future__ import annotations

import operator
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import Events, check_events
from rsnn.errors import InputError, suggest

SPLITS = ("time", "number")
FRAME_DTYPES = ("uint8", "uint16", "uint32", "float32")
POLARITIES = 2
LARGE_SHARE = 4  # what a batch's frames may take of the memory without a word: a network keeps several times as much


def to_frames(
    events: Events,
    num_frames: int = 20,
    split_by: str = "time",
    *,
    span_us: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    dtype: npt.DTypeLike = "uint16",
) -> npt.NDArray[Any]:
    """Add up events into a sequence of frames; every event is counted exactly once.

    With `split_by="time"` the span from the first event to the last is cut into `num_frames` equal durations,
    as in the RSNN paper: frame k holds t_first + k D / T <= t < t_first + (k + 1) D / T with D = t_last -
    t_first, exactly (no rounding to whole microseconds), and the last frame holds the last event as well.
    With `split_by="number"` frame k holds the events [k (n // T), (k + 1) (n // T)) and the last frame the
    remainder as well, as in SpikingJelly. A frame without events is all zeros. If all events share one time,
    they all fall in the first frame (time has no extent to divide).

    Args:
        events: the n events.
        num_frames: T, at least 1.
        split_by: "time" or "number".
        span_us: (start, end) to divide instead of the span from the first event to the last, for windows of a
            stream; no event may lie outside it. For `split_by="time"` only.
        size: (height, width) to rescale to by adding the events into the coarser grid: pixel (y, x) of the
            sensor falls in (y * height // sensor height, x * width // sensor width). At most the sensor's own
            size, the default.
        dtype: "uint8", "uint16", "uint32" or "float32"; counts are exact in all of them.

    Returns:
        Counts of shape (T, 2, H, W).

    Raises:
        InputError: an argument is not one of the above, a pixel's count does not fit in `dtype`, or the frames do not
            fit in memory.

    """
    check_events(events, "to_frames")
    T = check_num_frames(num_frames)
    kind = check_dtype(dtype)
    H, W = check_size(size, events.sensor_size)
    check_memory(T, H, W, kind)
    try:
        frames = np.empty((T, POLARITIES * H * W), dtype=kind)
    except (MemoryError, ValueError) as error:
        raise _too_large(T, H, W, kind) from error
    edges = _edges(events.t, T, split_by, span_us)
    pixel = pixel_index(events, H, W)
    largest = _largest_count(kind)
    for k in range(T):
        counts = np.bincount(pixel[edges[k] : edges[k + 1]], minlength=POLARITIES * H * W)
        if edges[k + 1] - edges[k] > largest and counts.max() > largest:
            raise InputError(
                f"frame {k} counts {counts.max()} events at one pixel and {kind} holds at most {largest}; "
                "use more frames, or dtype='float32' or 'uint32'"
            )
        frames[k] = counts
    return frames.reshape(T, POLARITIES, H, W)


def check_memory(T: int, H: int, W: int, kind: np.dtype[Any]) -> None:
    """Check that this machine has the memory for frames: a system that promises more ends the process that uses it.

    Raises:
        InputError: it has less.

    """
    there = memory_bytes()
    if there is not None and frames_bytes(T, H, W, kind) > there:
        raise _too_large(T, H, W, kind)


def memory_warning(T: int, H: int, W: int, batch_size: int) -> str | None:
    """Return what to say of batches of frames, as networks take them, that take much of this machine's memory."""
    kind = np.dtype(np.float32)
    there, one = memory_bytes(), frames_bytes(T, H, W, kind)
    if there is None or batch_size * one * LARGE_SHARE <= there:
        return None
    return (
        f"{T} frames of {W} x {H} pixels take {one / 1e9:,.1f} GB as {kind} and a batch of {batch_size} recordings "
        f"{batch_size * one / 1e9:,.1f} GB, of {there / 1e9:,.1f} GB of memory; fewer or smaller frames, or fewer "
        "recordings in a batch, take less"
    )


def frames_bytes(T: int, H: int, W: int, kind: np.dtype[Any]) -> int:
    """Return how many bytes frames (T, 2, H, W) of a type take."""
    return T * POLARITIES * H * W * kind.itemsize


def memory_bytes() -> int | None:
    """Return how many bytes of memory this machine has, `None` where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # as on Windows
        return None


def _too_large(T: int, H: int, W: int, kind: np.dtype[Any]) -> InputError:
    return InputError(
        f"{T} frames of {W} x {H} pixels take {frames_bytes(T, H, W, kind):,} bytes as {kind}, more than there are; "
        "expected fewer frames, or smaller ones: size=(height, width)"
    )


def check_polarities(model: object) -> None:
    """Check that a model whose encoder says how many channels it takes can have the frames of recordings.

    Raises:
        InputError: it takes another number than there are polarities.

    """
    channels = getattr(getattr(model, "encoder", None), "in_channels", None)
    if channels not in (None, POLARITIES):
        raise InputError(
            f"this {type(model).__name__} takes frames of {channels} channels, and a recording becomes frames of "
            f"{POLARITIES} (darker, brighter); expected frames (T, {channels}, H, W) that you made of it, or a "
            f"model with in_channels={POLARITIES}"
        )


def crop_to_shape(events: Events, height: int, width: int) -> Events:
    """Return the events within the largest centred crop of the sensor that has the shape height : width.

    Raises:
        InputError: the sensor is smaller than height x width.

    """
    sensor_width, sensor_height = events.sensor_size
    if sensor_height < height or sensor_width < width:
        raise InputError(
            f"the recording's sensor is {sensor_width} x {sensor_height}, smaller than the model's frames of "
            f"{width} x {height}; expected at least that size. If the sensor really is larger, say so: "
            "sensor_size=(width, height) in read_events, --sensor-size in `rsnn convert` and `rsnn watch`"
        )
    scale = min(sensor_height / height, sensor_width / width)
    crop_height, crop_width = round(height * scale), round(width * scale)
    if (crop_height, crop_width) == (sensor_height, sensor_width):
        return events
    top, left = (sensor_height - crop_height) // 2, (sensor_width - crop_width) // 2
    x, y = events.x.astype(np.int64) - left, events.y.astype(np.int64) - top
    inside = (x >= 0) & (x < crop_width) & (y >= 0) & (y < crop_height)
    return Events(
        t=events.t[inside],
        x=x[inside].astype(np.uint16),
        y=y[inside].astype(np.uint16),
        p=events.p[inside],
        sensor_size=(crop_width, crop_height),
    )


def _edges(t: npt.NDArray[np.int64], T: int, split_by: str, span_us: tuple[int, int] | None) -> list[int]:
    """Return the T + 1 event indices between which the frames lie."""
    n = t.size
    if check_split_by(split_by) == "number":
        if span_us is not None:
            raise InputError("span_us divides time; expected split_by='time' with it")
        return [k * (n // T) for k in range(T)] + [n]
    if n == 0:
        return [0] * (T + 1)
    first, last = _check_span(span_us, int(t[0]), int(t[-1]))
    if first == last:
        return [0] + [n] * T
    # t - first >= k D / T for whole t means t >= first + ceil(k D / T); Python integers cannot overflow.
    starts = [first - (-k * (last - first) // T) for k in range(1, T)]
    return [0, *np.searchsorted(t, starts, side="left").tolist(), n]


def _check_span(span_us: tuple[int, int] | None, first: int, last: int) -> tuple[int, int]:
    if span_us is None:
        return first, last
    try:
        start, end = (operator.index(side) for side in span_us)
    except (TypeError, ValueError):
        raise InputError(f"span_us is {span_us!r}; expected two whole numbers (start, end) of microseconds") from None
    if not start <= first <= last <= end:
        raise InputError(
            f"the events span {first} to {last} us and span_us is ({start}, {end}); expected a span that "
            "holds them all: "
            "cut the events first, with events.between(start, end)"
        )
    return start, end


def pixel_index(events: Events, H: int, W: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return (p * H + y) * W + x of every event, on the rescaled grid."""
    width, height = events.sensor_size
    # Sensors up to 181 x 181 need 16 bits only, which is four times as fast as 64.
    kind = np.min_scalar_type(POLARITIES * H * W)
    index = events.p.astype(kind)
    index *= kind.type(H)
    index += _rescale(events.y, height, H)
    index *= kind.type(W)
    index += _rescale(events.x, width, W)
    return index


def _rescale(coordinate: npt.NDArray[np.uint16], side: int, new_side: int) -> npt.NDArray[np.uint16]:
    if side == new_side:
        return coordinate
    # One multiplication and division for each pixel of the sensor, not for each event.
    table = (np.arange(side, dtype=np.int64) * new_side // side).astype(np.uint16)
    return table[coordinate]


def _largest_count(kind: np.dtype[Any]) -> int:
    return 1 << 24 if kind.kind == "f" else int(np.iinfo(kind).max)  # float32 counts every whole number to 2^24


def check_split_by(split_by: str) -> str:
    """Return `split_by` if it is a way to cut recordings.

    Raises:
        InputError: it is not.

    """
    if split_by not in SPLITS:
        raise InputError(f"split_by is {split_by!r}; expected 'time' or 'number'.{suggest(str(split_by), SPLITS)}")
    return split_by


def check_num_frames(num_frames: int) -> int:
    """Return `num_frames` as a plain positive integer.

    Raises:
        InputError: it is none.

    """
    try:
        T = operator.index(num_frames)
    except TypeError:
        raise InputError(f"num_frames is {num_frames!r}; expected a whole number, at least 1") from None
    if T < 1:
        raise InputError(f"num_frames is {T}; expected a whole number, at least 1")
    return T


def check_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return the type of frames.

    Raises:
        InputError: frames have no such type.

    """
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = None
    if kind is None or kind.name not in FRAME_DTYPES:
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(FRAME_DTYPES)}")
    return kind


def check_size(size: tuple[int, int] | None, sensor_size: tuple[int, int]) -> tuple[int, int]:
    """Return `size` as plain integers (height, width), by default the sensor's.

    Raises:
        InputError: it is larger than the sensor or no size.

    """
    width, height = sensor_size
    if size is None:
        return height, width
    try:
        H, W = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise InputError(f"size is {size!r}; expected two whole numbers (height, width)") from None
    if not (1 <= H <= height and 1 <= W <= width):
        raise InputError(
            f"size is ({H}, {W}); expected a (height, width) between (1, 1) and the sensor's ({height}, "
            f"{width}): "
            "events can be added into a coarser grid, not spread over a finer one"
        )
    return H, W
