"""Labelled recordings from what a user points at: an archive, a folder, an official data set, or the simulator."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from rsnn.data import CIFAR10DVS, NMNIST, DVS128Gesture, EventArchive, EventFolder, Events
from rsnn.data.files import as_path, locked
from rsnn.data.fingerprint import cache_root, code_digest, file_digests
from rsnn.data.processes import check_not_started_again, pool
from rsnn.data.readers import READERS, open_source
from rsnn.data.simulate import SimulatedCIFAR10DVS, SimulatedGestures
from rsnn.errors import InputError, RecordingError, shortened, suggest
from rsnn.training.recipe import DataKind
from rsnn.training.state import cannot_write, write_bytes

OFFICIAL = {"gesture": DVS128Gesture, "cifar10dvs": CIFAR10DVS, "nmnist": NMNIST}
SIGN_FILES = {"train": "dvs_sign_train.npz", "test": "dvs_sign_test.npz"}
SPLITS = ("train", "validation", "test", "all")
_SIMULATED = re.compile(r"gestures:([1-9]\d*)")


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled recordings: some of a data set's, in an order of their own.

    Attributes:
        source: the data set, as `FrameCache` takes it.
        order: indices of these recordings in it.
        labels: class index of each (recordings,).
        ids: name of each.
        class_names: of the classes, where the data say it.
        text: what it is, in a few words.

    """

    source: Any
    order: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    class_names: tuple[str, ...] | None
    text: str

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Events:
        """Return the events of a recording."""
        events: Events = self.source.events(int(self.order[index]))
        return events

    def pairs(self, indices: Sequence[int] | None = None) -> Iterator[tuple[Events, int]]:
        """Go through the recordings with these indices, or all, and their labels."""
        return ((self.read(i), int(self.labels[i])) for i in (range(len(self)) if indices is None else indices))

    def subset(self, indices: npt.NDArray[np.int64], text: str) -> Part:
        """Return the recordings with these indices, in this order."""
        ids = tuple(self.ids[i] for i in indices)
        return replace(self, order=self.order[indices], labels=self.labels[indices], ids=ids, text=text)

    def labelled_for(self, class_names: Sequence[str] | None, num_classes: int | None) -> Part:
        """Return the recordings with labels that index the classes of a model.

        Classes are found by name where both sides have names, and those of the recordings may be some of the model's;
        names that differ only in case, spaces and underscores are one, unless two of one side are then the same. Where
        a side has no names, the numbers stay.

        Args:
            class_names: of the model's classes, in its order; None where it has none.
            num_classes: of the model; None where it does not tell.

        Raises:
            InputError: a recording is of a class that the model does not have.

        """
        if self.class_names is None or class_names is None:
            if num_classes is not None and len(outside := _outside(self.labels, num_classes)):
                raise InputError(
                    f"{self.text} has the label {outside[0]}, and the model has {num_classes} classes; expected labels "
                    f"from 0 to {num_classes - 1}: take recordings of the model's classes, or train a model for these"
                )
            return self
        there = [self.class_names[label] for label in np.unique(self.labels)]
        places = _places(there, class_names)
        missing = [name for name, place in zip(there, places, strict=True) if place is None]
        if missing:
            raise InputError(
                f"{self.text} has the classes {_listed(there)}; the model has {_listed(class_names)}, and so not "
                f"{_listed(missing)}. Expected classes of the model: rename those of the recordings, or train a model "
                f"for them.{suggest(missing[0], class_names)}"
            )
        return self._renamed(dict(zip(there, places, strict=True)), class_names)

    def in_order_of(self, class_names: Sequence[str] | None) -> Part:
        """Return the recordings with their classes in this order and spelling; as they are if the classes are others.

        Names are compared as in `labelled_for`.
        """
        if self.class_names is None or class_names is None:
            return self
        places = _places(self.class_names, class_names)
        if set(places) != set(range(len(class_names))) or len(places) != len(class_names):
            return self
        return self._renamed(dict(zip(self.class_names, places, strict=True)), class_names)

    def _renamed(self, places: dict[str, int | None], class_names: Sequence[str]) -> Part:
        assert self.class_names is not None
        labels = np.array([places[self.class_names[label]] for label in self.labels], dtype=np.int64)
        return replace(self, labels=labels, class_names=tuple(class_names))

    @functools.cached_property
    def contents(self) -> tuple[str, ...]:
        """What tells each recording's content: a digest of its file, and its place in it where that holds several.

        Files are read whole, once for all trainings: their digests are remembered, by path, size and time of change,
        where `FrameCache` remembers them. Of a data set with a file for each recording only the part's are read.

        Raises:
            RecordingError: a file cannot be read.

        """
        files, memory = self.source.files, cache_root() / "frames" / "digests.json"
        if len(files) == len(self.source):
            return tuple(file_digests([files[i] for i in self.order], memory))
        whole = " ".join(file_digests(files, memory))
        return tuple(f"{whole}:{i}" for i in self.order)

    def fingerprint(self) -> str:
        """Return a hash of the names, labels and contents, to tell other data from these wherever they lie."""
        rows = zip(self.ids, self.labels, self.contents, strict=True)
        text = "\n".join(f"{name}\t{label}\t{content}" for name, label, content in rows)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_part(data: str | os.PathLike[str], *, split: str = "train", kind: str = "auto", samples: str = ":") -> Part:
    """Return the recordings of one part of what a user points at.

    Args:
        data: an archive (`.npz` of many recordings), a folder, or `"gestures:N"` for N simulated gestures of any split.
        split: which part of it, where it has parts: "train", "validation" or "test"; or "all".
        kind: the data set's class, or "auto" to go by what `data` is.
        samples: FIRST:END cuts the part down to these.

    Raises:
        RSNNError: there is no such data, part or kind, it has no labels, or `samples` chooses nothing.

    """
    _check_kind(kind)
    part = _open(os.fspath(data), split, kind)
    if samples == ":":
        return part
    chosen = sample_range(samples, len(part))
    return part.subset(np.arange(chosen.start, chosen.stop), f"{part.text} [{chosen.start}:{chosen.stop}]")


