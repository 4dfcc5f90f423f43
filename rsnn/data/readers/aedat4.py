r"""AEDAT 4, as iniVation's DV has it, decoded by the `aedat` package (extra `formats`).

The file is "#!AER-DAT4.0\\r\\n", a header (four bytes of size, then a flatbuffer), packets (32-bit stream
number and size, then compressed events) and a table of the packets. The packets are counted before any is
decoded: that shows where a truncated file ends, and that no packet claims more than is there. Of several
streams of events the first is read.

Source: inivation.com, "AEDAT file formats", section 4.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rsnn.data.readers.common import Block, Decoded, Source
from rsnn.errors import MissingDependencyError

NAME = "AEDAT 4"
MAGIC = b"#!AER-DAT4"
FIRST_BYTES = 14
PACKET_HEADER_BYTES = 8
TABLE_POSITION_FIELD = 1  # of the flatbuffer's fields: compression, position of the packet table, description


class Layout(NamedTuple):
    """The bytes at which the whole packets begin, and what is wrong after them if anything is."""

    packets: list[int]
    cut: str | None


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file begins as AEDAT 4 does."""
    return head.startswith(MAGIC)


def read(source: Source) -> Decoded:
    """Read the first stream of events."""
    try:
        import aedat
    except ImportError as error:
        raise MissingDependencyError(
            f"{source.path} is AEDAT 4 and the package 'aedat' is not installed; run: pip install 'rsnn[formats]'"
        ) from error
    layout = _layout(source)
    try:
        decoder = aedat.Decoder(str(source.path))
        streams = decoder.id_to_stream()
    except BaseException as error:
        raise _translated(source, "the header", error) from error
    events = sorted(number for number, stream in streams.items() if stream["type"] == "events")
    if not events:
        kinds = sorted({stream["type"] for stream in streams.values()})
        raise source.fault(f"it holds streams of {', '.join(kinds) or 'nothing'}; expected a stream of events")
    size = streams[events[0]]["width"], streams[events[0]]["height"]
    return Decoded(size, _blocks(source, decoder, events[0], layout))


def _blocks(source: Source, decoder: Any, stream: int, layout: Layout) -> Iterator[Block]:
    packets = iter(decoder)
    for offset in layout.packets:
        try:
            packet = next(packets)
        except BaseException as error:
            raise _translated(source, f"the packet at byte {offset}", error) from error
        if packet["stream_id"] == stream:
            events = packet["events"]
            place = f"byte {offset} (event {{}} of the packet there)"
            yield Block(events["t"], events["x"], events["y"], events["on"].astype("u1"), place.format)
    if layout.cut is not None:
        source.cut(layout.cut, "whole packets")


def _layout(source: Source) -> Layout:
    total = source.size()
    with source.path.open("rb") as file:
        head = file.read(FIRST_BYTES + 4)
        size = int.from_bytes(head[FIRST_BYTES:], "little") if len(head) == FIRST_BYTES + 4 else 0
        place = FIRST_BYTES + 4 + size
        if size == 0 or place > total:
            raise source.fault(
                f"the file ends at byte {total}, within its header of {max(place, 18)} bytes; copy it again"
            )
        table = _table_position(file.read(size))
        end = table if place <= table <= total else total
        packets: list[int] = []
        while place < end:
            file.seek(place)
            header = file.read(PACKET_HEADER_BYTES)
            if len(header) < PACKET_HEADER_BYTES:
                return Layout(packets, f"it ends at byte {total}, within the header of the packet at byte {place}")
            after = place + PACKET_HEADER_BYTES + int.from_bytes(header[4:], "little")
            if after > end:
                return Layout(
                    packets, f"it ends at byte {total}, within the packet of {after - place} bytes at byte {place}"
                )
            packets.append(place)
            place = after
    return Layout(
        packets, f"it ends at byte {total}, before the table of packets at byte {table}" if table > total else None
    )


def _table_position(header: bytes) -> int:
    """Return where the table of packets begins; -1, as recorders that were killed leave it, if nowhere."""
    try:
        (root,) = struct.unpack_from("<I", header, 0)
        (back,) = struct.unpack_from("<i", header, root)
        (table_bytes,) = struct.unpack_from("<H", header, root - back)
        slot = 4 + 2 * TABLE_POSITION_FIELD
        (field,) = struct.unpack_from("<H", header, root - back + slot) if slot < table_bytes else (0,)
        return int(struct.unpack_from("<q", header, root + field)[0]) if field else -1
    except struct.error:
        return -1


def _translated(source: Source, what: str, error: BaseException) -> BaseException:
    """Return what to raise for an error of the decoder, whose panics are no `Exception`; an interrupt stays one."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return source.fault(f"{what} cannot be decoded ({error}); expected what DV writes: the file is damaged there")
    return error
