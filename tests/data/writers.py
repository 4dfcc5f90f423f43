"""Files in the official formats, written one record at a time: slow, and unrelated to the readers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rsnn.data import Events

AEDAT31_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
AEDAT20_HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"


def rows(events: Events) -> Iterable[tuple[int, int, int, int]]:
    return zip(events.t.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True)


def aedat31_packet(
    body: bytes,
    *,
    kind: int = 1,
    event_bytes: int = 8,
    overflow: int = 0,
    number: int | None = None,
    time_at: int = 4,
) -> bytes:
    capacity = len(body) // event_bytes
    number = capacity if number is None else number
    return struct.pack("<HHIIIIII", kind, 1, event_bytes, time_at, overflow, capacity, number, number) + body


def aedat31_event(t: int, x: int, y: int, p: int, *, valid: bool = True) -> bytes:
    return struct.pack("<II", x << 17 | y << 2 | p << 1 | valid, t & 0x7FFF_FFFF)


def write_aedat31(
    path: str | Path, events: Events, *, packet_events: int = 100, header: bytes = AEDAT31_HEADER
) -> None:
    """One packet holds at most `packet_events` events and never two values of the overflow counter."""
    packets: list[bytes] = []
    body: list[bytes] = []
    overflow = 0
    for t, x, y, p in rows(events):
        if body and (len(body) == packet_events or t >> 31 != overflow):
            packets.append(aedat31_packet(b"".join(body), overflow=overflow))
            body = []
        overflow = t >> 31
        body.append(aedat31_event(t, x, y, p))
    if body:
        packets.append(aedat31_packet(b"".join(body), overflow=overflow))
    Path(path).write_bytes(header + b"".join(packets))


def write_aedat20(path: str | Path, events: Events) -> None:
    body = b"".join(struct.pack(">II", y << 8 | x << 1 | (1 - p), t) for t, x, y, p in rows(events))
    Path(path).write_bytes(AEDAT20_HEADER + body)


def write_npy(path: str | Path, events: Events) -> None:
    with Path(path).open("wb") as file:  # np.save adds a suffix to a path
        np.save(file, events.to_structured())


def write_npy_table(path: str | Path, events: Events) -> None:
    with Path(path).open("wb") as file:
        np.save(file, np.array([*rows(events)], dtype=np.float32))


def write_nmnist(path: str | Path, events: Events) -> None:
    """Times beyond 23 bits are written with overflow events (y = 240), 2^13 microseconds each."""
    body = bytearray()
    shift = 0
    for t, x, y, p in rows(events):
        while t - shift >= 1 << 23:
            body += bytes([0, 240, 0, 0, 0])
            shift += 1 << 13
        low = t - shift
        body += bytes([x, y, p << 7 | low >> 16, low >> 8 & 0xFF, low & 0xFF])
    Path(path).write_bytes(bytes(body))


def write_dat(path: str | Path, events: Events) -> None:
    width, height = events.sensor_size
    header = f"% Data file containing CD events.\n% Version 2\n% Width {width}\n% Height {height}\n".encode()
    body = b"".join(struct.pack("<II", t & 0xFFFF_FFFF, p << 28 | y << 14 | x) for t, x, y, p in rows(events))
    Path(path).write_bytes(header + bytes([12, 8]) + body)


def write_evt2(path: str | Path, events: Events) -> None:
    words = []
    high = None
    for t, x, y, p in rows(events):
        if t >> 6 != high:
            high = t >> 6
            words.append(8 << 28 | high & 0x0FFF_FFFF)
        words.append(p << 28 | (t & 0x3F) << 22 | x << 11 | y)
    write_raw(path, events, "2.0", b"".join(struct.pack("<I", word) for word in words))


def write_evt21(path: str | Path, events: Events, *, upper_first: bool, header: str = "") -> None:
    """One word an event: neighbours are not put together."""
    words = []
    high = None
    for t, x, y, p in rows(events):
        if t >> 6 != high:
            high = t >> 6
            words.append((8 << 28 | high & 0x0FFF_FFFF, 0))
        words.append((p << 28 | (t & 0x3F) << 22 | (x & ~31) << 11 | y, 1 << (x & 31)))
    order = [(upper, lower) if upper_first else (lower, upper) for upper, lower in words]
    write_raw(path, events, "2.1", b"".join(struct.pack("<II", *pair) for pair in order), header)


def write_evt3(path: str | Path, events: Events) -> None:
    """Words for what changed only, as a camera sends them; events of one row, time and polarity as vectors."""
    words: list[int] = []
    state: dict[str, int] = {}

    def change(name: str, value: int, word: int) -> None:
        if state.get(name) != value:
            state[name] = value
            words.append(word)
            if name == "high":
                state.pop("low", None)

    together: list[tuple[int, int, int, int]] = []

    def flush() -> None:
        if not together:
            return
        t, first_x, y, p = together[0]
        change("high", t >> 12, 8 << 12 | t >> 12 & 0xFFF)
        change("low", t & 0xFFF, 6 << 12 | t & 0xFFF)
        change("y", y, y)
        if len(together) == 1:
            words.append(2 << 12 | p << 11 | first_x)
        else:
            words.append(3 << 12 | p << 11 | first_x)
            mask = sum(1 << (x - first_x) for _, x, _, _ in together)
            while mask:
                length, kind = (12, 4) if mask >> 8 else (8, 5)
                words.append(kind << 12 | mask & ((1 << length) - 1))
                mask >>= length
        together.clear()

    for row in rows(events):
        t, x, y, p = row
        if together and ((t, y, p) != (together[0][0], *together[0][2:]) or x <= together[-1][1]):
            flush()
        together.append(row)
    flush()
    write_raw(path, events, "3.0", b"".join(struct.pack("<H", word) for word in words))


def write_raw(path: str | Path, events: Events, encoding: str, body: bytes, header: str = "") -> None:
    width, height = events.sensor_size
    lines = f"% date 2024-01-01 12:00:00\n% evt {encoding}\n% geometry {width}x{height}\n{header}% end\n"
    Path(path).write_bytes(lines.encode() + body)


def write_es(path: str | Path, events: Events, *, kind: int = 1) -> None:
    """Type 1 (DVS) or 2 (ATIS); a reset byte and, for type 2, an exposure event are put in between."""
    body = bytearray()
    before = 0
    flag_bits, unit = (1, 127) if kind == 1 else (2, 63)
    for t, x, row, p in rows(events):
        y = events.sensor_size[1] - 1 - row
        step = t - before
        before = t
        body.append(0xFE if kind == 1 else 0xFC)
        if kind == 1:
            body += b"\xff" * (step // unit)
        else:
            while step // unit:
                count = min(step // unit, 3)
                body.append(0xFC | count)
                step -= count * unit
        step %= unit
        if kind == 2:
            body += struct.pack("<BHH", step << 2 | 1, x, y)
            step = 0
        body += struct.pack("<BHH", step << flag_bits | p << (flag_bits - 1), x, y)
    Path(path).write_bytes(
        b"Event Stream" + bytes([2, 0, 0, kind]) + struct.pack("<HH", *events.sensor_size) + bytes(body)
    )
