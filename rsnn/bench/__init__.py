"""Time the library against the same network written the plain way, and how its cost grows: `rsnn bench`."""

from rsnn.bench.measure import BenchReport, Timing, bench, conditions, markdown, tables
from rsnn.bench.plain import PlainNetwork
from rsnn.bench.scaling import SIZES, Scaling, scaling, sizes
from rsnn.bench.subject import make_lively

__all__ = [
    "SIZES",
    "BenchReport",
    "PlainNetwork",
    "Scaling",
    "Timing",
    "bench",
    "conditions",
    "make_lively",
    "markdown",
    "scaling",
    "sizes",
    "tables",
]
