"""Your own recordings: a folder for each class, or a table that names files and classes."""

from __future__ import annotations

import csv
import functools
import os
from collections import Counter
from pathlib import Path

from rsnn.data.chunks import largest_coordinates
from rsnn.data.datasets.base import EventDataset, Sample, check_split
from rsnn.data.events import check_sensor_size
from rsnn.data.files import as_path
from rsnn.data.progress import progress
from rsnn.data.readers import open_source, read_events
from rsnn.data.readers.common import usual_sensor_size
from rsnn.errors import RecordingError

MANIFEST = "manifest.csv"
PARTS = ("train", "validation", "test")


class EventFolder(EventDataset):
    """Recordings of any known format, below one folder.

    Either `root` has the table `manifest.csv` with the columns `path` (from `root`, or absolute), `label` (the class's
    name) and, if there are parts, `split`; or it has a folder for each class with recordings in it; or folders `train`,
    `validation`, `test` which have those, and no other part beside them. Files whose names begin with a dot are left
    out. Classes are numbered in the order of their names, over all parts.

    Args:
        root: the folder.
        split: the part to take; "all", the default, takes every recording.
        sensor_size: (width, height) of the sensor. By default what the files say if they agree; if they do not say it,
            the first of the usual sensors that holds the events of every recording, for which all are read once.

    Raises:
        RecordingError: there is no such folder, it holds no recordings or a part of another name, or the files say
            different sensors.
        InputError: `split` is not a part that the folder has.

    """

    def __init__(
        self, root: str | os.PathLike[str], split: str = "all", *, sensor_size: tuple[int, int] | None = None
    ) -> None:
        root = as_path(root)
        if not root.is_dir():
            raise RecordingError(f"{root} is no folder; expected one with a folder of recordings for each class")
        rows = _from_manifest(root) if (root / MANIFEST).is_file() else _from_folders(root)
        if not rows:
            files = sum(path.is_file() and path.name != MANIFEST for path in _visible(root))
            raise RecordingError(
                f"{root} holds no recordings; expected <class>/<recording>, or <part>/<class>/<recording> if it has a "
                f"folder {', '.join(PARTS[:-1])} or {PARTS[-1]}, or the table {MANIFEST}"
                + (f"; files in {root} itself, here {files}, are of no class" if files else "")
            )
        class_names = sorted({label for _, label, _ in rows})
        parts = sorted({part for _, _, part in rows if part})
        if "all" in parts:
            raise RecordingError(
                f"{root / MANIFEST} names a part 'all'; expected another name, for 'all' takes every row"
            )
        check_split(split, ("all", *parts))
        samples = [
            Sample(_id(root, path), class_names.index(label), path)
            for path, label, part in rows
            if split in ("all", part)
        ]
        size = (
            check_sensor_size(sensor_size) if sensor_size else _common_sensor_size(root, [path for path, _, _ in rows])
        )
        super().__init__(
            name=root.name if root.name not in ("", "..") else root.resolve().name,
            split=split,
            split_name="folders" if parts else "none",
            samples=samples,
            class_names=class_names,
            sensor_size=size,
            read=functools.partial(read_events, sensor_size=size),
        )


Row = tuple[Path, str, str]  # file, class, part or ""


def _id(root: Path, path: Path) -> str:
    """Return the way from `root` to a file, the same however either is written."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # on another drive of Windows there is none
        return path.as_posix()


def _from_folders(root: Path) -> list[Row]:
    parts = [part for part in PARTS if (root / part).is_dir()]
    rows: list[Row] = []
    for part in parts or [""]:
        for folder in _visible(root / part):
            if folder.is_dir():  # a link that leads nowhere is no folder, and an error once it is read
                inside = _visible(folder)
                if deeper := next((path for path in inside if path.is_dir()), None):
                    raise RecordingError(
                        f"{deeper} is a folder within a class, whose recordings would be left out; expected "
                        f"<class>/<recording>: move them up, or list them in {MANIFEST}"
                    )
                rows += [(path, folder.name, part) for path in inside]
    if parts:
        _check_beside(root, parts, {label for _, label, _ in rows})
    return rows


def _check_beside(root: Path, parts: list[str], class_names: set[str]) -> None:
    """Raise RecordingError if beside the parts there is another one, whose recordings would be left out."""
    for folder in _visible(root):
        if folder.is_dir() and folder.name not in parts and any((folder / name).is_dir() for name in class_names):
            raise RecordingError(
                f"{root} has the parts {', '.join(parts)} and beside them {folder.name!r} with folders of the same "
                f"classes; expected no parts but {', '.join(PARTS)}: rename it"
            )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _from_manifest(root: Path) -> list[Row]:
    table = root / MANIFEST
    rows = []
    for number, row in read_manifest(root):
        path, label = root / row["path"], row["label"]
        if not path.is_file() or not label:
            raise RecordingError(
                f"{table}: row {number} names {str(path)!r} of class {label!r}; expected a file that is there, its "
                "path counted from the table's folder, and a class"
            )
        rows.append((path, label, row.get("split", "")))
    twice = [name for name, count in Counter(_id(root, path) for path, _, _ in rows).items() if count > 1]
    if twice:
        raise RecordingError(f"{table} names {str(root / twice[0])!r} twice; expected each recording once")
    return rows


def read_manifest(root: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a folder's table, without spaces around their texts, each with its number in the file.

    Raises:
        RecordingError: the table lacks a column or is no text.

    """
    table = root / MANIFEST
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
            rows = [(reader.line_num, {name: (row[name] or "").strip() for name in columns}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(
            f"{table} cannot be read ({error}); expected a table of commas in UTF-8: save it as 'CSV UTF-8'"
        ) from error
    if not {"path", "label"} <= set(columns):
        raise RecordingError(f"{table} has the columns {columns}; expected path and label, and split if wanted")
    return rows


def _common_sensor_size(root: Path, paths: list[Path]) -> tuple[int, int]:
    said: dict[tuple[int, int], Path] = {}
    silent = []
    with progress("looking at recordings", len(paths)) as advance:
        for number, path in enumerate(paths):
            source, reader = open_source(path, None, "error")
            size = reader.read(source).sensor_size
            if size is None:
                silent.append((source, reader))
            else:
                said.setdefault(size, path)
            advance(number + 1)
    if len(said) > 1:
        (one, first), (other, second) = list(said.items())[:2]
        raise RecordingError(
            f"{first} says a sensor of {one} and {second} of {other}; expected one sensor in {root}: pass "
            "sensor_size=, or "
            "keep recordings of different sensors in different folders"
        )
    if said:
        return next(iter(said))
    width = height = 1
    with progress("looking for the largest coordinates", len(silent)) as advance:
        for number, (source, reader) in enumerate(silent):
            one_width, one_height = largest_coordinates(reader.read(source).blocks)
            width, height = max(width, one_width), max(height, one_height)
            advance(number + 1)
    return usual_sensor_size(width, height)
