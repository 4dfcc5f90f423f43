"""Models on streams that never end: events in, time-stamped predictions out, with memory that does not grow."""

from rsnn.streaming.batch import StreamBatch
from rsnn.streaming.slicer import Slice, Slicer
from rsnn.streaming.stream import Stream
from rsnn.streaming.timing import Timing

__all__ = ["Slice", "Slicer", "Stream", "StreamBatch", "Timing"]
