"""What `rsnn watch` shows: on a terminal a picture of the last step's events and the likeliest classes, else lines.

Letters: H height, W width of a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO, cast

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

HALF_BLOCK, BLOCK = "▀█"
PLAIN = str.maketrans({HALF_BLOCK: "=", BLOCK: "#"})  # for a terminal that has not got them
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
            text.append(HALF_BLOCK, style=f"{upper} on {lower}")
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
            Text(name, style=style), Text(BLOCK * round(BAR * shares[index]), style=style), f"{shares[index]:.1%}"
        )
    return table


def panel(seen: Seen, names: tuple[str, ...], title: str) -> Panel:
    """Draw all there is to say of one prediction."""
    figures = Text(f"{seen.t_us / 1e6:.2f} s   {_figures(seen)}", style="dim")
    return Panel(Group(picture(seen.frame), bars(seen, names), figures), title=escape(title))


def line(seen: Seen) -> str:
    """Say the same in a line: when, which class, how sure."""
    best = seen.prediction.probabilities[seen.prediction.index]
    return f"{seen.t_us / 1e6:.3f} s   {seen.prediction.label} {best:.1%}   {_figures(seen)}"


def _figures(seen: Seen) -> str:
    figures = (
        f"{seen.events_per_second:,.0f} events/s   latency {seen.latency_ms:.1f} ms   "
        f"dropped {seen.dropped}   late {seen.late}"
    )
    if seen.bad_packets:
        figures += f"   bad packets {seen.bad_packets}"
    if seen.restarts:
        figures += f"   restarts {seen.restarts}"
    return figures


class _Writable:
    """A file that takes any text: characters that its encoding has not got become others."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write a text, as far as the file can."""
        encoding = self._file.encoding or "utf-8"
        if not encoding.lower().startswith("utf"):
            text = text.translate(PLAIN).encode(encoding, "replace").decode(encoding)
        return self._file.write(text)


def show(watched: Watch, names: tuple[str, ...], title: str, out: TextIO) -> None:
    """Show predictions as they come: on a terminal in place, and the last one stays; else each as a line, at once."""
    writable = cast("TextIO", _Writable(out))
    console = Console(file=writable)
    if not console.is_terminal or console.is_dumb_terminal:
        for seen in watched:
            writable.write(line(seen) + "\n")
            writable.flush()
        return
    with Live(console=console, refresh_per_second=FRAMES_PER_SECOND) as live:
        for seen in watched:
            live.update(panel(seen, names, title))
