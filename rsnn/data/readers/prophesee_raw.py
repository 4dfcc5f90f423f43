"""Prophesee RAW with the encodings EVT 2.0, EVT 2.1 and EVT 3.0.

Header lines begin with `%` and name the encoding; then little-endian words follow, whose upper four bits say
their kind.

- EVT 2.0, 32 bits: 0 and 1 are events (darker, brighter) with 6 low bits of the time in 22-27, x in 11-21, y
  in 0-10; 8 has the 28 high bits of the time.
- EVT 2.1, 64 bits: as EVT 2.0 in the upper half (x is a multiple of 32), and in the lower half one bit for
  each of the 32 pixels from x on. Some cameras send the upper half first ("legacy"), others the whole word in
  little-endian order.
- EVT 3.0, 16 bits: the words change a state and events take the rest of their fields from it: 0 has y, 2 is
  one event with x and polarity, 3 has x and polarity of the vectors after it, 4 and 5 are vectors of 12 and 8
  pixels, which move that x on, 6 and 8 have the 12 low and the 12 high bits of the time. The low bits are 0
  after high ones that changed; high ones that only repeat those before them leave them as they are.

Events before the first high bits of a time are skipped, for their time is not known.

Source: docs.prophesee.ai, "EVT 2.0 Format", "EVT 2.1 Format", "EVT 3.0 Format".
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.readers import prophesee
from rsnn.data.readers.common import Block, Decoded, Header, Source, at_bytes, read_records, unwrap

NAME = "Prophesee RAW"

DARKER, BRIGHTER, TIME_HIGH = 0, 1, 8  # EVT 2.0 and 2.1
EVT2_LOW_BITS, EVT2_HIGH_BITS = 6, 28

ADDR_Y, ADDR_X, BASE_X, VECTOR_12, VECTOR_8, EVT3_TIME_LOW, EVT3_TIME_HIGH = 0, 2, 3, 4, 5, 6, 8
EVT3_TIME_BITS = 12


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether a header of `%` lines names one of the encodings."""
    return _encoding(prophesee.read_header(io.BytesIO(head)).lines) is not None


def read(source: Source) -> Decoded:
    """Read the change detection events; triggers and words of other kinds are skipped."""
    with source.path.open("rb") as file:
        header = prophesee.read_header(file)
    encoding = _encoding(header.lines)
    if encoding is None or not header.whole:
        raise source.fault(
            f"the header ends at byte {header.end} and names no encoding; expected a line such as '% evt "
            "3.0': the file "
            "is cut or damaged, copy it again"
        )
    return Decoded(prophesee.sensor_size(header.lines), DECODERS[encoding](source, header))


def _encoding(lines: list[str]) -> str | None:
    for line in lines:
        if match := re.match(r"(?:evt (\d)\.?(\d)?|format EVT(\d)(\d)?)\b", line):
            digits = (match[1] or match[3]) + (match[2] or match[4] or "0")
            return digits if digits in DECODERS else None
    return None


def _evt20(source: Source, header: Header) -> Iterator[Block]:
    high: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    with source.path.open("rb") as file:
        file.seek(header.end)
        for offset, data in read_records(source, file, 4):
            words = np.frombuffer(data, dtype="<u4")
            kind = words >> 28
            high_of_word, high, known = _high_bits(kind == TIME_HIGH, words & 0x0FFF_FFFF, high)
            place = np.flatnonzero((kind <= BRIGHTER) & known)
            word = words[place]
            yield Block(
                t=high_of_word[place] << EVT2_LOW_BITS | (word >> 22 & 0x3F),
                x=(word >> 11 & 0x7FF).astype(np.uint16),
                y=(word & 0x7FF).astype(np.uint16),
                p=(word >> 28).astype(np.uint8),
                where=at_bytes(offset, 4, place),
            )


