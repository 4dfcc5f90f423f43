"""The `.bin` files of N-MNIST and N-Caltech101: events of 40 bits and nothing else.

Byte 0 is x, byte 1 is y, bit 7 of byte 2 the polarity (1 = brighter) and the other 23 bits, most significant
first, the time in microseconds. An event with y = 240 is no event: it adds 2^13 microseconds to all later
times, as in the authors' reader.

Source: Orchard et al. 2015, and its `Read_Ndataset` script.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.readers.common import Block, Decoded, Source, at_bytes, read_records

NAME = "N-MNIST bin"
EVENT_BYTES = 5
OVERFLOW_Y = 240
OVERFLOW_US = 1 << 13
PLAUSIBLE_EVENTS = 8


def recognises(head: bytes, path: Path) -> bool:
    """Tell whether the file is named `.bin` or its first events have plausible times: no mark is in it."""
    if path.suffix.lower() == ".bin":
        return True
    rows = np.frombuffer(head[: len(head) - len(head) % EVENT_BYTES], dtype=np.uint8).reshape(-1, EVENT_BYTES)
    t = _times(rows)
    return len(rows) >= PLAUSIBLE_EVENTS and bool((t[1:] >= t[:-1]).all() and t[-1] > t[0])


def read(source: Source) -> Decoded:
    """Read the events; the file does not say its sensor."""
    return Decoded(None, _blocks(source))


def _blocks(source: Source) -> Iterator[Block]:
    overflow = 0
    with source.path.open("rb") as file:
        for offset, data in read_records(source, file, EVENT_BYTES):
            rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, EVENT_BYTES)
            t = _times(rows) + overflow * OVERFLOW_US
            y = rows[:, 1]
            place = np.flatnonzero(y != OVERFLOW_Y)
            overflow += len(rows) - place.size
            yield Block(
                t=t[place],
                x=rows[place, 0].astype(np.uint16),
                y=y[place].astype(np.uint16),
                p=rows[place, 2] >> 7,
                where=at_bytes(offset, EVENT_BYTES, place),
            )


def _times(
    rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the times, overflows within these rows added up."""
    t = (rows[:, 2].astype(np.int64) & 0x7F) << 16 | rows[:, 3].astype(np.int64) << 8 | rows[:, 4]
    overflows = rows[:, 1] == OVERFLOW_Y
    if overflows.any():
        t += np.cumsum(overflows) * OVERFLOW_US
    return t
