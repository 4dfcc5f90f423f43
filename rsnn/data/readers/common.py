"""What the readers share: where a recording comes from, what a reader hands back, and how it complains.

A reader is a module with a `NAME`, a function `recognises(head, path)` and a function `read(source)`. `read`
looks at the header at once and decodes the rest in blocks when they are asked for, so that a recording of any
size needs little memory.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.events import LARGEST_SIDE, Fault
from rsnn.errors import RecordingError

HEAD_BYTES = 1 << 16  # enough to recognise every format
LONGEST_HEADER_BYTES = 1 << 24  # jAER writes all its preferences into a header, hundreds of kB
BLOCK_BYTES = 1 << 23  # 8 MiB of a file at a time: about a million events

UNSORTED = "expected times that never decrease: unsorted='sort' of read_events (rsnn convert --sort) sorts the events"

# Pixels (width, height) of the event cameras in use, smallest first. A recording that does not name its
# sensor gets the first of these that holds all its events, since the outermost pixels of a real sensor are
# often silent.
SENSORS = (
    (34, 34),  # N-MNIST
    (128, 128),  # DVS128, DVS128 Gesture, CIFAR10-DVS
    (240, 180),  # DAVIS240, N-Caltech101
    (304, 240),  # ATIS
    (320, 240),  # DVXplorer Lite
    (320, 320),  # GenX320
    (346, 260),  # DAVIS346
    (640, 480),  # DVXplorer, Gen3, Gen4 VGA
    (1280, 720),  # Gen4 HD, IMX636
    (1280, 960),  # Celex V, DVS Gen4
)


class Block(NamedTuple):
    """Some consecutive events as they were stored: columns of shape (n,), p in {0, 1}, t in microseconds."""

    t: npt.NDArray[Any]
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    p: npt.NDArray[Any]
    where: Callable[[int], str]  # index of an event -> "byte 1234" or "row 5"


class Header(NamedTuple):
    """A header of text: where it ends, its lines without their mark, and whether the last one was whole."""

    end: int
    lines: list[str]
    whole: bool


class Decoded(NamedTuple):
    """A recording being read: the sensor's (width, height) if the file says it, and the events in blocks."""

    sensor_size: tuple[int, int] | None
    blocks: Iterator[Block]


