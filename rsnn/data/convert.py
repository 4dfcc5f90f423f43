"""From one file to another: a recording in another format, or its frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.chunks import iter_events
from rsnn.data.events import Events
from rsnn.data.files import as_path, check_apart, replacing
from rsnn.data.frames import to_frames
from rsnn.data.progress import progress
from rsnn.data.readers import read_events
from rsnn.data.writers import write_events
from rsnn.errors import InputError

PIECE_US = 100_000
FRAMES_SUFFIX = ".npy"
SHEET_FRAMES = 20
LONGEST_ANIMATION = 1500  # frames: a minute of 25 a second


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    sensor_size: tuple[int, int] | None = None,
    truncated: str = "error",
    unsorted: str = "error",
    from_zero: bool = False,
    num_frames: int = 20,
    split_by: str = "time",
    size: tuple[int, int] | None = None,
) -> Path:
    """Write a recording in the format that the suffix of `target` says, or its frames if that is `.npy`.

    A recording is read and written a tenth of a second at a time, so that its length does not matter (`.npz`, read or
    written, frames and recordings to sort excepted).

    Args:
        source: the recording.
        target: the file to write: as for `write_events`, or an `.npy` of frames (T, 2, H, W), uint16.
        source_format: as `format` of `read_events`.
        target_format: as `format` of `write_events`.
        sensor_size: as for `read_events`.
        truncated: as for `read_events`.
        unsorted: as for `read_events`.
        from_zero: count times from the first event, for formats that have no room for the time of day.
        num_frames: of `.npy`, as for `to_frames`.
        split_by: of `.npy`, as for `to_frames`.
        size: of `.npy`, as for `to_frames`.

    Returns:
        The target's path.

    Raises:
        RecordingError: the source cannot be read, or an event does not fit in the target's format.
        InputError: the target's suffix is none of those, it is the source, or it cannot be written.

    """
    reading: dict[str, Any] = {"format": source_format, "sensor_size": sensor_size, "truncated": truncated}
    path = as_path(target)
    check_apart(source, path)
    if path.suffix.lower() == FRAMES_SUFFIX and target_format is None:
        events = read_events(source, **reading, unsorted=unsorted)
        frames = to_frames(events, num_frames, split_by, size=size)
        with replacing(path) as partial:
            np.save(partial, frames)
        return path
    with progress(f"converting {Path(source).name}"):
        if unsorted == "error":
            pieces = iter_events(source, duration_us=PIECE_US, **reading)
        else:
            pieces = iter([read_events(source, **reading, unsorted=unsorted)])
        return write_events(path, _from_zero(pieces) if from_zero else pieces, format=target_format)


def _from_zero(pieces: Iterator[Events]) -> Iterator[Events]:
    first_us = None
    for piece in pieces:
        if first_us is None:
            first_us = piece.t[0]
        yield replace(piece, t=piece.t - first_us)


def picture_frames(
    source: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    source_format: str | None = None,
    sensor_size: tuple[int, int] | None = None,
    truncated: str = "error",
    unsorted: str = "error",
    split_by: str = "time",
    size: tuple[int, int] | None = None,
) -> npt.NDArray[Any]:
    """Return the frames (T, 2, H, W) of a recording that a picture of it shows.

    Args:
        source: the recording.
        num_frames: T; by default as many as last as long as the recording at `fps` a second, or 20 without `fps`.
        fps: frames a second of an animation.
        source_format: as for `convert`.
        sensor_size: as for `convert`.
        truncated: as for `convert`.
        unsorted: as for `convert`.
        split_by: as for `to_frames`.
        size: as for `to_frames`.

    Raises:
        RecordingError: the source cannot be read.
        InputError: the animation would have more than 1,500 frames.

    """
    events = read_events(source, format=source_format, sensor_size=sensor_size, truncated=truncated, unsorted=unsorted)
    if num_frames is None:
        num_frames = SHEET_FRAMES if fps is None else max(round(events.duration_us * 1e-6 * fps), 1)
    if num_frames > LONGEST_ANIMATION:
        raise InputError(
            f"{source} lasts {events.duration_us / 1e6:.1f} s, which makes {num_frames} frames; expected at most "
            f"{LONGEST_ANIMATION}: choose a number of frames, which then pass faster"
        )
    return to_frames(events, num_frames, split_by, size=size, dtype="uint32")
