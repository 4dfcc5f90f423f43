"""AEDAT 2.0 of a DVS128, as jAER, MNIST-DVS and CIFAR10-DVS have it.

Header lines begin with `#`; then every event is two big-endian 32-bit words: an address (bit 0 polarity with
0 = brighter, bits 1-7 x, bits 8-14 y, bit 15 set for the signals of an external clock, which are no events of
a pixel) and a time in microseconds, which wraps around after 2^32.

The sensor has 128 x 128 pixels, unless a line `# geometry WxH`, which is ours, says that the recording was another's.

Addresses are kept as the camera gave them. jAER shows them mirrored (its x runs left and its y runs up), and
the cameras of MNIST-DVS and CIFAR10-DVS stood on their side: the upright image has the column 127 - y and the
row 127 - x, which is how SpikingJelly loads CIFAR10-DVS. Keeping the addresses means that a file gives the
same frames wherever it is read.

Source: inivation.com, "AEDAT file formats", section 2.0; Lichtsteiner et al. 2008.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsnn.data.readers.common import (
    LONGEST_HEADER_BYTES,
    Block,
    Decoded,
    Source,
    at_bytes,
    read_header,
    read_records,
    stated_size,
    unwrap,
)

NAME = "AEDAT 2.0"
RECORD = np.dtype([("address", ">u4"), ("t", ">u4")])
EXTERNAL_BIT = 15
WRAP_BITS = 32
SENSOR_SIZE = (128, 128)


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file begins as AEDAT 2.0 does."""
    return head.startswith(b"#!AER-DAT2.0")


def read(source: Source) -> Decoded:
    """Read the events of a DVS128."""
    with source.path.open("rb") as file:
        header = read_header(file, b"#")
    if not header.whole:
        raise source.fault(
            f"the header line at byte {header.end} does not end; expected lines of text that begin with '#', at most "
            f"{LONGEST_HEADER_BYTES} bytes of them, then the events: the file is cut or damaged, copy it again"
        )
    chips = [line for line in header.lines if "AEChip" in line]
    if chips and not any("DVS128" in line for line in chips):
        raise source.fault(f"the header says {chips[0]!r}; expected a DVS128: convert the file to AEDAT 4 first")
    return Decoded(stated_size(header.lines) or SENSOR_SIZE, _blocks(source, header.end))


def _blocks(source: Source, start: int) -> Iterator[Block]:
    last_t = 0
    with source.path.open("rb") as file:
        file.seek(start)
        for offset, data in read_records(source, file, RECORD.itemsize):
            records = np.frombuffer(data, dtype=RECORD)
            address, counter = records["address"].astype(np.uint32), records["t"]
            place = np.arange(address.size)
            pixel = (address >> EXTERNAL_BIT) & 1 == 0
            if not pixel.all():
                place, address, counter = place[pixel], address[pixel], counter[pixel]
            if (address >> 16).any():
                index = int(np.argmax(address >> 16 != 0))
                raise source.fault(
                    f"the event at byte {offset + int(place[index]) * RECORD.itemsize} has the address "
                    f"{address[index]:#x}; "
                    "expected one of the 15 bits of a DVS128: recordings of other cameras convert to AEDAT "
                    "4 first"
                )
            t = unwrap(counter, WRAP_BITS, last_t)
            last_t = int(t[-1]) if t.size else last_t
            yield Block(
                t=t,
                x=((address >> 1) & 0x7F).astype(np.uint16),
                y=((address >> 8) & 0x7F).astype(np.uint16),
                p=(1 - (address & 1)).astype(np.uint8),
                where=at_bytes(offset, RECORD.itemsize, place),
            )
