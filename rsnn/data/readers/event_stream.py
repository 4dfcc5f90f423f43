"""Event Stream (`.es`), version 2, with events of a DVS or the change detection events of an ATIS.

16 bytes say "Event Stream", the version and the type; four say width and height. Then an event is five bytes:
one with the microseconds since the event before and flags, and x and y in little-endian order. Bytes between
events can be an overflow, which only lets time pass, or a reset, which means nothing here. The format counts rows from
the bottom of the image, as its author's programs show it; here they are counted from the top.

| type | first byte of an event | overflow | reset |
|---|---|---|---|
| 1, DVS | time in bits 1-7, bit 0: brighter | 0xff: 127 us | 0xfe |
| 2, ATIS | time in bits 2-7, bit 1: brighter, bit 0: exposure | 0xfd to 0xff: 63, 126, 189 us | 0xfc |

Source: github.com/neuromorphic-paris/event_stream, README, version 2.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rsnn.data.readers.common import Block, Decoded, Source, at_bytes

NAME = "Event Stream"
MAGIC = b"Event Stream"
HEADER_BYTES = 20
EVENT_BYTES = 5
BLOCK_BYTES = 1 << 21  # a quarter of the others', for the walk over the bytes needs several times as much memory
DVS, ATIS = 1, 2
CHUNK = 64  # bytes that are walked in step with all other chunks


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file begins with the name of the format."""
    return head.startswith(MAGIC)


def read(source: Source) -> Decoded:
    """Read DVS events, or the change detection events of an ATIS."""
    with source.path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise source.fault(
            f"the file ends at byte {len(head)}, within its header of {HEADER_BYTES} bytes; copy it again"
        )
    if head[12] != 2 or head[15] not in (DVS, ATIS):
        raise source.fault(
            f"the header says version {head[12]} and type {head[15]}; expected version 2 and type 1 or 2"
        )
    width, height = int.from_bytes(head[16:18], "little"), int.from_bytes(head[18:20], "little")
    if width == 0 or height == 0:
        raise source.fault(f"bytes 16 to 19 say a sensor of {width} x {height} pixels; expected at least one pixel")
    return Decoded((width, height), _blocks(source, head[15], height - 1))


def _blocks(source: Source, kind: int, bottom: int) -> Iterator[Block]:
    flag_bits, overflow_us, first_control = (1, 127, 0xFE) if kind == DVS else (2, 63, 0xFC)
    t_before, left, offset = 0, b"", HEADER_BYTES
    with source.path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while data := file.read(BLOCK_BYTES):
            data = left + data
            stream = np.frombuffer(data, dtype=np.uint8)
            begins = _begins(stream, first_control)
            used = len(data)
            if begins.size and stream[begins[-1]] < first_control and begins[-1] + EVENT_BYTES > len(data):
                used = int(begins[-1])
                begins = begins[:-1]
            first = stream[begins]
            control = first >= first_control
            steps = np.where(control, (first - first_control) * overflow_us, first >> flag_bits)
            if kind == DVS:
                steps = np.where(control, (first == 0xFF) * overflow_us, first >> flag_bits)
            times = t_before + np.cumsum(steps, dtype=np.int64)
            t_before = int(times[-1]) if times.size else t_before
            change = ~control & ((first & 1 == 0) | (kind == DVS))
            place = begins[change]
            yield Block(
                t=times[change],
                x=stream[place + 1] | stream[place + 2].astype(np.uint16) << 8,
                y=bottom - (stream[place + 3] | stream[place + 4].astype(np.int32) << 8),
                p=first[change] >> (flag_bits - 1) & 1,
                where=at_bytes(offset, 1, place),
            )
            left, offset = data[used:], offset + used
        if left:
            source.cut(
                f"it ends at byte {offset + len(left)}, {len(left)} bytes into an event", "whole events of 5 bytes"
            )


def _begins(stream: npt.NDArray[np.uint8], first_control: int) -> npt.NDArray[np.intp]:
    """Return where events and control bytes begin in a stream that begins with one of them.

    A byte is a control byte or the first of an event only if no event before it reaches it, so each place
    depends on all before. What a chunk of bytes does to the number of bytes that are left of an event (0 to
    4) is worked out for all chunks and all five numbers at once; one short loop then joins the chunks.
    """
    chunks = -(-stream.size // CHUNK)
    padded = np.full(chunks * CHUNK, 0xFF, dtype=np.uint8)
    padded[: stream.size] = stream
    whole_event = np.where(padded.reshape(chunks, CHUNK) >= first_control, 0, EVENT_BYTES - 1).astype(np.uint8).T
    left = np.tile(np.arange(EVENT_BYTES, dtype=np.uint8)[:, None], chunks)
    for column in whole_event:
        left = np.where(left == 0, column, left - 1)
    entry, tables = [0], left.T.tolist()
    for table in tables[:-1]:
        entry.append(table[entry[-1]])
    begins = np.empty((CHUNK, chunks), dtype=bool)
    state = np.array(entry, dtype=np.uint8)
    for step, column in enumerate(whole_event):
        begins[step] = state == 0
        state = np.where(state == 0, column, state - 1)
    return np.flatnonzero(begins.T.ravel()[: stream.size])
