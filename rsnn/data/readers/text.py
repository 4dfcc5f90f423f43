"""Text tables: one event a row, separated by commas, semicolons, tabs or spaces.

The columns are t, x, y, p unless a first row names them (in any order, more columns may follow), or a comment before
it that is as many words, as `numpy.savetxt(..., header="t x y p")` writes it. Empty lines and lines that begin with `#`
or `%` are skipped. Two more layouts are known: a `%geometry:W,H` line means the columns x, y, p, t of Prophesee's
exporter, and a first row of only two whole numbers is the sensor's width and height, as in E2VID's files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.events import LATEST_US
from rsnn.data.readers.columns import DEFAULT_ORDER, MICROSECOND, block_of, find_columns, unit_of_name, unit_of_values
from rsnn.data.readers.common import BLOCK_BYTES, HEAD_BYTES, Block, Decoded, Source

NAME = "text"
COMMENTS = ("#", "%")
GEOMETRY = "%geometry:"
PROPHESEE_ORDER = ("x", "y", "p", "t")
EXACT_BELOW = 1 << 51  # microseconds that a double still has right after one multiplication


class Layout(NamedTuple):
    """How rows are written: separator (`None`: white space), index of each column, lines before the rows."""

    separator: str | None
    columns: dict[str, int]
    unit: Fraction | None
    sensor_size: tuple[int, int] | None
    first_line: int


def recognises(head: bytes, path: Path) -> bool:  # noqa: ARG001
    """Tell whether the file is text whose first row names t, x, y and p or has four numbers."""
    try:
        return layout_of(_lines(_text(head))) is not None
    except ValueError:
        return False


def read(source: Source) -> Decoded:
    """Read the rows."""
    with source.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        layout = layout_of(_lines(_text(head)))
    except UnicodeDecodeError as error:
        raise source.fault(f"byte {error.start} is no text; expected rows of numbers") from None
    except ValueError as error:
        raise source.fault(str(error)) from None
    if layout is None:
        raise source.fault("it has no rows; expected the columns t, x, y, p")
    return Decoded(layout.sensor_size, _blocks(source, layout))


def _text(head: bytes) -> str:
    whole_lines = head[: head.rfind(b"\n") + 1] if len(head) == HEAD_BYTES else head
    try:
        return whole_lines.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in head:
            raise
        return whole_lines.decode("latin-1")  # comments may be in an old encoding; rows are numbers in any


def _lines(text: str) -> list[str]:
    """Return the lines as files have them: `str.splitlines` ends lines at a form feed and some more."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def layout_of(lines: Iterable[str]) -> Layout | None:
    """Return how rows are written, as the first lines say it; None while there is no row among them.

    Raises:
        ValueError: the first row is neither names nor numbers.

    """
    order: tuple[str, ...] = DEFAULT_ORDER
    sensor_size = None
    commented: list[str] = []
    for number, line in enumerate(lines):
        if line.startswith(GEOMETRY):
            order = PROPHESEE_ORDER
            sensor_size = _two_numbers(line.removeprefix(GEOMETRY).replace(",", " ").split())
        if is_comment(line):
            words, _ = _fields(line.strip().lstrip("".join(COMMENTS)))
            commented = words if find_columns(words) else commented
            continue
        fields, separator = _fields(line)
        if len(fields) == 2 and sensor_size is None and (sensor_size := _two_numbers(fields)):
            continue
        if names := find_columns(fields):
            columns = {field: fields.index(name) for field, name in names.items()}
            return Layout(separator, columns, unit_of_name(names["t"]), sensor_size, number + 1)
        if len(fields) < len(order) or not all(_is_number(field) for field in fields):
            raise ValueError(
                f"the first row, {line.strip()[:60]!r}, is neither names nor numbers; expected the columns t, x, y, p"
            )
        if len(commented) == len(fields) and (names := find_columns(commented)):
            columns = {field: commented.index(name) for field, name in names.items()}
            return Layout(separator, columns, unit_of_name(names["t"]), sensor_size, number)
        return Layout(separator, {field: order.index(field) for field in order}, None, sensor_size, number)
    return None


def _has_fraction(number: str) -> bool:
    try:
        return float(number) % 1 != 0
    except ValueError:
        return False


def is_comment(line: str) -> bool:
    """Tell whether a line is no row: empty, or a comment."""
    return not line.strip() or line.lstrip().startswith(COMMENTS)


def _fields(line: str) -> tuple[list[str], str | None]:
    """Return the fields of a line without their quotes, and what separates them."""
    separator = next((mark for mark in ",;\t" if mark in line), None)
    return [field.strip().strip("\"'") for field in line.split(separator)], separator


def _two_numbers(fields: list[str]) -> tuple[int, int] | None:
    if len(fields) == 2 and all(field.isdecimal() and 1 <= int(field) <= 1 << 16 for field in fields):
        return int(fields[0]), int(fields[1])
    return None


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return field.lower() in {"true", "false"}
    return True


