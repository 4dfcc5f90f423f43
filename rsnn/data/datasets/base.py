"""What the data sets share: a list of samples, each a file with a label, read when it is asked for."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.events import Events
from rsnn.data.fingerprint import told
from rsnn.errors import InputError, RecordingError, shown, suggest


class Sample(NamedTuple):
    """One recording of a data set: a name that stays the same everywhere, its class, and its file."""

    id: str
    label: int
    path: Path


class EventDataset:
    """Recordings with labels; `dataset[i]` is `(events, label)`, which a `torch.utils.data.DataLoader` can fetch.

    Args:
        name: the data set's name, for results.
        split: the part that this is, such as "train", or "all".
        split_name: how the parts were made, such as "official".
        samples: the recordings, in an order that never changes.
        class_names: name of each class; labels index it.
        sensor_size: (width, height) in pixels.
        read: reads the events of one file.

    Attributes:
        samples: the recordings.
        labels: class index of each recording, shape (recordings,).
        ids: name of each recording.

    """

    def __init__(
        self,
        *,
        name: str,
        split: str,
        split_name: str,
        samples: Sequence[Sample],
        class_names: Sequence[str],
        sensor_size: tuple[int, int],
        read: Callable[[Path], Events],
    ) -> None:
        self.name = name
        self.split = split
        self.split_name = split_name
        self.samples = tuple(samples)
        self.class_names = tuple(class_names)
        self.sensor_size = sensor_size
        self._read = read

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class index of each recording, shape (recordings,)."""
        return np.array([sample.label for sample in self.samples], dtype=np.int64)

    @property
    def ids(self) -> list[str]:
        """Name of each recording."""
        return [sample.id for sample in self.samples]

    @property
    def files(self) -> list[Path]:
        """File of each recording."""
        return [sample.path for sample in self.samples]

    @property
    def fingerprint(self) -> str:
        """What the events depend on besides the files: a function of the user's that reads them.

        Raises:
            InputError: the function does not say what it does.

        """
        function: Any = self._read
        if isinstance(function, functools.partial) and not function.args and {*function.keywords} <= {"sensor_size"}:
            function = function.func
        if str(getattr(function, "__module__", "")).split(".")[0] == "rsnn":
            return ""
        description = told(self._read)
        if " at 0x" in description:
            raise InputError(
                f"{self.name} is read by {shown(self._read)}, which does not say what it does, so that a cache could "
                "not tell it from another one; expected a function, or a frozen dataclass with __call__"
            )
        return description

    def events(self, index: int) -> Events:
        """Read the events of recording `index`; negative indices count from the end."""
        return self._read(self.samples[operator.index(index)].path)

    def select(self, ids: Sequence[str], split: str, split_name: str) -> EventDataset:
        """Return the recordings with these ids, in this order, as another part of the data set.

        Raises:
            InputError: the data set has no recording of that id.

        """
        by_id = {sample.id: sample for sample in self.samples}
        missing = [wanted for wanted in ids if wanted not in by_id]
        if missing:
            raise InputError(f"{self.name} has no sample {missing[0]!r}.{suggest(str(missing[0]), by_id)}")
        return EventDataset(
            name=self.name,
            split=split,
            split_name=split_name,
            samples=[by_id[wanted] for wanted in ids],
            class_names=self.class_names,
            sensor_size=self.sensor_size,
            read=self._read,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Events, int]:
        """Return the events and the label of recording `index`."""
        return self.events(index), self.samples[operator.index(index)].label

    def __iter__(self) -> Iterator[tuple[Events, int]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"<{self.name} {self.split} ({self.split_name}): {len(self)} recordings, {len(self.class_names)} classes>"
        )


def check_split(split: str, known: Sequence[str]) -> str:
    """Return `split` if it is one of `known`.

    Raises:
        InputError: it is not.

    """
    if split not in known:
        raise InputError(f"split is {split!r}; expected one of {', '.join(known)}.{suggest(str(split), known)}")
    return split


def check_complete(name: str, where: Path, wanted: Sequence[str], samples: Sequence[Sample]) -> None:
    """Check that a folder holds every sample of a split.

    Raises:
        RecordingError: some are missing.

    """
    found = {sample.id for sample in samples}
    missing = [sample for sample in wanted if sample not in found]
    if missing:
        raise RecordingError(
            f"{where} holds {len(wanted) - len(missing)} of the {len(wanted)} samples of {name} and not "
            f"{missing[0]!r}; "
            "expected all: delete the folder and make it again from the archives"
        )
