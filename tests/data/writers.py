"""Files in the official formats, written one record at a time: slow, and unrelated to the readers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from rsnn.data import Events

AEDAT31_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


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
    header = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"
    body = b"".join(struct.pack(">II", y << 8 | x << 1 | (1 - p), t) for t, x, y, p in rows(events))
    Path(path).write_bytes(header + body)


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