def _high_bits(
    is_high: npt.NDArray[np.bool_], payload: npt.NDArray[Any], before: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the high bits of the time at each word, those to go on with, and at which words they are known.

    `before` is what the block before ended with: one value, or none at the beginning of the recording.
    """
    highs = unwrap(payload[is_high], EVT2_HIGH_BITS, int(before[0]) if before.size else 0)
    values = np.concatenate([before, highs])
    which = np.cumsum(is_high) - 1 + before.size
    known = which >= 0
    at_word = values[np.maximum(which, 0)] if values.size else np.zeros(which.size, dtype=np.int64)
    return at_word, values[-1:], known


def _evt21(source: Source, header: Header) -> Iterator[Block]:
    high: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    upper_first: bool | None = None
    with source.path.open("rb") as file:
        file.seek(header.end)
        for offset, data in read_records(source, file, 8):
            halves = np.frombuffer(data, dtype="<u4").reshape(-1, 2)
            if upper_first is None:
                upper_first = _upper_half_first(header.lines, halves)
            upper, pixels = (halves[:, 0], halves[:, 1]) if upper_first else (halves[:, 1], halves[:, 0])
            kind = upper >> 28
            high_of_word, high, known = _high_bits(kind == TIME_HIGH, upper & 0x0FFF_FFFF, high)
            place = np.flatnonzero((kind <= BRIGHTER) & known)
            row, bit = _set_bits(pixels[place])
            word = upper[place][row]
            yield Block(
                t=high_of_word[place][row] << EVT2_LOW_BITS | (word >> 22 & 0x3F),
                x=((word >> 11 & 0x7FF) + bit).astype(np.uint16),
                y=(word & 0x7FF).astype(np.uint16),
                p=(word >> 28).astype(np.uint8),
                where=at_bytes(offset, 8, place[row]),
            )


def _upper_half_first(lines: list[str], halves: npt.NDArray[np.uint32]) -> bool:
    """Tell which half of a 64-bit word comes first: the header may say it, else the kinds of the words do."""
    for line in lines:
        if match := re.search(r"endianness[= ](\w+)", line):
            return match[1] == "legacy"
    valid = [np.isin(halves[:, half] >> 28, (DARKER, BRIGHTER, TIME_HIGH, 10, 14, 15)).sum() for half in (0, 1)]
    high = [(halves[:, half] >> 28 == TIME_HIGH).sum() for half in (0, 1)]
    return bool((valid[0], high[0]) >= (valid[1], high[1]))


def _evt30(source: Source, header: Header) -> Iterator[Block]:
    state, high = _state_evt30(0, 0, 0), -1
    with source.path.open("rb") as file:
        file.seek(header.end)
        for offset, data in read_records(source, file, 2):
            words = np.concatenate([state, np.frombuffer(data, dtype="<u2")])
            block, state, high = _decode_evt30(words, high, offset - 2 * state.size)
            yield block


def _state_evt30(low: int, y: int, base: int) -> npt.NDArray[np.uint16]:
    """Return the words that set a state: the low bits of the time, the row, and x and polarity of vectors."""
    return np.array([EVT3_TIME_LOW << 12 | low, ADDR_Y << 12 | y, BASE_X << 12 | base], dtype=np.uint16)


def _decode_evt30(
    words: npt.NDArray[np.uint16], high_before: int, offset: int
) -> tuple[Block, npt.NDArray[np.uint16], int]:
    """Decode a block of words.

    Args:
        words: those that set the state that the block before ended with, then those of the block.
        high_before: the high bits of the time before them, counted on over their wraps; -1 if they are not known.
        offset: byte of the file where the first of `words` would be.

    Returns:
        The events, the words that set the state at the end, and the high bits of the time then.

    """
    kind = words >> 12
    index = np.arange(words.size)

    def last(of_kind: int) -> npt.NDArray[np.intp]:
        """Return, at each word, the index of the last word of a kind so far."""
        return np.maximum.accumulate(np.where(kind == of_kind, index, 0))

    last_low, last_y, last_base = (last(k) for k in (EVT3_TIME_LOW, ADDR_Y, BASE_X))
    high_at = np.flatnonzero(kind == EVT3_TIME_HIGH)
    highs = np.concatenate([[high_before], unwrap(words[high_at] & 0xFFF, EVT3_TIME_BITS, max(high_before, 0))])
    changed_at = np.concatenate([[-1], np.maximum.accumulate(np.where(np.diff(highs), high_at, -1))])
    nth_high = np.cumsum(kind == EVT3_TIME_HIGH)
    high = highs[nth_high]
    low = np.where(last_low > changed_at[nth_high], words[last_low] & 0xFFF, 0)
    y = words[last_y] & 0x7FF

    length = np.where(kind == VECTOR_12, 12, np.where(kind == VECTOR_8, 8, 0))
    passed = np.cumsum(length) - length
    base = words[last_base].astype(np.int64)
    vector_x = (base & 0x7FF) + passed - passed[last_base]

    # A single event is a vector of one pixel.
    is_event = ((kind == ADDR_X) | (length > 0)) & (high >= 0)
    place = np.flatnonzero(is_event)
    single = kind[place] == ADDR_X
    word = words[place]
    row, bit = _set_bits(np.where(single, 1, word & np.where(kind[place] == VECTOR_8, 0xFF, 0xFFF)).astype(np.uint32))
    start = np.where(single, word & 0x7FF, vector_x[place])
    polarity = np.where(single, word, base[place]) >> 11 & 1
    place = place[row]
    block = Block(
        t=high[place] << EVT3_TIME_BITS | low[place],
        x=(start[row] + bit).astype(np.uint16),
        y=y[place],
        p=polarity[row].astype(np.uint8),
        where=at_bytes(offset, 2, place),
    )
    end_x = min(int(vector_x[-1] + length[-1]), 0x7FF)
    return block, _state_evt30(int(low[-1]), int(y[-1]), int(base[-1]) & 0x800 | end_x), int(high[-1])


def _set_bits(masks: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the index of the mask and the number of the bit for every bit that is set, in order."""
    bits = np.unpackbits(masks.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    row, bit = np.nonzero(bits)
    return row, bit


DECODERS: dict[str, Callable[[Source, Header], Iterator[Block]]] = {"20": _evt20, "21": _evt21, "30": _evt30}
