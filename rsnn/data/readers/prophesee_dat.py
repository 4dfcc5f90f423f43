"""Prophesee DAT, version 2, as N-CARS and the automotive data sets have it.

Header lines begin with `%`; then one byte says the type of the events (0 or 12: change detection) and one
their size (8). An event is two little-endian 32-bit words: the time in microseconds, and x in bits 0-13, y in
bits 14-27, polarity (1 = brighter) in bit 28.

Source: docs.prophesee.ai, "DAT file format".
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.readers import prophesee
from rsnn.data.readers.common import Block, Decoded, Source, at_bytes, read_records, unwrap

NAME = "Prophesee DAT"
CHANGE_DETECTION = (0, 12)
RECORD = np.dtype([("t", "<u4"), ("pixel", "<u4")])
WRAP_BITS = 32


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether a header of `%` lines is followed by the type and size of events."""
    header = prophesee.read_header(io.BytesIO(head))
    described = any(line.startswith(("Data file", "Version", "Width", "Height")) for line in header.lines)
    kind = head[header.end : header.end + 2]
    return described and (not header.whole or len(kind) < 2 or kind[1] == RECORD.itemsize)


def read(source: Source) -> Decoded:
    """Read change detection events."""
    with source.path.open("rb") as file:
        header = prophesee.read_header(file)
        file.seek(header.end)
        kind = file.read(2)
    if not header.whole or len(kind) < 2:
        raise source.fault(
            f"the file ends at byte {source.size()}, within its header; expected lines that begin with %, then the "
            "type and the size of the events: copy the file again"
        )
    if kind[0] not in CHANGE_DETECTION or kind[1] != RECORD.itemsize:
        raise source.fault(
            f"byte {header.end} says events of type {kind[0]} and {kind[1]} bytes; expected type 0 or 12 "
            "(change "
            "detection) and 8 bytes"
        )
    if "Version 1" in header.lines:
        raise source.fault("the header says version 1; expected version 2: convert the file with Prophesee's tools")
    return Decoded(prophesee.sensor_size(header.lines), _blocks(source, header.end + 2))


def _blocks(source: Source, start: int) -> Iterator[Block]:
    last_t = 0
    with source.path.open("rb") as file:
        file.seek(start)
        for offset, data in read_records(source, file, RECORD.itemsize):
            records = np.frombuffer(data, dtype=RECORD)
            t = unwrap(records["t"], WRAP_BITS, last_t)
            last_t = int(t[-1])
            pixel = records["pixel"].astype(np.uint32)
            yield Block(
                t=t,
                x=(pixel & 0x3FFF).astype(np.uint16),
                y=((pixel >> 14) & 0x3FFF).astype(np.uint16),
                p=((pixel >> 28) & 1).astype(np.uint8),
                where=at_bytes(offset, RECORD.itemsize),
            )
