"""NumPy files: arrays t, x, y, p or a structured array in `.npz`, one structured or (n, 4) in `.npy`.

Columns without names are t, x, y, p in this order. An `.npz` may hold `sensor_size` (width, height), as the
writer of this library adds it. Nothing is unpickled. What is left of a truncated `.npy` is its whole rows; a truncated
`.npz` has lost the list of its arrays, which stands at the end.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.readers.columns import DEFAULT_ORDER, block_of, find_columns, unit_of_name, unit_of_values
from rsnn.data.readers.common import Block, Decoded, Source
from rsnn.errors import RecordingError

NAME = "NumPy"
ZIP_MAGIC = b"PK\x03\x04"
NPY_MAGIC = b"\x93NUMPY"
BLOCK_EVENTS = 1 << 19


def recognises(head: bytes, path: Path) -> bool:
    """Tell whether the file is an `.npy`, or a zip archive that is named `.npz` or holds one."""
    return head.startswith(NPY_MAGIC) or (
        head.startswith(ZIP_MAGIC) and (path.suffix == ".npz" or b".npy" in head[:256])
    )


def read(source: Source) -> Decoded:
    """Look at the arrays' headers; their values are read in blocks."""
    with _opened(source) as arrays:
        headers = {name: _read_header(source, stream, size) for name, (stream, size) in arrays.items()}
        if "offsets" in headers:
            raise source.fault(
                f"it holds {math.prod(headers['offsets'].shape) - 1} recordings one after another; expected one: "
                "open it with rsnn.data.EventArchive(path)"
            )
        size = (
            _load_array(source, arrays["sensor_size"][0], headers["sensor_size"]) if "sensor_size" in headers else None
        )
    return Decoded(
        None if size is None else stored_sensor_size(source, size), _blocks(source, _layout(source, headers))
    )


def load_arrays(source: Source) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an `.npz` by name, or the one of an `.npy` under the name ""."""
    with _opened(source) as arrays:
        return {
            name: _load_array(source, stream, _read_header(source, stream, size))
            for name, (stream, size) in arrays.items()
        }


class Header(NamedTuple):
    """What an array's first bytes say: shape, whether columns come first, type of the values."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def rows(self) -> int:
        """Length of the first dimension, 1 where there is none."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class Layout(NamedTuple):
    """Where the columns are: in arrays of their own, or in one array as fields or as columns of two dimensions."""

    length: int
    names: dict[str, str]
    table: str | None
    unit: Fraction | None


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[dict[str, tuple[Any, int]]]:
    """Yield a stream of each array's bytes and how many they are, the one of an `.npy` under the name ""."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(source.path.open("rb"))
            if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
                file.seek(0)
                yield {"": (file, source.size())}
                return
            archive = stack.enter_context(zipfile.ZipFile(source.path))
            yield {
                member.filename.removesuffix(".npy"): (stack.enter_context(archive.open(member)), member.file_size)
                for member in archive.infolist()
                if member.filename.endswith(".npy")
            }
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        UnicodeDecodeError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
        OSError,
    ) as error:
        raise source.damaged(str(error), "a whole .npy or .npz file") from error


