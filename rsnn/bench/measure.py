"""Time the library against the same network written the plain way, in turn, in one process; and how its cost grows.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import ctypes
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsnn import kernels
from rsnn.bench.plain import PlainNetwork
from rsnn.bench.subject import firing, subject
from rsnn.data import Events, read_events, samples, to_frames
from rsnn.errors import InputError, shown
from rsnn.models import EventClassifier
from rsnn.nn.checks import check_positive
from rsnn.streaming.step import Step

# A call that does nothing but show how far a measurement is.
Progress = Callable[[int], None]


@dataclass
class Timing:
    """One job, done the plain way and by the library: medians of seconds, and CPU seconds (the least) beside them."""

    job: str
    plain_s: float | None
    ours_s: float
    plain_cpu_s: float | None
    ours_cpu_s: float
    per: int = 1  # samples, events
    unit: str = "sample"
    gflop: float | None = None  # of the whole job, dense
    plain_peak_mb: float | None = None
    ours_peak_mb: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the plain way takes as long."""
        return None if self.plain_s is None else self.plain_s / self.ours_s

    @property
    def cpu_ratio(self) -> float | None:
        """How many times the plain way takes as much of the processor."""
        return None if self.plain_cpu_s is None or not self.ours_cpu_s else self.plain_cpu_s / self.ours_cpu_s

    @property
    def gflops(self) -> float | None:
        """GFLOP/s of the dense network that the library's time stands for."""
        return None if self.gflop is None else self.gflop / self.ours_s