def _blocks(source: Source, layout: Layout) -> Iterator[Block]:
    rows = Rows(source, layout)
    with source.path.open(encoding="utf-8-sig", errors="replace") as file:
        for _ in range(layout.first_line):
            file.readline()
        while lines := file.readlines(BLOCK_BYTES):
            if block := rows.block(lines):
                yield block


class Rows:
    """The rows of a table, in the order in which they come.

    Attributes:
        unit: microseconds in one unit of t; None before the first block has told, where no name does.

    """

    def __init__(self, source: Source, layout: Layout) -> None:
        self.source, self.layout, self.unit = source, layout, layout.unit
        self._read = layout.first_line
        self._whole: set[str] = set()  # times that are written as whole numbers, while the unit is open

    def block(self, lines: Sequence[str]) -> Block | None:
        """Return the events of the next lines, None if there are none."""
        first = self._read + 1
        self._read += len(lines)
        numbers = [number for number, line in enumerate(lines, first) if not is_comment(line)]
        rows = _cleaned([lines[number - first] for number in numbers])
        table = _table(self.source, self.layout, rows, numbers)
        if not len(table):
            return None
        columns: dict[str, npt.NDArray[Any]] = {field: table[:, k] for k, field in enumerate(DEFAULT_ORDER)}
        self.unit = self.unit or unit_of_values(columns["t"])
        unit, where = self.unit, _at_row(numbers)
        if EXACT_BELOW <= np.abs(columns["t"]).max() * max(unit, 1) < np.inf:
            columns["t"], unit = _exact_times(self.source, self.layout, rows[: len(table)], unit, where), MICROSECOND
        return block_of(self.source, columns, unit, where)

    def tells_unit(self, lines: Iterable[str]) -> bool:
        """Tell whether these lines, after those before, leave no doubt about the unit.

        A time has a fraction, or two are written without.
        """
        for line in lines:
            time = "" if is_comment(line) else "".join(_fields(line)[0][self.layout.columns["t"] :][:1])
            if time.lstrip("+-").isdigit():
                self._whole.add(time)
            elif _has_fraction(time):
                return True
        return len(self._whole) > 1


def _at_row(numbers: list[int]) -> Callable[[int], str]:
    return lambda index: f"row {numbers[index]}"


def _cleaned(rows: list[str]) -> list[str]:
    """Return rows without words for truth and, row by row, without quotes: one that is not closed stays."""
    if rows and ("true" in rows[0].lower() or "false" in rows[0].lower()):
        rows = [row.lower().replace("true", "1").replace("false", "0") for row in rows]
    return [row.replace('"', "") if '"' in row and row.count('"') % 2 == 0 else row for row in rows]


def _table(source: Source, layout: Layout, rows: list[str], numbers: list[int]) -> npt.NDArray[np.float64]:
    """Return the columns t, x, y, p of the rows as numbers, shape (rows, 4)."""
    if not rows:
        return np.empty((0, len(DEFAULT_ORDER)))
    try:
        return _numbers(layout, rows)
    except ValueError:
        bad = next((index for index, row in enumerate(rows) if not _is_event(layout, row)), 0)
    if bad == len(rows) - 1 and not rows[bad].endswith("\n"):
        source.cut(f"it ends within row {numbers[bad]}, {rows[bad][:60]!r}", "a whole row")
        return _table(source, layout, rows[:-1], numbers)
    raise source.fault(
        f"row {numbers[bad]} is {rows[bad].strip()[:60]!r}; expected numbers for "
        f"{', '.join(DEFAULT_ORDER)}, separated as in the first row"
    )


def _numbers(layout: Layout, rows: list[str]) -> npt.NDArray[np.float64]:
    wanted = [layout.columns[field] for field in DEFAULT_ORDER]
    return np.loadtxt(rows, delimiter=layout.separator, usecols=wanted, comments=None, ndmin=2)


def _is_event(layout: Layout, row: str) -> bool:
    try:
        _numbers(layout, [row])
    except ValueError:
        return False
    return True


def _exact_times(
    source: Source, layout: Layout, rows: list[str], unit: Fraction, where: Callable[[int], str]
) -> npt.NDArray[np.int64]:
    """Return the times of rows in microseconds, right to the last digit where a double has not room for them all.

    Raises:
        RecordingError: one does not fit in 63 bits.

    """
    column = layout.columns["t"]
    times = np.loadtxt(
        rows, dtype=object, delimiter=layout.separator, usecols=[column], converters=_exact, comments=None, ndmin=1
    )
    micros = [time if unit == 1 and isinstance(time, int) else round(time * unit) for time in times.tolist()]
    wrong = next((index for index, time in enumerate(micros) if not -LATEST_US - 1 <= time <= LATEST_US), None)
    if wrong is not None:
        time = _fields(rows[wrong])[0][column]
        raise source.fault(f"{where(wrong)} has the time {time}; expected microseconds that fit in 63 bits")
    return np.array(micros, dtype=np.int64)


def _exact(field: str) -> int | Fraction:
    try:
        return int(field)
    except ValueError:
        # Small ones are as exact as doubles, however many zeros their exponents say.
        return Fraction(field if abs(float(field)) >= 1 else float(field))