def _read_header(source: Source, stream: Any, size: int) -> Header:
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header = Header(*read_header(stream))
    except (zipfile.BadZipFile, zlib.error, OSError):
        raise
    except Exception as error:  # NumPy evaluates the header as text: what a damaged one raises is not documented
        raise source.fault(f"an array's header is damaged ({error}); expected one that NumPy wrote") from error
    if header.dtype.hasobject:
        raise source.fault(
            f"an array holds Python objects ({header.dtype}); expected numbers: save it as t, x, y, p arrays"
        )
    if header.dtype.itemsize == 0 or any(side < 0 for side in header.shape):
        raise source.fault(f"an array of {header.dtype} has the shape {header.shape}; expected rows of numbers")
    # The header is checked against the bytes that are there before any memory is asked for.
    there = size - stream.tell()
    if there >= header.row_bytes * header.rows:
        return header
    if isinstance(stream, zipfile.ZipExtFile) or header.fortran or not header.shape:
        raise _short(source, header, there)
    source.cut(f"it ends at byte {size}, where {_needs(header, there)}", "the whole array")
    return header._replace(shape=(there // header.row_bytes, *header.shape[1:]))


def _needs(header: Header, there: int) -> str:
    order = " in Fortran order" if header.fortran else ""
    return f"an array of shape {header.shape}{order} needs {header.row_bytes * header.rows} bytes and {there} are there"


def _short(source: Source, header: Header, there: int) -> RecordingError:
    return source.damaged(_needs(header, there), "the whole array")


def _load_array(source: Source, stream: Any, header: Header) -> npt.NDArray[Any]:
    data = stream.read(header.row_bytes * header.rows)
    if len(data) < header.row_bytes * header.rows:
        raise _short(source, header, len(data))
    array = np.frombuffer(data, dtype=header.dtype)
    return array.reshape(header.shape[::-1]).T if header.fortran else array.reshape(header.shape)


def _layout(source: Source, headers: Mapping[str, Header]) -> Layout:
    if names := find_columns(headers):
        shapes = {field: headers[name].shape for field, name in names.items()}
        if len(set(shapes.values())) > 1 or len(shapes["t"]) != 1:
            raise source.fault(f"the columns have shapes {shapes}; expected one dimension and the same length")
        return Layout(shapes["t"][0], names, None, unit_of_name(names["t"]))
    for table, (shape, _, dtype) in headers.items():
        if dtype.names is not None and len(shape) == 1 and (names := find_columns(dtype.names)):
            return Layout(shape[0], names, table, unit_of_name(names["t"]))
        if dtype.names is None and len(shape) == 2 and shape[1] == len(DEFAULT_ORDER):
            return Layout(shape[0], {}, table, None)
    held = {name: (header.shape, header.dtype.names or str(header.dtype)) for name, header in headers.items()}
    raise source.fault(
        f"it holds {held}; expected arrays t, x, y and p, a structured array with these fields, or "
        "columns of shape (n, 4)"
    )


def _blocks(source: Source, layout: Layout) -> Iterator[Block]:
    unit = layout.unit
    with _opened(source) as arrays:
        wanted = list(layout.names.values()) if layout.table is None else [layout.table]
        headers = {name: _read_header(source, *arrays[name]) for name in wanted}
        for start in range(0, layout.length, BLOCK_EVENTS):
            rows = min(BLOCK_EVENTS, layout.length - start)
            if layout.table is None:
                columns = {
                    field: _rows(source, arrays[name][0], headers[name], rows) for field, name in layout.names.items()
                }
            elif headers[layout.table].fortran:  # its columns come one after another: there are no blocks of rows
                array = _load_array(source, arrays[layout.table][0], headers[layout.table])
                columns = dict(zip(DEFAULT_ORDER, array.T, strict=True))
            else:
                array = _rows(source, arrays[layout.table][0], headers[layout.table], rows)
                columns = (
                    {field: array[name] for field, name in layout.names.items()}
                    if layout.names
                    else dict(zip(DEFAULT_ORDER, array.T, strict=True))
                )
            unit = unit or unit_of_values(columns["t"])  # the first block decides for all
            yield block_of(source, columns, unit, _at_event(start))
            if layout.table is not None and headers[layout.table].fortran:
                return


def _rows(source: Source, stream: Any, header: Header, rows: int) -> npt.NDArray[Any]:
    """Return the next rows of an array whose header has been read."""
    data = stream.read(rows * header.row_bytes)
    if len(data) < rows * header.row_bytes:
        raise _short(source, header, len(data))
    return np.frombuffer(data, dtype=header.dtype).reshape(rows, *header.shape[1:])


def _at_event(start: int) -> Callable[[int], str]:
    return lambda index: f"event {start + index}"


def stored_sensor_size(source: Source, size: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the (width, height) that an array `sensor_size` holds.

    Raises:
        RecordingError: it holds something else.

    """
    if (
        size.shape not in {(2,), (3,)}
        or size.dtype.kind not in "iu"
        or not (int(size.min()) >= 1 and int(size.max()) <= 1 << 16)
    ):
        raise source.fault(f"sensor_size is {size!r}; expected two whole numbers (width, height)")
    return int(size[0]), int(size[1])