@dataclass
class BenchReport:
    """What `bench` found."""

    model: str
    torch: str
    threads: int
    kernels: dict[str, str]
    ceiling_gflops: dict[str, float]  # of the machine's own convolutions, by type
    weights: str
    firing: float  # share of what the spiking stages hand on that is not zero
    samples: int  # compared, each once
    copies: int  # of each in the largest batch
    same_decisions: dict[str, float]  # share of them, by type
    largest_difference: dict[str, float]  # of the logits
    timings: list[Timing] = field(default_factory=list)

    def summary(self) -> list[str]:
        """Return what holds for all rows, in lines."""
        used = ", ".join(f"{operator} by {kernel!r}" for operator, kernel in self.kernels.items())
        speeds = ", ".join(f"{kind} {speed:.0f} GFLOP/s" for kind, speed in self.ceiling_gflops.items())
        same = ", ".join(
            f"{self.same_decisions[kind]:.0%} in {kind} (logits differ by at most {difference:.2g})"
            for kind, difference in self.largest_difference.items()
        )
        compared = f"{self.samples} recordings" if self.samples > 1 else "1 recording"
        if self.copies > 1:
            compared += f", which fills batches by itself, up to {self.copies} times"
        return [
            f"{conditions()}; {used}",
            f"The machine's own convolutions (128 to 128 channels, channels_last) at their best: {speeds}",
            f"{self.model} with {self.weights}; {self.firing:.1%} of what the spiking stages hand on here is not zero",
            f"Same decisions as the plain way on {compared}: {same}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        timings = [{**asdict(t), "ratio": t.ratio, "cpu_ratio": t.cpu_ratio, "gflops": t.gflops} for t in self.timings]
        return {**asdict(self), "timings": timings}


def in_turn(calls: Sequence[Callable[[], object]], repeats: int) -> list[tuple[float, float]]:
    """Return of each call the median of its seconds and the least of its CPU seconds; all run in turn."""
    found: list[list[tuple[float, float]]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, times in zip(calls, found, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [(statistics.median(w for w, _ in times[1:]), min(c for _, c in times[1:])) for times in found]


def peak_mb(call: Callable[[], object]) -> float | None:
    """Return by how many megabytes the process grew at most during `call`; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    kernels.empty_cache()
    with suppress(OSError, AttributeError):  # another C library than GNU's keeps what was freed
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the largest size so far starts anew
    except OSError:
        return None
    before = _status_kb("VmRSS")
    call()
    most = _status_kb("VmHWM")
    return None if before is None or most is None else (most - before) / 1024


def _status_kb(name: str) -> float | None:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def ceiling(dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the GFLOP/s of this machine's convolutions at their best: 128 to 128 channels, channels_last."""
    convolution = nn.Conv2d(128, 128, 3, padding=1, bias=False, dtype=dtype)
    x = torch.randn(64, 128, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            convolution(x)
            times.append(time.perf_counter() - began)
    return 2 * x[:, 0].numel() * 128 * 128 * 9 / min(times[1:]) / 1e9


def _flops(model: nn.Module, frames: Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(frames)
    return float(counter.get_total_flops())


def bench(
    name: str = "rsnn-gesture-cl",
    *,
    batches: tuple[int, ...] = (1, 16),
    train_batch: int = 8,
    density: float | None = None,
    repeats: int = 5,
    on_progress: Progress | None = None,
) -> BenchReport:
    """Time an RSNN against the plain way, on recordings.

    Args:
        name: of the zoo, with a tag or without, or a folder or Hub repository.
        batches: batch sizes of inference.
        train_batch: batch size of the training step.
        density: take fresh weights, under which this share of what a spiking stage hands on is not zero; None takes
            the model's own where it has some.
        repeats: runs of each, after one that is not counted.
        on_progress: called with the number of jobs done so far.

    Raises:
        InputError: the model is no RSNN or takes no recordings, or a size, a number of runs or the density is none.

    """
    if not isinstance(batches, tuple | list) or not batches:
        raise InputError(f"batches={shown(batches)}: expected batch sizes of inference, as in (1, 16)")
    for batch in batches:
        check_positive(batches=batch)
    check_positive(train_batch=train_batch, repeats=repeats)
    torch.manual_seed(0)
    model, frames, weights, different = subject(name, max(*batches, train_batch), density)
    T, size = frames.shape[0], (frames.shape[3], frames.shape[4])
    plain = PlainNetwork(model).eval()
    labels = torch.zeros(train_batch, dtype=torch.long)

    def in_bfloat16(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    def step(network: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        network.train()
        F.cross_entropy(run(x).float(), labels).backward()
        network.zero_grad()
        network.eval()

    with torch.no_grad():
        expected = plain(frames)
        found = {"float32": model(frames), "bfloat16": in_bfloat16(frames)}
    report = BenchReport(
        name,
        torch.__version__,
        torch.get_num_threads(),
        {operator: kernels.selected("cpu", operator) for operator in ("lif", "convlstm")},
        {"float32": ceiling(torch.float32), "bfloat16": ceiling(torch.bfloat16)},
        weights,
        firing(model, frames[:, :1]),
        different,
        frames.shape[1] // different,
        {kind: float((y.argmax(1) == expected.argmax(1)).float().mean()) for kind, y in found.items()},
        {kind: float((y - expected).abs().max()) for kind, y in found.items()},
    )
    gflop = _flops(model, frames[:, :1]) / 1e9
    done = 0

    def add(job: str, calls: Sequence[Callable[[], object]], *, memory: bool = False, **fields: Any) -> None:
        nonlocal done
        found = in_turn(calls, repeats)
        p, p_cpu = found[0] if len(calls) > 1 else (None, None)
        ours = found[1:] or found
        peaks = [peak_mb(call) for call in calls] if memory else [None] * 3
        for kind, (wall, cpu), peak in zip(("", " in bfloat16"), ours, peaks[-len(ours) :], strict=False):
            report.timings.append(
                Timing(job + kind, p, wall, p_cpu, cpu, plain_peak_mb=peaks[0], ours_peak_mb=peak, **fields)
            )
        done += 1
        if on_progress:
            on_progress(done)

    with torch.no_grad():
        for count in batches:
            x = frames[:, :count].contiguous()
            calls = [partial(plain, x), partial(model, x), partial(in_bfloat16, x)]
            add(f"inference, batch {count}", calls, memory=True, per=count, gflop=count * gflop)
        frame = frames[:1, :1].contiguous()
        plain(frame)
        add("one step of a stream", [partial(plain.advance, frame), _stepping(model, frame)], gflop=gflop / T)
    x = frames[:, :train_batch].contiguous()
    calls = [partial(step, plain, plain, x), partial(step, model, model, x), partial(step, model, in_bfloat16, x)]
    add(f"training step, batch {train_batch}", calls, memory=True, per=train_batch, gflop=3 * train_batch * gflop)

    events = _made_events(1_000_000, size)
    ours = partial(to_frames, events, num_frames=T, split_by="time")
    add("events to frames", [partial(_plain_frames, events, T), ours], per=len(events), unit="event")
    file = samples.path()
    add("decoding (N-MNIST)", [partial(read_events, file)], per=len(read_events(file)), unit="event")
    return report


def _stepping(model: EventClassifier, frame: Tensor) -> Callable[[], object]:
    """Return a call that goes on by a step, as a stream of the model does, each with this frame (1, 1, 2, H, W)."""
    step = Step(model, lambda: model.advance(frame)[1])
    counts = frame[0, 0].numpy()
    _, state = model.advance(frame)

    def go_on() -> Tensor:
        nonlocal state
        if step.look() == "all":
            logits, state = step.run(counts, state)
        else:
            logits, state = model.advance(frame, state)
        return logits

    return go_on


def _made_events(count: int, size: tuple[int, int]) -> Events:
    import numpy as np

    generator = np.random.default_rng(0)
    height, width = size
    return Events(
        t=np.sort(generator.integers(0, 1_000_000, count)),
        x=generator.integers(0, width, count).astype(np.uint16),
        y=generator.integers(0, height, count).astype(np.uint16),
        p=generator.integers(0, 2, count).astype(np.uint8),
        sensor_size=(width, height),
    )


def _plain_frames(events: Events, T: int) -> object:
    """Add up events the plain way: a slice for each frame, numpy.add.at."""
    import numpy as np

    width, height = events.sensor_size
    frames = np.zeros((T, 2, height, width), np.float32)
    edges = np.linspace(events.t[0], events.t[-1] + 1, T + 1)
    for frame, (first, end) in zip(frames, itertools.pairwise(edges), strict=True):
        one = (events.t >= first) & (events.t < end)
        np.add.at(frame, (events.p[one].astype(int), events.y[one], events.x[one]), 1)
    return frames


def tables(report: BenchReport) -> list[tuple[str, ...]]:
    """Return the rows of the report's table, the head first."""

    def times(value: float | None) -> str:
        return "" if value is None else f"{value:.1f} x"

    rows: list[tuple[str, ...]] = [("job", "plain", "rsnn", "ratio", "CPU time", "GFLOP/s", "memory, plain", "rsnn")]
    for t in report.timings:
        each = [None if s is None else s / t.per for s in (t.plain_s, t.ours_s)]
        unit, factor = ("ms", 1e3) if t.unit == "sample" else ("ns", 1e9)
        shown = ["" if s is None else f"{factor * s:.1f} {unit} / {t.unit}" for s in each]
        memory = ["" if m is None else f"{m:.0f} MB" for m in (t.plain_peak_mb, t.ours_peak_mb)]
        speed = "" if t.gflops is None else f"{t.gflops:.0f}"
        rows.append((t.job, *shown, times(t.ratio), times(t.cpu_ratio), speed, *memory))
    return rows


def markdown(rows: list[tuple[str, ...]]) -> str:
    """Return rows as a Markdown table."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def conditions() -> str:
    """Return processor, threads and PyTorch's version, in words."""
    return f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def machine() -> str:
    """Return the processor's name, where the system tells."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()
