"""What there is to know of a recording before anything is done with it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.chunks import iter_events
from rsnn.data.progress import progress
from rsnn.data.readers import open_source

WINDOW_US = 1_000_000
LARGEST_MAP = 1 << 26  # pixels of a sensor whose counts are kept, in 512 MiB; cameras have up to 2^21

# A pixel is hot if it has more events than these times the median of its neighbours, plus one, and the mean of all.
HOT_TO_NEIGHBOURS = 10
HOT_TO_MEAN = 5


@dataclass(frozen=True)
class Summary:
    """Figures of one recording.

    Attributes:
        path: the file.
        format: name of the format.
        size_bytes: of the file.
        sensor_size: (width, height) in pixels.
        sensor_is_known: whether the file or the format says it; if not, it is the first usual one that holds all.
        events: how many.
        first_us: time of the first event.
        last_us: time of the last event.
        brighter: share of events of polarity 1.
        active_pixels: pixels that fire at all.
        hot_pixels: (x, y, events) of those that fire much more often than their neighbours, the hottest first.

    """

    path: str
    format: str
    size_bytes: int
    sensor_size: tuple[int, int]
    sensor_is_known: bool
    events: int
    first_us: int
    last_us: int
    brighter: float
    active_pixels: int
    hot_pixels: tuple[tuple[int, int, int], ...]

    @property
    def duration_us(self) -> int:
        """Microseconds from the first event to the last."""
        return self.last_us - self.first_us

    @property
    def rate_hz(self) -> float:
        """Events a second; 0 if all have one time."""
        return self.events / (self.duration_us * 1e-6) if self.duration_us else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {**asdict(self), "duration_us": self.duration_us, "rate_hz": self.rate_hz}


def summarize(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - as in `read_events`
    sensor_size: tuple[int, int] | None = None,
    truncated: str = "error",
) -> Summary:
    """Read a recording from its begin to its end, in little memory, and return what is in it.

    A pixel counts as hot if it has more than ten times as many events as the median of its eight neighbours, plus one,
    and more than five times as many as the mean of the pixels that fire.

    Args:
        path: the file.
        format: as for `read_events`.
        sensor_size: as for `read_events`.
        truncated: as for `read_events`.

    Raises:
        RecordingError: as `read_events`.

    """
    source, reader = open_source(path, format, truncated)
    known = sensor_size or reader.read(source).sensor_size
    counts: npt.NDArray[np.int64] | None = None
    first = last = brighter = 0
    windows = iter_events(path, duration_us=WINDOW_US, format=format, sensor_size=sensor_size, truncated=truncated)
    with progress(f"reading {source.path.name}"):
        for window in windows:
            width, height = window.sensor_size
            if counts is None:
                if width * height > LARGEST_MAP:
                    raise source.fault(
                        f"it says a sensor of {width} x {height} pixels; expected a camera's, of at most {LARGEST_MAP} "
                        "pixels: its header may be damaged, copy it again"
                    )
                counts, first = np.zeros(width * height, dtype=np.int64), int(window.t[0])
            counts += np.bincount(window.y.astype(np.int64) * width + window.x, minlength=width * height)
            brighter += int(window.p.sum(dtype=np.int64))
            last = int(window.t[-1])
    assert counts is not None  # a recording without events is an error
    return Summary(
        path=str(Path(path)),
        format=source.format,
        size_bytes=source.size(),
        sensor_size=(width, height),
        sensor_is_known=known is not None,
        events=int(counts.sum()),
        first_us=first,
        last_us=last,
        brighter=brighter / int(counts.sum()),
        active_pixels=int(np.count_nonzero(counts)),
        hot_pixels=find_hot_pixels(counts.reshape(height, width)),
    )


def find_hot_pixels(counts: npt.NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """Return (x, y, events) of the pixels of a map of counts (H, W) that are hot, the hottest first."""
    active = counts[counts > 0]
    if not active.size:
        return ()
    H, W = counts.shape
    y, x = np.nonzero(counts > HOT_TO_MEAN * active.mean())  # few: neighbours are looked at for these only
    around = np.pad(counts, 1, mode="reflect" if min(H, W) > 1 else "edge")
    neighbours = np.stack([around[y + dy, x + dx] for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)])
    hot = counts[y, x] > HOT_TO_NEIGHBOURS * (1 + np.median(neighbours, axis=0))
    found = zip(x[hot].tolist(), y[hot].tolist(), counts[y, x][hot].tolist(), strict=True)
    return tuple(sorted(found, key=lambda pixel: -pixel[2]))
