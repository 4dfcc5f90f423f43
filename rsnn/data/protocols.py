"""What labelled recordings have to offer, whichever class they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsnn.data.events import Events
from rsnn.errors import InputError, shown


class Labelled(Protocol):
    """A data set of `(data, label)`, or of events with labels: all data sets of recordings, archives, `FrameCache`."""

    @property
    def name(self) -> str:
        """The data set's name, for results."""

    @property
    def split(self) -> str:
        """The part that this is."""

    @property
    def split_name(self) -> str:
        """How the parts were made."""

    @property
    def labels(self) -> npt.NDArray[Any] | None:
        """Class index of each recording, if known."""

    @property
    def ids(self) -> Sequence[Any] | npt.NDArray[Any] | None:
        """Name of each recording, if they have any."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Name of each class, if known."""

    def __getitem__(self, index: int) -> Any:
        """Return the data and the label of one recording, or its events alone."""

    def __len__(self) -> int:
        """Return the number of recordings."""


class Recordings(Labelled, Protocol):
    """Labelled recordings of one sensor, as the data sets and `EventArchive` are."""

    @property
    def sensor_size(self) -> tuple[int, int]:
        """(width, height) of the sensor in pixels."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that the recordings come from."""

    def events(self, index: int) -> Events:
        """Return the events of one recording."""


def class_indices(dataset: Labelled) -> npt.NDArray[np.int64]:
    """Return the class index of each recording.

    Raises:
        InputError: the labels are none.

    """
    labels = np.asarray(dataset.labels)
    with np.errstate(invalid="ignore"):  # NaN is equal to nothing
        whole = labels.dtype.kind in "iuf" and bool((labels == labels.astype(int)).all())
    if labels.shape != (len(dataset),) or not whole:
        raise InputError(
            f"{dataset.name} has {len(dataset)} recordings and labels {shown(labels)} of shape {labels.shape}; "
            "expected a whole number, the index of its class, for each"
        )
    return labels.astype(np.int64)
