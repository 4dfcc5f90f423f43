"""Models on streams that never end: events in, time-stamped predictions out, with memory that does not grow."""

import typing as _typing

from rsnn.lazy import later as _later
from rsnn.streaming.batch import StreamBatch
from rsnn.streaming.slicer import Slice, Slicer
from rsnn.streaming.stream import Stream
from rsnn.streaming.timing import Timing

if _typing.TYPE_CHECKING:
    from rsnn.streaming import decisions as decisions
    from rsnn.streaming import sources as sources
else:
    __getattr__, __dir__ = _later(__name__, "decisions", "sources")

__all__ = ["Slice", "Slicer", "Stream", "StreamBatch", "Timing"]