def settings_that_count(data: str | os.PathLike[str], kind: str) -> tuple[bool, bool]:
    """Tell whether `open_part` goes by its `split`, and by this `kind`, for these data; both if there are none.

    Raises:
        RSNNError: there is no such kind, or the folder's table of recordings cannot be read.

    """
    _check_kind(kind)
    text, path = os.fspath(data), as_path(data)
    if kind == "simulated" or text.startswith("gestures:"):
        return True, kind == "simulated"
    if not path.is_dir():
        return not path.exists(), not path.exists()
    if kind in OFFICIAL or (kind == "sign" and (path / SIGN_FILES["train"]).is_file()):
        return True, True
    return bool(_folder_parts(path)), False


def _check_kind(kind: str) -> None:
    if kind not in get_args(DataKind):
        known = get_args(DataKind)
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(known)}.{suggest(kind, known)}")


def part_of(dataset: Any, text: str) -> Part:
    """Return all recordings of a data set, or of an archive that has labels; `text` says what they are.

    Raises:
        InputError: a label is no whole number from 0, or none of the classes that the data set names.

    """
    names, ids = dataset.class_names, dataset.ids
    labels = _whole(np.asarray(dataset.labels), text)
    if names is not None and len(outside := _outside(labels, len(names))):
        raise InputError(
            f"{text} has the label {outside[0]} and names {len(names)} classes; expected labels from 0 to "
            f"{len(names) - 1}: write the archive's array 'label' or 'class_names' anew"
        )
    return Part(
        dataset,
        np.arange(len(dataset)),
        labels,
        tuple(map(str, range(len(dataset)) if ids is None else ids)),
        None if names is None else tuple(names),
        text,
    )


def has_test_part(data: str | os.PathLike[str], kind: str) -> bool:
    """Tell whether the data come with a part to test on."""
    text = os.fspath(data)
    if kind == "simulated" or _SIMULATED.fullmatch(text):
        return True
    path = as_path(text)
    if not path.is_dir():
        return False
    if kind == "sign" and (path / SIGN_FILES["train"]).is_file():
        return (path / SIGN_FILES["test"]).is_file()
    return kind in OFFICIAL or _folder_parts(path) >= {"train", "test"}


