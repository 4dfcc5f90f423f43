"""What all transforms share: how they are called, checked, put together and applied to a data set.

A transform is a frozen dataclass of its parameters, called with the data and a random generator:
`transform(events, rng)`. It has no state, so that the generator alone decides what comes out, and it can be pickled and
compared. `transform.with_label(events, label, rng)` is the same for data with a class, which some transforms change.
"""

from __future__ import annotations

import abc
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.checks import check_whole, is_finite
from rsnn.data.events import Events
from rsnn.data.fingerprint import told
from rsnn.data.protocols import Labelled, class_indices
from rsnn.errors import InputError, shown

_ATTRIBUTES = ("labels", "ids", "class_names", "name", "split", "split_name")


class Transform(abc.ABC):
    """Base class; a subclass has `__call__` and, if it changes the class as well, `with_label`."""

    @abc.abstractmethod
    def __call__(self, data: Any, rng: np.random.Generator) -> Any:
        """Return the changed data."""

    def with_label(self, data: Any, label: int, rng: np.random.Generator) -> tuple[Any, int]:
        """Return the changed data and its label."""
        return self(data, rng), label


class Compose(Transform):
    """Transforms one after another.

    Args:
        transforms: those of events first, then `ToFrames`, then those of frames; a list of them will do.

    Raises:
        InputError: one of them is no transform.

    """

    def __init__(self, *transforms: Transform | Sequence[Transform]) -> None:
        given = transforms[0] if len(transforms) == 1 and isinstance(transforms[0], list | tuple) else transforms
        for transform in given:
            _check_transform(transform)
        self.transforms: tuple[Transform, ...] = tuple(given)  # type: ignore[arg-type]

    def __call__(self, data: Any, rng: np.random.Generator) -> Any:
        for transform in self.transforms:
            data = transform(data, rng)
        return data

    def with_label(self, data: Any, label: int, rng: np.random.Generator) -> tuple[Any, int]:
        for transform in self.transforms:
            data, label = transform.with_label(data, label, rng)
        return data, label

    @property
    def fingerprint(self) -> str:
        """What it does, as a text."""
        return f"Compose{told(self.transforms)}"

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compose) and self.transforms == other.transforms

    def __hash__(self) -> int:
        return hash(self.transforms)


class Transformed:
    """A data set whose items go through a transform when they are fetched.

    What is random depends on `seed`, `epoch` and the index alone: not on the order in which items are fetched, nor on
    how many processes fetch them. Set `epoch` before each pass, or every pass sees the same; a
    `DataLoader` with `persistent_workers=True` does not pass it on to its processes.

    Args:
        dataset: recordings with labels, or their frames.
        transform: changes each item; it may change the label.
        seed: of everything random, a whole number from 0.

    Attributes:
        epoch: number of the pass, 0 at first; setting it sets that of a `Transformed` within this one.

    Raises:
        InputError: the recordings have no labels, or other labels than class indices, or an argument is not one of
            the above.

    """

    def __init__(self, dataset: Labelled, transform: Transform, *, seed: int = 0) -> None:
        if missing := [name for name in _ATTRIBUTES if not hasattr(dataset, name)]:
            raise InputError(
                f"Transformed got a {type(dataset).__name__}, which has no {missing[0]!r}; expected recordings with "
                "labels, or their FrameCache: for a part of them, take torch.utils.data.Subset of all transformed"
            )
        if dataset.labels is None:
            raise InputError(f"{dataset.name} has no labels; expected a class for each recording")
        class_indices(dataset)
        _check_transform(transform)
        self.dataset, self.transform, self.seed = dataset, transform, check_whole("seed", seed, 0)
        self._epoch: int = dataset.epoch if isinstance(dataset, Transformed) else 0
        # How many transformed data sets are within this one, a cache's too: each draws numbers of its own.
        self._depth: int = 1 + getattr(dataset, "_depth", -1)
        self.name, self.split, self.split_name = dataset.name, dataset.split, dataset.split_name
        self.ids, self.class_names = dataset.ids, dataset.class_names

    @property
    def epoch(self) -> int:
        """Number of the pass."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        if isinstance(self.dataset, Transformed):
            self.dataset.epoch = epoch

    @property
    def sensor_size(self) -> tuple[int, int]:
        """(width, height) of the recordings before the transform."""
        size: tuple[int, int] = self.dataset.sensor_size  # type: ignore[attr-defined]  # frames have none
        return size

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class index of each recording before the transform, shape (recordings,)."""
        return class_indices(self.dataset)

    @property
    def files(self) -> Sequence[Path]:
        """The files that the recordings come from."""
        files: Sequence[Path] = getattr(self.dataset, "files", ())
        return files

    @property
    def fingerprint(self) -> str:
        """What the items depend on besides the files.

        Raises:
            InputError: a transform says the address of an object instead of its parameters, or not all of them.

        """
        description = told(self.transform)
        if vague := re.search(r"<[^<]* at 0x[0-9a-fA-F]+", description):
            raise InputError(
                f"the transform holds {vague[0]}>, which does not say what it does, "
                "so that a cache could not tell it from another one; expected parameters that repr shows: make your "
                "own transform a frozen dataclass, as those of the library are"
            )
        return f"{getattr(self.dataset, 'fingerprint', None) or ''} {description} {self.seed} {self.epoch}"

    def events(self, index: int) -> Any:
        """Return the changed events of one recording, for those who take its class from `labels`.

        Raises:
            InputError: the transform changes its class as well.

        """
        data, before, rng = self._item(index)
        changed, after = self.transform.with_label(data, before, rng)
        if after != before:
            raise InputError(
                f"{shown(self.transform)} makes class {after} of class {before}, and a cache of frames keeps the "
                "classes as they were; expected transforms that leave them alone: change classes after the cache, as "
                "in Transformed(FrameCache(...), FlipFrames(labels=...))"
            )
        return changed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return the changed data and label of recording `index`; negative indices count from the end."""
        return self.transform.with_label(*self._item(index))

    def _item(self, index: int) -> tuple[Any, int, np.random.Generator]:
        """Return the data and the label of a recording before the transform, and the generator for it."""
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"recording {place} of {self.name}; it has {len(self)}")
        place %= len(self)
        item = self.dataset[place]
        # An archive gives its recordings without their labels.
        data, label = (item, int(self.dataset.labels[place])) if isinstance(item, Events) else item  # type: ignore[index]
        return data, label, np.random.default_rng((self.seed, self.epoch, place, self._depth))

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"<{self.dataset!r}, each through {self.transform!r}>"


def _check_transform(transform: object) -> None:
    if not isinstance(transform, Transform):
        raise InputError(
            f"transform is {shown(transform)}; expected a Transform, such as those of rsnn.data.transforms, which "
            "Compose puts together"
        )


def check_range(what: object, low: float, high: float, /, **values: float) -> None:
    """Check that each value is a finite number, Python's or NumPy's, and `low <= value <= high`.

    Raises:
        InputError: it does not hold for one.

    """
    for name, value in values.items():
        if not is_finite(value) or not low <= value <= high:
            upper = "" if high == float("inf") else f" to {high:g}"
            raise InputError(
                f"{type(what).__name__}: {name} is {value!r}; expected a number from {low:g}{upper or ' on'}"
            )
