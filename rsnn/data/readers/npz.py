"""NumPy files: arrays t, x, y, p or a structured array in `.npz`, one structured or (n, 4) in `.npy`.

Columns without names are t, x, y, p in this order. An `.npz` may hold `sensor_size` (width, height), as the
writer of this library adds it. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.readers.columns import DEFAULT_ORDER, block_of, find_columns, unit_of_name
from rsnn.data.readers.common import Block, Decoded, Source

NAME = "NumPy"
ZIP_MAGIC = b"PK\x03\x04"
NPY_MAGIC = b"\x93NUMPY"


def recognises(head: bytes, path: Path) -> bool:
    """Tell whether the file is an `.npy`, or a zip archive that is named `.npz` or holds one."""
    return head.startswith(NPY_MAGIC) or (
        head.startswith(ZIP_MAGIC) and (path.suffix == ".npz" or b".npy" in head[:256])
    )


def read(source: Source) -> Decoded:
    """Read the arrays, all at once."""
    arrays = load_arrays(source)
    if "offsets" in arrays:
        raise source.fault(
            f"it holds {len(arrays['offsets']) - 1} recordings one after another; expected one: "
            "open it with rsnn.data.EventArchive(path)"
        )
    return Decoded(_sensor_size(source, arrays), iter([_block(source, arrays)]))


def load_arrays(source: Source) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an `.npz` by name, or the one of an `.npy` under the name ""."""
    try:
        with source.path.open("rb") as file:
            if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
                file.seek(0)
                return {"": _load_array(source, file, source.size())}
        with zipfile.ZipFile(source.path) as archive:
            arrays = {}
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    with archive.open(member) as stream:
                        arrays[member.filename.removesuffix(".npy")] = _load_array(source, stream, member.file_size)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
        OSError,
    ) as error:
        raise source.fault(
            f"the file is truncated or damaged ({error}); expected a whole .npy or .npz file: copy it again"
        ) from error
    return arrays


def _load_array(source: Source, stream: Any, size: int) -> npt.NDArray[Any]:
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except Exception as error:  # NumPy evaluates the header as text: what a damaged one raises is not documented
        raise source.fault(f"an array's header is damaged ({error}); expected one that NumPy wrote") from error
    if dtype.hasobject:
        raise source.fault(f"an array holds Python objects ({dtype}); expected numbers: save it as t, x, y, p arrays")
    # The header is checked against the bytes that are there before any memory is asked for.
    count = 1
    for side in shape:
        count *= side
    expected = count * dtype.itemsize
    data = stream.read(expected) if expected <= size else b""
    if len(data) < expected:
        raise source.fault(
            f"the file is truncated: an array of shape {shape} needs {expected} bytes and {size} are there; "
            "expected the whole array: copy the file again"
        )
    array = np.frombuffer(data, dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _block(source: Source, arrays: Mapping[str, npt.NDArray[Any]]) -> Block:
    table: Mapping[str, npt.NDArray[Any]] = arrays
    names = find_columns(arrays)
    if names is None:
        for array in arrays.values():
            if array.dtype.names is not None and (names := find_columns(array.dtype.names)):
                table = {name: array[name] for name in names.values()}
                break
            if array.dtype.names is None and array.ndim == 2 and array.shape[1] == len(DEFAULT_ORDER):
                table = dict(zip(DEFAULT_ORDER, array.T, strict=True))
                names = {name: name for name in DEFAULT_ORDER}
                break
    if names is None:
        held = {name: (array.shape, array.dtype.names or str(array.dtype)) for name, array in arrays.items()}
        raise source.fault(
            f"it holds {held}; expected arrays t, x, y and p, a structured array with these fields, or "
            "columns of shape (n, 4)"
        )
    columns = {field: table[name] for field, name in names.items()}
    return block_of(source, columns, unit_of_name(names["t"]), lambda index: f"event {index}")


def _sensor_size(source: Source, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[int, int] | None:
    size = arrays.get("sensor_size")
    if size is None:
        return None
    if (
        size.shape not in {(2,), (3,)}
        or size.dtype.kind not in "iu"
        or not (int(size.min()) >= 1 and int(size.max()) <= 1 << 16)
    ):
        raise source.fault(f"sensor_size is {size!r}; expected two whole numbers (width, height)")
    return int(size[0]), int(size[1])