def class_folders_in(data: str | os.PathLike[str], kind: str) -> list[Path]:
    """Return the folders of the data in which every folder is a class, whatever it is called."""
    from rsnn.data.datasets.folder import MANIFEST

    path = _own_folder(data, kind)
    if path is None or (path / MANIFEST).is_file():
        return []
    return [path / part for part in sorted(_folder_parts(path))] or [path]


def has_validation_part(data: str | os.PathLike[str], kind: str) -> bool:
    """Tell whether the data come with a part to validate on, which a training does not take."""
    path = _own_folder(data, kind)
    return path is not None and _folder_parts(path) >= {"train", "validation"}


def _own_folder(data: str | os.PathLike[str], kind: str) -> Path | None:
    """Return the folder of a user's own recordings that the data are; None where they are something else."""
    text, path = os.fspath(data), as_path(data)
    if kind == "simulated" or text.startswith("gestures:") or not path.is_dir():
        return None
    official = kind in OFFICIAL or (kind == "sign" and (path / SIGN_FILES["train"]).is_file())
    return None if official else path


def own_test_part(data: str | os.PathLike[str]) -> str:
    """Return the data whose test part tests what was trained on `data`: a tenth as many simulated recordings."""
    match = _SIMULATED.fullmatch(os.fspath(data))
    return f"gestures:{max(int(match[1]) // 10, 11)}" if match else os.fspath(data)


def sample_range(text: str, length: int) -> range:
    """Return the indices that FIRST:END chooses among `length` recordings.

    Raises:
        InputError: it is written in another way, or chooses none.

    """
    try:
        first, end = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise InputError(f"--samples {text!r}: expected FIRST:END, as in 800:1000") from None
    chosen = range(length)[slice(first, end)]
    if not chosen:
        raise InputError(f"--samples {text!r} chooses none of the {length} recordings")
    return chosen


def _whole(labels: npt.NDArray[Any], text: str) -> npt.NDArray[np.int64]:
    """Return labels as class indices, or raise InputError where they are none."""
    wrong = labels
    if labels.dtype.kind in "biuf":
        wrong = labels[(labels < 0) | ~np.isfinite(labels) | (labels != np.round(labels))]
    if len(wrong):
        raise InputError(
            f"{text} has the label {wrong[0].item()!r}; expected whole numbers from 0: write the archive's array "
            "'label' anew as class indices, and the names of the classes as its array 'class_names'"
        )
    return labels.astype(np.int64)


def _outside(labels: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.int64]:
    return labels[(labels < 0) | (labels >= number)]


def _places(names: Sequence[str], among: Sequence[str]) -> list[int | None]:
    """Return the place of each name among others, None where it is not there."""
    spelt: Callable[[str], str] = str
    if not set(names) <= set(among) and all(len({*map(_plain, some)}) == len({*some}) for some in (names, among)):
        spelt = _plain
    places = {spelt(name): place for place, name in enumerate(among)}
    return [places.get(spelt(name)) for name in names]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _listed(names: Sequence[str]) -> str:
    return shortened(", ".join(map(repr, names)), 200)


def _open(text: str, split: str, kind: str) -> Part:
    if kind == "simulated" or text.startswith("gestures:"):
        return _simulated(text, split)
    path = as_path(text)
    if not path.exists():
        raise RecordingError(
            f"{text} does not exist; expected an archive (.npz), a folder of recordings, or gestures:N to simulate them"
        )
    if path.is_file():
        _one_of(split, SPLITS, text)
        return _archive(path)
    if kind == "sign" and (path / SIGN_FILES["train"]).is_file():
        return _archive(path / SIGN_FILES[_one_of(split, SIGN_FILES, text)])
    if kind == "cifar10dvs" and SimulatedCIFAR10DVS.is_in(path):
        return _of_dataset(SimulatedCIFAR10DVS(path, split))
    if kind in OFFICIAL:
        try:
            return _of_dataset(OFFICIAL[kind](path, split))
        except RecordingError as error:
            if not _is_folder_of_classes(path):
                raise
            raise RecordingError(
                f"{error}\n{text} has folders of classes, or a table of them. If these are recordings of yours, rsnn "
                "train takes them with --set data.kind=auto --set validation.by=id, rsnn evaluate with --kind auto"
            ) from error
    if parts := _folder_parts(path):
        return _of_dataset(EventFolder(path, _one_of(split, (*sorted(parts), "all"), text)))
    _one_of(split, SPLITS, text)
    return _of_dataset(EventFolder(path))


