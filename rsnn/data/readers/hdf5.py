"""HDF5 in the common layouts, read by `h5py`.

| layout | where |
|---|---|
| Prophesee | `CD/events` with the fields x, y, p, t; attribute `geometry` |
| DSEC, M3ED, RPG | `events/t, x, y, p` (or ts, xs, ys, ps); `t_offset`, if it is there, is added to the times |
| v2e | `events` of shape (n, 4) with the columns t, x, y, p |
| MVSEC | `davis/left/events` of shape (n, 4) with the columns x, y, t, p |
| plain | `t, x, y, p` at the top |

Units and polarities are told apart as in all tables (see `columns`). `t_offset` is one whole number of microseconds,
whatever the unit of the times, as DSEC's own reader takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import LATEST_US
from rsnn.data.readers.columns import DEFAULT_ORDER, block_of, find_columns, unit_of_name, unit_of_values
from rsnn.data.readers.common import Block, Decoded, Source, plausible_size
from rsnn.errors import MissingDependencyError, RecordingError, shown

NAME = "HDF5"
MAGIC = b"\x89HDF\r\n\x1a\n"
BLOCK_EVENTS = 1 << 20
TABLES = {"CD/events": DEFAULT_ORDER, "events": DEFAULT_ORDER, "davis/left/events": ("x", "y", "t", "p")}
GROUPS = ("events", "events/left", "prophesee/left", "/")

Columns = dict[str, Callable[[slice], npt.NDArray[Any]]]


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file begins as HDF5 does."""
    return head.startswith(MAGIC)


def read(source: Source) -> Decoded:
    """Read the first of the known layouts that the file has."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            f"{source.path} is HDF5 and the package 'h5py' is not installed; run: pip install 'rsnn[formats]'"
        ) from error
    try:
        with h5py.File(source.path, "r") as file:
            found = _find(h5py, source, file)
            if found is None:
                names: list[str] = []
                file.visit(names.append)
                raise source.fault(f"it holds {', '.join(names[:20])}; expected events/t, x, y, p or CD/events")
            size = _sensor_size(file)
    except RecordingError:
        raise
    except Exception as error:  # h5py raises whatever its C library met: OSError, RuntimeError, KeyError, ...
        raise source.damaged(str(error), "whole HDF5") from error
    return Decoded(size, _blocks(h5py, source))


def _blocks(h5py: Any, source: Source) -> Iterator[Block]:
    try:
        with h5py.File(source.path, "r") as file:
            columns, length, unit, shift = _find(h5py, source, file) or ({}, 0, None, 0)
            for start in range(0, length, BLOCK_EVENTS):
                part = slice(start, min(start + BLOCK_EVENTS, length))
                values = {field: column(part) for field, column in columns.items()}
                unit = unit or unit_of_values(values["t"])  # the first block decides for all
                block = block_of(source, values, unit, _at_event(start))
                yield block._replace(t=_shifted(source, block, shift)) if shift else block
    except RecordingError:
        raise
    except Exception as error:  # as in `read`
        raise source.fault(
            f"the events cannot be read ({error}); expected whole HDF5 with filters that h5py has: copy the "
            "file again, "
            "or install the filter's plugin (hdf5plugin has most)"
        ) from error


def _shifted(source: Source, block: Block, shift: int) -> npt.NDArray[np.int64]:
    wrong = block.t > LATEST_US - shift if shift > 0 else block.t < -LATEST_US - 1 - shift
    if wrong.any():
        index = int(np.argmax(wrong))
        raise source.fault(
            f"{block.where(index)} has the time {block.t[index]} and t_offset is {shift}; expected microseconds that "
            "fit in 63 bits"
        )
    return block.t + np.int64(shift)


def _at_event(start: int) -> Callable[[int], str]:
    return lambda index: f"event {start + index}"


def _find(h5py: Any, source: Source, file: Any) -> tuple[Columns, int, Fraction | None, int] | None:
    """Return how to read each column, the number of events, the unit of t if known, and what to add to t."""
    for path, order in TABLES.items():
        table = file.get(path)
        if isinstance(table, h5py.Dataset):
            if table.dtype.names and (names := find_columns(table.dtype.names)):
                return (
                    {field: _field(table, name) for field, name in names.items()},
                    len(table),
                    unit_of_name(names["t"]),
                    0,
                )
            if table.ndim == 2 and table.shape[1] == len(order):
                return {field: _column(table, order.index(field)) for field in DEFAULT_ORDER}, len(table), None, 0
    for path in GROUPS:
        group = file.get(path)
        names = find_columns(group) if isinstance(group, Mapping) else None
        if names and all(isinstance(group[name], h5py.Dataset) for name in names.values()):
            lengths = {field: group[name].shape for field, name in names.items()}
            if len(set(lengths.values())) > 1 or any(len(shape) != 1 for shape in lengths.values()):
                raise source.fault(f"the columns have shapes {lengths}; expected one dimension and the same length")
            shift = _whole_offset(source, group.get("t_offset", file.get("t_offset")))
            columns = {field: group[name].__getitem__ for field, name in names.items()}
            return columns, lengths["t"][0], unit_of_name(names["t"]), shift
    return None


def _whole_offset(source: Source, offset: Any) -> int:
    """Return the microseconds to add to the times; none where the file has no `t_offset`."""
    if offset is None:
        return 0
    value = np.asarray(offset[()])
    if value.size != 1 or value.dtype.kind not in "iuf" or value.item() % 1 != 0:
        raise source.fault(
            f"its t_offset is {shown(value.tolist())}; expected one whole number of microseconds, such as "
            "round(seconds * 1e6): write it anew"
        )
    return int(value.item())


def _field(table: Any, name: str) -> Callable[[slice], npt.NDArray[Any]]:
    return lambda part: table.fields(name)[part]


def _column(table: Any, number: int) -> Callable[[slice], npt.NDArray[Any]]:
    return lambda part: table[part, number]


def _sensor_size(file: Any) -> tuple[int, int] | None:
    """Return what the attributes say: Prophesee's "WxH", or (height, width) as the RPG tools write it."""
    geometry = file.attrs.get("geometry")
    if isinstance(geometry, str | bytes):
        text = geometry if isinstance(geometry, str) else geometry.decode("latin-1")
        width, _, height = text.partition("x")
        if width.isdecimal() and height.isdecimal() and (size := plausible_size(int(width), int(height))):
            return size
    resolution = np.asarray(file.attrs.get("sensor_resolution", ()))
    if resolution.shape == (2,) and resolution.dtype.kind in "iu":
        return plausible_size(int(resolution[1]), int(resolution[0]))
    return None
