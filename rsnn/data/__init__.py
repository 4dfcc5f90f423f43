"""Recordings of event cameras: read them, cut them up, turn them into frames."""

from rsnn.data.archive import EventArchive
from rsnn.data.events import EVENT_DTYPE, Events
from rsnn.data.frames import to_frames
from rsnn.data.readers import READERS, read_events

FORMATS = tuple(READERS)

__all__ = [
    "EVENT_DTYPE",
    "FORMATS",
    "EventArchive",
    "Events",
    "read_events",
    "to_frames",
]
