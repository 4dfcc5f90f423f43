"""How time and memory of inference grow with steps, resolution and batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rsnn.bench.measure import Progress, in_turn, peak_mb
from rsnn.bench.subject import make_lively
from rsnn.models import RSNN
from rsnn.nn import SCNN, ConvLSTMEncoder
from rsnn.nn.checks import check_positive


@dataclass
class Scaling:
    """Seconds and megabytes of inference for one size."""

    what: str
    T: int
    N: int
    height: int
    width: int
    ms: float
    cpu_ms: float
    peak_mb: float | None
    us_per_pixel_step: float


# Encoder, T, N, height, width.
SIZES = (
    *(("CL", T, 1, 128, 128) for T in (5, 20, 50, 200)),
    *(("CL", 20, 1, height, width) for height, width in ((34, 34), (64, 64), (256, 256), (260, 346))),
    *(("CL", 20, N, 128, 128) for N in (2, 4, 16)),
    *(("CLA", 5, 1, height, width) for height, width in ((34, 34), (64, 64), (128, 128), (256, 256), (260, 346))),
)


def scaling(*, repeats: int = 3, on_progress: Progress | None = None) -> list[Scaling]:
    """Measure inference at growing steps, resolutions and batches, for CL and for CLA (attention), with fresh weights.

    The networks are made to fire: a tenth of what their spiking stages hand on is not zero.

    Raises:
        InputError: `repeats` is no whole number of at least 1.

    """
    check_positive(repeats=repeats)
    rows: list[Scaling] = []
    for what, T, N, height, width in SIZES:
        torch.manual_seed(0)
        options: dict[str, Any] = {} if what == "CL" else {"hidden_channels": (10,), "input_pool": 4, "pool": 1}
        encoder = ConvLSTMEncoder(attention=what == "CLA", **options)
        classifier = SCNN(encoder.out_channels, 11, encoder.output_size((height, width)))
        network = RSNN(encoder, classifier).eval()
        x = torch.poisson(torch.full((T, N, 2, height, width), 0.1))
        make_lively(network, x[:5, :1], density=0.1)
        with torch.no_grad():
            ((wall, cpu),) = in_turn([partial(network, x)], repeats)
            peak = peak_mb(partial(network, x))
        share = 1e6 * cpu / (T * N * height * width)
        rows.append(Scaling(what, T, N, height, width, 1e3 * wall, 1e3 * cpu, peak, share))
        if on_progress:
            on_progress(len(rows))
    return rows


def sizes(rows: list[Scaling]) -> list[tuple[str, ...]]:
    """Return the rows of the table of `scaling`, the head first."""
    head = ("encoder", "T", "batch", "frame", "time", "CPU time", "memory", "ns a pixel and step")
    shown = [
        (
            *(row.what, str(row.T), str(row.N), f"{row.width} x {row.height}"),
            *(f"{row.ms:.1f} ms", f"{row.cpu_ms:.1f} ms"),
            "" if row.peak_mb is None else f"{row.peak_mb:.0f} MB",
            f"{1e3 * row.us_per_pixel_step:.0f}",
        )
        for row in rows
    ]
    return [head, *shown]
