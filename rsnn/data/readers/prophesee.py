"""What the files of Prophesee cameras share: the text header."""

from __future__ import annotations

import re
from typing import IO

from rsnn.data.readers.common import Header, plausible_size, stated_size
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
    if size := stated_size(lines):
        return size
    text = "\n".join(lines)
    # In any order, with others between them.
    for pattern in (r"^format .*\b{}=(\d{{1,9}})\b", r"^(?i:{}) +(\d{{1,9}})\b"):
        width, height = (re.search(pattern.format(side), text, re.MULTILINE) for side in ("width", "height"))
        if width and height:
            return plausible_size(int(width[1]), int(height[1]))
    if match := re.search(r"^plugin_name hal_plugin_([a-z0-9]+?)(_|$)", text, re.MULTILINE):
        return SENSOR_OF_PLUGIN.get(match[1])
    return None
