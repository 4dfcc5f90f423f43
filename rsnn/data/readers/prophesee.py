"""What the files of Prophesee cameras share: the text header, and counters that wrap around."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MARK = b"%"
END_LINE = "end"

# Cameras that older headers name by their plugin or system only.
SENSOR_OF_PLUGIN = {
    "gen3": (640, 480),
    "gen31": (640, 480),
    "gen4": (1280, 720),
    "gen41": (1280, 720),
    "imx636": (1280, 720),
    "genx320": (320, 320),
}


class Header(NamedTuple):
    """Where the events begin, the lines, and whether the last line was whole."""

    end: int
    lines: list[str]
    whole: bool


def read_header(head: bytes) -> Header:
    """Read the lines that begin with `%`, up to `% end` if it is there."""
    lines: list[str] = []
    end = 0
    while head.startswith(MARK, end):
        newline = head.find(b"\n", end)
        if newline < 0:
            return Header(end, lines, whole=False)
        lines.append(head[end + 1 : newline].decode("latin-1").strip())
        end = newline + 1
        if lines[-1] == END_LINE:
            break
    return Header(end, lines, whole=True)


def sensor_size(lines: list[str]) -> tuple[int, int] | None:
    """Return the (width, height) that the header says, or that its camera is known to have."""
    text = "\n".join(lines)
    for pattern in (r"^geometry (\d+)x(\d+)", r"^format .*width=(\d+);height=(\d+)", r"^Width (\d+)\nHeight (\d+)"):
        if match := re.search(pattern, text, re.MULTILINE):
            return _plausible(int(match[1]), int(match[2]))
    if match := re.search(r"^format .*height=(\d+);width=(\d+)", text, re.MULTILINE):
        return _plausible(int(match[2]), int(match[1]))
    if match := re.search(r"^plugin_name hal_plugin_([a-z0-9]+?)(_|$)", text, re.MULTILINE):
        return SENSOR_OF_PLUGIN.get(match[1])
    return None


def _plausible(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if 1 <= width <= 1 << 16 and 1 <= height <= 1 << 16 else None


def unwrap(counter: npt.NDArray[Any], bits: int, wraps: int) -> npt.NDArray[np.int64]:
    """Return a counter of `bits` bits that wrapped `wraps` times before, counted on over its wraps.

    A step down by more than half the range is a wrap; a smaller one is kept, for it is a fault of the
    recording.
    """
    wide = counter.astype(np.int64)
    down = np.diff(wide, prepend=wide[:1]) < -(1 << (bits - 1))
    return wide + ((wraps + np.cumsum(down)) << bits)
