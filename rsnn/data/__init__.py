"""Recordings of event cameras: read them, cut them up, turn them into frames."""

import typing as _typing

from rsnn.data import transforms
from rsnn.data.archive import EventArchive
from rsnn.data.cache import FrameCache
from rsnn.data.chunks import iter_events
from rsnn.data.datasets import CIFAR10DVS, NMNIST, DVS128Gesture, EventDataset, EventFolder
from rsnn.data.events import EVENT_DTYPE, Events
from rsnn.data.frames import to_frames
from rsnn.data.readers import READERS, read_events
from rsnn.data.writers import write_events
from rsnn.lazy import later as _later

if _typing.TYPE_CHECKING:
    from rsnn.data import convert as convert
    from rsnn.data import samples as samples
    from rsnn.data import simulate as simulate
    from rsnn.data import summary as summary
else:
    __getattr__, __dir__ = _later(__name__, "convert", "samples", "simulate", "summary")

FORMATS = tuple(READERS)

__all__ = [
    "CIFAR10DVS",
    "EVENT_DTYPE",
    "FORMATS",
    "NMNIST",
    "DVS128Gesture",
    "EventArchive",
    "EventDataset",
    "EventFolder",
    "Events",
    "FrameCache",
    "iter_events",
    "read_events",
    "to_frames",
    "transforms",
    "write_events",
]
