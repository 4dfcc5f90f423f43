"""Recordings of event cameras: read them, cut them up, turn them into frames."""

from rsnn.data.archive import EventArchive
from rsnn.data.chunks import iter_events
from rsnn.data.events import EVENT_DTYPE, Events
from rsnn.data.frames import to_frames
from rsnn.data.readers import READERS, read_events

FORMATS = tuple(READERS)

__all__ = [
    "EVENT_DTYPE",
    "FORMATS",
    "EventArchive",
    "Events",
    "iter_events",
    "read_events",
    "to_frames",
]
