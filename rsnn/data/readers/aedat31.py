"""AEDAT 3.1, as jAER's successor cAER and the DVS128 Gesture data set have it.

A text header ends with `#!END-HEADER`; packets follow. A packet is a header of seven little-endian 32-bit
words (event type and source of 16 bits each, event size, offset of the timestamp in an event, overflows of
the timestamp, capacity, number of events, valid events) and `capacity` events. A polarity event is two words:
data (bit 0 valid, bit 1 polarity with 1 = brighter, bits 2-16 y, bits 17-31 x; (0, 0) is the upper left
corner) and a timestamp of 31 bits in microseconds.

The header names the camera, which tells the sensor; a line `#geometry WxH`, which is ours, says that of any other.

Source: inivation.com, "AEDAT file formats", section 3.1.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.readers.common import BLOCK_BYTES, Block, Decoded, Source, at_bytes, read_header, stated_size

NAME = "AEDAT 3.1"
MARK = b"#"
VERSION = "!AER-DAT3.1"
END_OF_HEADER = "!END-HEADER"

WORD_BYTES = 4
HEADER_WORDS = 7
HEADER_BYTES = HEADER_WORDS * WORD_BYTES
POLARITY_TYPE = 1
POLARITY_EVENT_WORDS = 2
POLARITY_EVENT_BYTES = POLARITY_EVENT_WORDS * WORD_BYTES
OVERFLOW_BITS = 31  # a timestamp counts to 2^31, then the packet's overflow goes up by one

SENSOR_OF_CAMERA = {
    "DVS128": (128, 128),
    "DAVIS128": (128, 128),
    "DAVIS240": (240, 180),
    "DAVIS346": (346, 260),
    "DAVIS640": (640, 480),
}


class Packets(NamedTuple):
    """Polarity packets in a buffer of words: where their events begin, how many, and their overflows."""

    starts: npt.NDArray[np.intp]
    lengths: npt.NDArray[np.intp]
    overflows: npt.NDArray[np.int64]


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file begins as AEDAT 3 does; `read` says which versions of it are not known."""
    return head.startswith(b"#!AER-DAT3")


def read(source: Source) -> Decoded:
    """Read the polarity events that are marked valid; packets of other types are skipped."""
    with source.path.open("rb") as file:
        header = read_header(file, MARK, END_OF_HEADER)
    version = header.lines[0] if header.lines else ""
    if version.startswith("!AER-DAT3") and version != VERSION:
        raise source.fault(
            f"the file is AEDAT {version.removeprefix('!AER-DAT')}, whose rows count from the lower left corner; "
            "expected AEDAT 3.1: log it again with cAER, which writes 3.1"
        )
    if not header.lines or header.lines[-1] != END_OF_HEADER:
        raise source.fault(
            f"no line #!END-HEADER in the header, which ends at byte {header.end}; expected lines of text that end "
            "with it: the file is cut or damaged at its beginning, copy it again"
        )
    return Decoded(stated_size(header.lines) or _sensor_size(header.lines), _blocks(source, header.end))


def _sensor_size(lines: list[str]) -> tuple[int, int] | None:
    # A file that was logged again names its camera as the source of its source.
    for mark in ("Source", "-Source"):
        for line in lines:
            for camera, size in SENSOR_OF_CAMERA.items():
                if line.startswith(mark) and camera in line.upper():
                    return size
    return None


