"""The `.mat` files of ST-MNIST: touches of a tactile sensor of 10 x 10 cells, in MATLAB's format 5.

The matrix `spiketrain` has a row for each cell, with 1 (more pressure) and -1 (less) at the columns of its
events, and a last row of times in seconds. Cell k is at x = k mod 10, y = k div 10.

A file holds 128 bytes of header and arrays, compressed or not. An array has a tag (type, bytes) and four parts with
tags of their own: flags with its class, dimensions, name, and its numbers column by column in any type that holds
them. Each part is padded to a multiple of 8 bytes; one of up to four bytes can stand in its tag.

Sources: See et al. 2020, arXiv:2005.04319; The MathWorks, MAT-File Format, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rsnn.data.readers.columns import SECOND, block_of
from rsnn.data.readers.common import Block, Decoded, Source
from rsnn.errors import RecordingError

NAME = "ST-MNIST mat"
MAGIC = b"MATLAB 5.0 MAT-file"
HEADER_BYTES = 128
VARIABLE = b"spiketrain"
SIDE = 10
ROWS = SIDE * SIDE + 1
BLOCK_COLUMNS = (1 << 20) // ROWS

ORDERS = {b"IM": "<", b"MI": ">"}
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {1: "a cell array", 2: "a structure", 3: "an object", 4: "text", 5: "a sparse matrix", 16: "a function"}
NUMERIC = range(6, 16)  # the classes from double to uint64
COMPLEX = 1 << 11
PART_BYTES = 1 << 12  # the most for flags, dimensions or a name: MATLAB's names have 63
CHUNK_BYTES = 1 << 16


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file begins as MATLAB 5 files do."""
    return head.startswith(MAGIC)


def read(source: Source) -> Decoded:
    """Find the matrix; its columns are read in blocks."""
    with source.path.open("rb") as file:
        _find(source, file)
    return Decoded((SIDE, SIDE), _blocks(source))


class Element:
    """The bytes of an array that begins where `file` stands; no more are unpacked than are asked for."""

    def __init__(self, source: Source, file: IO[bytes], order: str, size: int, *, compressed: bool) -> None:
        self.source, self.order = source, order
        self._file, self._left = file, size
        self._inflate = zlib.decompressobj() if compressed else None

    def read(self, count: int, *, or_fewer: bool = False) -> bytes:
        """Return the next `count` bytes, fewer at the end if that is no error."""
        data = bytearray() if self._inflate else self._stored(count)
        try:
            while self._inflate and len(data) < count and not self._inflate.eof:
                packed = self._inflate.unconsumed_tail or self._stored(CHUNK_BYTES)
                unpacked = self._inflate.decompress(packed, count - len(data))
                if not packed and not unpacked:
                    break
                data += unpacked
        except zlib.error as error:
            raise _damaged(self.source, str(error)) from error
        if len(data) < count and not or_fewer:
            raise _damaged(self.source, "an array ends too early")
        return bytes(data)

    def tag(self) -> tuple[int, int, bytes | None]:
        """Return the type and the size of what follows, and its bytes if the tag holds them."""
        tag = self.read(8)
        kind, size = struct.unpack(self.order + "II", tag)
        return (kind, size, None) if kind < 1 << 16 else (kind & 0xFFFF, kind >> 16, tag[4:])

    def part(self) -> bytes:
        """Return the flags, the dimensions or the name, whichever is next."""
        _, size, data = self.tag()
        if size > (PART_BYTES if data is None else len(data)):
            raise _damaged(self.source, f"an array's flags, dimensions or name take {size} bytes")
        return (self.read(size + -size % 8) if data is None else data)[:size]

    def _stored(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data


def _find(source: Source, file: IO[bytes]) -> tuple[Element, int, np.dtype[Any]]:
    """Return the matrix with its numbers to be read next, how many columns it has, and the type of the numbers."""
    head, end, place = file.read(HEADER_BYTES), source.size(), HEADER_BYTES
    order = ORDERS.get(head[-2:])
    if len(head) < HEADER_BYTES or order is None:
        raise _damaged(source, f"its header of {HEADER_BYTES} bytes is {len(head)} long and ends with {head[-2:]!r}")
    while place < end:
        kind, size = struct.unpack(order + "II", file.read(8).ljust(8, b"\xff"))
        element = Element(source, file, order, size, compressed=kind == COMPRESSED)
        if place + 8 + size > end or (element.tag()[0] if kind == COMPRESSED else kind) != MATRIX:
            raise _damaged(source, f"at byte {place} of {end} begin {size} bytes of type {kind} that are no array")
        flags, dimensions, name = element.part(), element.part(), element.part()
        if name == VARIABLE:
            return element, *_numbers(element, flags, dimensions)
        place = file.seek(place + 8 + size)
    raise _other(source, "nothing")


def _numbers(element: Element, flags: bytes, dimensions: bytes) -> tuple[int, np.dtype[Any]]:
    if len(flags) != 8 or len(dimensions) < 8 or len(dimensions) % 4:
        raise _damaged(element.source, f"flags of {len(flags)} bytes, dimensions of {len(dimensions)}")
    word, _ = struct.unpack(element.order + "II", flags)
    shape = struct.unpack(f"{element.order}{len(dimensions) // 4}i", dimensions)
    if word & 0xFF not in NUMERIC:
        raise _other(element.source, CLASSES.get(word & 0xFF, f"an array of class {word & 0xFF}"))
    if word & COMPLEX or len(shape) != 2 or shape[0] != ROWS or shape[1] < 0:
        raise _other(element.source, f"{'a complex' if word & COMPLEX else 'an'} array of shape {shape}")
    kind, size, _ = element.tag()
    dtype = np.dtype(element.order + NUMBERS[kind]) if kind in NUMBERS else None
    if dtype is None or size != ROWS * shape[1] * dtype.itemsize:
        raise _damaged(element.source, f"{size} bytes of type {kind} for an array of shape {shape}")
    return shape[1], dtype


def _damaged(source: Source, what: str) -> RecordingError:
    return source.damaged(what, "a whole MATLAB 5 file")


def _other(source: Source, held: str) -> RecordingError:
    name = VARIABLE.decode()
    return source.fault(f"it holds {held} under the name {name!r}; expected real numbers of shape ({ROWS}, events)")


def _blocks(source: Source) -> Iterator[Block]:
    with source.path.open("rb") as file:
        element, columns, dtype = _find(source, file)
        for start in range(0, columns, BLOCK_COLUMNS):
            data = element.read(min(BLOCK_COLUMNS, columns - start) * ROWS * dtype.itemsize)
            matrix: npt.NDArray[Any] = np.frombuffer(data, dtype).reshape(-1, ROWS)
            column, cell = np.nonzero(matrix[:, :-1])
            values = {"t": matrix[column, -1], "x": cell % SIDE, "y": cell // SIDE, "p": matrix[column, cell]}
            yield block_of(source, values, SECOND, _at_column(start + column))
        if len(element.read(8, or_fewer=True)) == 8:  # padding is shorter; this also checks the checksum
            raise _damaged(source, "an array goes on after its last number")


def _at_column(column: npt.NDArray[np.intp]) -> Callable[[int], str]:
    return lambda index: f"column {column[index]}"
