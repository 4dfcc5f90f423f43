"""What the files of Prophesee cameras share: the text header."""

from __future__ import annotations

import re
from typing import IO

from rsnn.data.readers.common import Header
from rsnn.data.readers.common import read_header as read_lines

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


def read_header(file: IO[bytes]) -> Header:
    """Read the lines that begin with `%`, up to `% end` if it is there."""
    return read_lines(file, MARK, END_LINE)


def sensor_size(lines: list[str]) -> tuple[int, int] | None:
    """Return the (width, height) that the header says, or that its camera is known to have."""
    text = "\n".join(lines)
    if match := re.search(r"^geometry (\d+)x(\d+)", text, re.MULTILINE):
        return _plausible(int(match[1]), int(match[2]))
    for pattern in (r"^format .*\b{}=(\d+)", r"^(?i:{}) +(\d+)"):  # in any order, with others between them
        width, height = (re.search(pattern.format(side), text, re.MULTILINE) for side in ("width", "height"))
        if width and height:
            return _plausible(int(width[1]), int(height[1]))
    if match := re.search(r"^plugin_name hal_plugin_([a-z0-9]+?)(_|$)", text, re.MULTILINE):
        return SENSOR_OF_PLUGIN.get(match[1])
    return None


def _plausible(width: int, height: int) -> tuple[int, int] | None:
    return (width, height) if 1 <= width <= 1 << 16 and 1 <= height <= 1 << 16 else None