def _one_of(split: str, parts: Iterable[str], text: str) -> str:
    if split not in parts:
        raise InputError(
            f"{text} has no part {split!r}; expected one of {', '.join(parts)}: rsnn evaluate takes --split, the other "
            "commands the folder of a part"
        )
    return split


def _folder_parts(path: Path) -> set[str]:
    from rsnn.data.datasets.folder import MANIFEST, PARTS, read_manifest

    if not (path / MANIFEST).is_file():
        return {part for part in PARTS if (path / part).is_dir()}
    return {row.get("split", "") for _, row in read_manifest(path)} - {""}


def _is_folder_of_classes(path: Path) -> bool:
    """Tell whether a folder looks like an `EventFolder`'s."""
    from rsnn.data.datasets.folder import MANIFEST

    if (path / MANIFEST).is_file() or _folder_parts(path):
        return True
    folders = (each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    return any(file.is_file() and not file.name.startswith(".") for folder in folders for file in folder.iterdir())


def _archive(path: Path) -> Part:
    source, reader = open_source(path, None, "error")
    alone = reader is not READERS["numpy"]
    if not alone:
        with contextlib.suppress(RecordingError):  # it holds several, or is damaged, which the archive says better
            reader.read(source)
            alone = True
    if alone:
        raise InputError(
            f"{path} is one recording ({source.format}), whose class nothing says; expected an archive of labelled "
            "ones (.npz), or a folder with a folder for each class"
        )
    archive = EventArchive(path)
    if archive.labels is None:
        raise InputError(f"{path} has no labels; expected an archive with an array 'label'")
    return part_of(archive, path.name)


def _of_dataset(dataset: Any) -> Part:
    named = f"{dataset.name}, {dataset.split} ({dataset.split_name})"
    return part_of(dataset, dataset.name if dataset.split == "all" else named)


def _simulated(text: str, split: str) -> Part:
    match = _SIMULATED.fullmatch(text)
    if match is None:
        raise InputError(
            f"--data {text!r}: expected gestures:N for N simulated recordings, as in gestures:5500; to train a recipe "
            "of simulated recordings on others, --set data.kind=auto"
        )
    number = int(match[1])
    clips = SimulatedGestures(number, split=split)
    path = cache_root() / "simulated" / f"gestures-{split}-{number}-seed{clips.seed}-{code_digest()[:12]}.npz"
    if not path.is_file():
        check_not_started_again()
        try:
            with locked(path):
                if not path.is_file():  # another process made it meanwhile
                    _simulate_into(clips, path)
        except OSError as error:
            raise cannot_write(path, error, "RSNN_CACHE names another folder for such files") from error
    part = _archive(path)
    subjects = tuple(f"subject{clips.subject(i)}:{i}" for i in range(number))
    return replace(
        part, ids=subjects, class_names=tuple(clips.class_names), text=f"{number} simulated gestures ({split})"
    )


def _simulate_into(clips: SimulatedGestures, path: Path) -> None:
    """Write the clips as an archive, on all cores: simulating one costs more than training on it."""
    import io

    from rich.console import Console
    from rich.progress import track

    with pool(os.cpu_count() or 1) as executor:
        made = executor.map(clips.__getitem__, range(len(clips)), chunksize=4)
        shown = track(made, f"simulating {clips.split}", len(clips), console=Console(stderr=True))
        all_clips = [events for events, _ in shown]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(events, name) for events in all_clips]).astype(kind)
        for name, kind in (("t", np.int32), ("x", np.uint8), ("y", np.uint8), ("p", np.uint8))
    }
    content = io.BytesIO()
    np.savez_compressed(
        content,
        **columns,
        offsets=np.cumsum([0, *map(len, all_clips)]),
        label=np.array(clips.labels, dtype=np.int64),
        sensor_size=np.array(clips.sensor_size),
    )
    write_bytes(path, content.getvalue())