@dataclass(frozen=True)
class Source:
    """A file to read, the name of its format, and whether what is left of a truncated one is wanted.

    `file_id` tells the file from another one that is put in its place while it is read, which is opened more than once.
    """

    path: Path
    format: str
    keep_truncated: bool = False
    file_id: tuple[int, int] | None = None

    def fault(self, what: str) -> RecordingError:
        """Return the error that says what is wrong with this file; the caller raises it."""
        return RecordingError(f"{self.path} ({self.format}): {what}")

    def cut(self, what: str, expected: str) -> None:
        """Raise the error of a truncated file, unless what is left of it was asked for."""
        if not self.keep_truncated:
            raise self.fault(
                f"the file is truncated: {what}; expected {expected}: copy it again, or take the events before that "
                "place, with truncated='keep' (rsnn convert --keep-truncated)"
            )

    def damaged(self, what: str, expected: str) -> RecordingError:
        """Return the error of a file of which nothing can be read, truncated or not; the caller raises it."""
        kept = ", for nothing of a truncated one can be kept" if self.keep_truncated else ""
        return self.fault(f"the file is truncated or damaged ({what}); expected {expected}: copy it again{kept}")

    def broken(self, where: str, fault: Fault) -> RecordingError:
        """Return the error that says which rule the event at a place breaks; the caller raises it."""
        remedy = UNSORTED if fault.column == "t" else fault.remedy
        return self.fault(f"at {where}, {fault.found}; {remedy}")

    def read_on(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Yield the blocks of this file to its end.

        Raises:
            RecordingError: it cannot be read on, or another file was put in its place: what came may be of both.

        """
        try:
            yield from blocks
        except OSError as error:
            raise self.fault(
                f"it cannot be read to its end ({error}); expected a file that stays: read it again"
            ) from error
        with contextlib.suppress(FileNotFoundError):  # whoever has opened a file may read it to its end
            if self.file_id not in (None, file_id(self.path)):
                raise self.fault("another file was put in its place while it was read; expected one: read it again")

    def size(self) -> int:
        """Return the file's length in bytes."""
        return self.path.stat().st_size


def file_id(path: Path) -> tuple[int, int]:
    """Return the numbers of a file and of the device that it is on."""
    status = path.stat()
    return status.st_dev, status.st_ino


def read_records(source: Source, file: IO[bytes], record_bytes: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (byte offset in the file, whole records) from where `file` stands to its end, a block at a time.

    A part of a record at the end is a truncation.
    """
    offset = file.tell()
    block_bytes = BLOCK_BYTES - BLOCK_BYTES % record_bytes
    while data := file.read(block_bytes):
        whole = len(data) - len(data) % record_bytes
        if whole:
            yield offset, memoryview(data)[:whole]
        if whole < len(data):
            source.cut(
                f"it ends at byte {offset + len(data)}, {len(data) - whole} bytes into an event",
                f"whole events of {record_bytes} bytes",
            )
            return
        offset += len(data)


def at_bytes(offset: int, record_bytes: int, place: npt.NDArray[np.intp] | None = None) -> Callable[[int], str]:
    """Return what says where an event is, if event i is record `place[i]` (or i) after byte `offset`."""
    return lambda index: f"byte {offset + int(index if place is None else place[index]) * record_bytes}"


def read_header(file: IO[bytes], mark: bytes, last: str | None = None) -> Header:
    """Read the lines of text that begin with `mark`, up to the line `last` if it is among them.

    Args:
        file: stands at its beginning.
        mark: first bytes of each line.
        last: the line that ends the header, without the mark.

    """
    lines: list[str] = []
    end = 0
    while end < LONGEST_HEADER_BYTES and file.read(len(mark)) == mark:
        line = file.readline(LONGEST_HEADER_BYTES)
        if not line.endswith(b"\n"):
            return Header(end, lines, whole=False)
        lines.append(line.decode("latin-1").strip())
        end += len(mark) + len(line)
        if lines[-1] == last:
            break
    return Header(end, lines, whole=end < LONGEST_HEADER_BYTES)


def stated_size(lines: Iterable[str]) -> tuple[int, int] | None:
    """Return the (width, height) of a header's line `geometry WxH`, if it has one with sides that a sensor can have."""
    for line in lines:
        if match := re.match(r"geometry (\d{1,9})x(\d{1,9})\b", line):
            return plausible_size(int(match[1]), int(match[2]))
    return None


def plausible_size(width: int, height: int) -> tuple[int, int] | None:
    """Return (width, height) if these are sides that a sensor can have."""
    return (width, height) if 1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE else None


def unwrap(counter: npt.NDArray[Any], bits: int, before: int) -> npt.NDArray[np.int64]:
    """Return a counter of `bits` bits counted on over its wraps, from the value `before` that came before it.

    A step down by more than half the range is a wrap; a smaller one is kept, for it is a fault of the
    recording.
    """
    counted = counter.astype(np.int64)
    wraps, last = divmod(before, 1 << bits)
    if counted.size and (counted[0] < last or bool((counted[1:] < counted[:-1]).any())):  # in few blocks
        down = np.diff(counted, prepend=last) < -(1 << (bits - 1))
        counted += np.cumsum(down) << bits
    if wraps:
        counted += wraps << bits
    return counted


def usual_sensor_size(width: int, height: int) -> tuple[int, int]:
    """Return the first of the usual sensors that holds `width` x `height` pixels, else exactly that size."""
    for sensor in SENSORS:
        if width <= sensor[0] and height <= sensor[1]:
            return sensor
    return width, height