def _blocks(source: Source, offset: int) -> Iterator[Block]:
    total = source.size()
    wanted = BLOCK_BYTES
    with source.path.open("rb") as file:
        while offset < total:
            file.seek(offset)
            data = file.read(wanted)
            if len(data) < HEADER_BYTES:
                source.cut(f"it ends at byte {total}, {len(data)} bytes into the header of a packet", "28 bytes")
                return
            words = np.frombuffer(data, dtype="<u4", count=len(data) // WORD_BYTES)
            packets, used = _walk(source, words, len(data), offset)
            if used == 0:  # the first packet is not whole
                packet_bytes = HEADER_BYTES + int(words[1]) * int(words[4])
                wanted = min(packet_bytes, total - offset)
                if wanted > len(data):
                    continue
                source.cut(
                    f"it ends at byte {total}, inside the packet of {packet_bytes} bytes at byte {offset}",
                    "whole packets",
                )
                packets, used = _cut_packet(words), len(data)
            if packets.lengths.any():
                yield _decode(words, packets, offset)
            offset += used
            wanted = BLOCK_BYTES


def _walk(source: Source, words: npt.NDArray[np.uint32], size: int, offset: int) -> tuple[Packets, int]:
    """Follow the packets in the `size` bytes that `words` views; the first is byte `offset` of the file.

    Recordings of live cameras have packets of a few events, so that a step for each packet would take longer
    than decoding the events: everything that looks like the header of a polarity packet is found at once, and
    runs of them in which each ends where the next begins are taken together. The walk ends before a packet
    that is not whole, and after one that ends between two words.

    Returns:
        The polarity packets and the number of bytes that the packets took.

    """
    heads, ends = _polarity_packets(words)
    run_ends = [*np.flatnonzero(ends[:-1] != heads[1:]).tolist(), len(heads) - 1]
    head_list, end_list = heads.tolist(), ends.tolist()
    taken: list[npt.NDArray[np.intp]] = []
    position = odd_bytes = 0
    while position + HEADER_WORDS <= len(words) and not odd_bytes:
        first = bisect.bisect_left(head_list, position)
        if first < len(head_list) and head_list[first] == position and end_list[first] <= len(words):
            last = run_ends[bisect.bisect_left(run_ends, first)]
            last -= end_list[last] > len(words)
            taken.append(heads[first : last + 1])
            position = end_list[last]
            continue
        kind, event_bytes, time_at, _, capacity, number = words[position : position + 6].tolist()
        kind &= 0xFFFF
        if (
            number > capacity
            or time_at >= event_bytes
            or (kind == POLARITY_TYPE and (event_bytes != POLARITY_EVENT_BYTES or time_at != WORD_BYTES))
        ):
            raise source.fault(
                f"the packet at byte {offset + position * WORD_BYTES} claims {number} of {capacity} events "
                "of type "
                f"{kind} and {event_bytes} bytes with the time at byte {time_at}; expected no more events "
                "than it "
                "has room for, and 8 bytes with the time at byte 4 for type 1: the file is damaged there"
            )
        body_words, odd_bytes = divmod(event_bytes * capacity, WORD_BYTES)
        end = position + HEADER_WORDS + body_words
        if end * WORD_BYTES + odd_bytes > size:
            return _packets(words, taken), position * WORD_BYTES
        position = end
    return _packets(words, taken), position * WORD_BYTES + odd_bytes


def _polarity_packets(words: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return where headers of polarity packets seem to begin, and where such packets would end."""
    middle = words[1 : len(words) - HEADER_WORDS + 2]
    heads = np.flatnonzero(middle == POLARITY_EVENT_BYTES)
    heads = heads[(words[heads + 2] == WORD_BYTES) & (words[heads] & 0xFFFF == POLARITY_TYPE)]
    heads = heads[words[heads + 5] <= words[heads + 4]]
    ends = heads + HEADER_WORDS + POLARITY_EVENT_WORDS * words[heads + 4].astype(np.intp)
    return heads, ends


def _packets(words: npt.NDArray[np.uint32], taken: list[npt.NDArray[np.intp]]) -> Packets:
    heads = np.concatenate(taken) if taken else np.empty(0, dtype=np.intp)
    return Packets(heads + HEADER_WORDS, words[heads + 5].astype(np.intp), words[heads + 3].astype(np.int64))


def _cut_packet(words: npt.NDArray[np.uint32]) -> Packets:
    """Return what is there of a packet whose end is missing."""
    packets = _packets(words, [np.zeros(1, dtype=np.intp)] if words[0] & 0xFFFF == POLARITY_TYPE else [])
    room = (len(words) - HEADER_WORDS) // POLARITY_EVENT_WORDS
    return packets._replace(lengths=np.minimum(packets.lengths, room))


def _decode(words: npt.NDArray[np.uint32], packets: Packets, offset: int) -> Block:
    first = np.cumsum(packets.lengths) - packets.lengths
    place = np.repeat(packets.starts - POLARITY_EVENT_WORDS * first, packets.lengths)
    place += POLARITY_EVENT_WORDS * np.arange(place.size)
    data = words[place]
    t = words[place + 1].astype(np.int64)
    if packets.overflows.any():
        t += np.repeat(packets.overflows << OVERFLOW_BITS, packets.lengths)
    valid = (data & 1).astype(bool)
    if not valid.all():
        data, t, place = data[valid], t[valid], place[valid]
    return Block(
        t=t,
        x=(data >> 17).astype(np.uint16),
        y=((data >> 2) & 0x7FFF).astype(np.uint16),
        p=((data >> 1) & 1).astype(np.uint8),
        where=at_bytes(offset, WORD_BYTES, place),
    )
