"""The live view of `rsnn watch`: the last step's events as a picture, the likeliest classes as bars.

Letters: H height, W width of a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import numpy as np
import numpy.typing as npt
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rsnn.streaming.watching import Seen, Watch

WIDEST = 64  # columns of the picture
TOP_CLASSES = 5
BAR = 30
FRAMES_PER_SECOND = 10


def picture(frame: npt.NDArray[np.float32], widest: int = WIDEST) -> Text:
    """Draw counts (2, H, W) in half blocks, two rows of pixels a line: brighter red, darker blue, nothing black.

    A frame wider than `widest` is drawn in cells of several pixels, each as its sum.
    """
    side = -(-frame.shape[2] // widest)
    height, width = (-(-extent // side) for extent in frame.shape[1:])
    padded = np.zeros((2, (height + height % 2) * side, width * side), dtype=np.float32)
    padded[:, : frame.shape[1], : frame.shape[2]] = frame
    cells = padded.reshape(2, -1, side, width, side).sum(axis=(2, 4))
    strongest = np.percentile(cells[cells > 0], 95) if cells.any() else 1.0
    darker, brighter = (np.clip(cells / strongest, 0, 1) * 255).astype(int)
    text = Text(no_wrap=True)
    for row in range(0, len(darker), 2):
        for column in range(width):
            upper, lower = (f"#{brighter[r, column]:02x}00{darker[r, column]:02x}" for r in (row, row + 1))
            text.append("▀", style=f"{upper} on {lower}")
        text.append("\n")
    return text


def bars(seen: Seen, names: tuple[str, ...]) -> Table:
    """Draw the likeliest classes."""
    table = Table.grid(padding=(0, 1))
    shares = seen.prediction.probabilities.tolist()
    for rank, index in enumerate(sorted(range(len(shares)), key=lambda i: -shares[i])[:TOP_CLASSES]):
        name = names[index] if names else str(index)
        style = "bold green" if rank == 0 else ""
        table.add_row(
            Text(name, style=style), Text("█" * round(BAR * shares[index]), style=style), f"{shares[index]:.1%}"
        )
    return table


def panel(seen: Seen, names: tuple[str, ...], title: str) -> Panel:
    """Draw all there is to say of one prediction."""
    figures = (
        f"{seen.t_us / 1e6:.2f} s   {seen.events_per_second:,.0f} events/s   latency {seen.latency_ms:.1f} ms   "
        f"dropped {seen.dropped}   late {seen.late}"
    )
    return Panel(Group(picture(seen.frame), bars(seen, names), Text(figures, style="dim")), title=escape(title))


def show(watched: Watch, names: tuple[str, ...], title: str, out: TextIO | None = None) -> None:
    """Show predictions as they come, in place; the last one stays."""
    with Live(console=Console(file=out), refresh_per_second=FRAMES_PER_SECOND) as live:
        for seen in watched:
            live.update(panel(seen, names, title))
