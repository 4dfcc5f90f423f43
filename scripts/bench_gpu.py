"""Measure the GPU kernels in one call: agreement, LIF against the copy bandwidth, this library against the plain way.

    python scripts/bench_gpu.py                        # under 8 minutes on a GPU
    python scripts/bench_gpu.py --json report.json
    python scripts/bench_gpu.py --device cpu --small   # a rehearsal, of no use as a measurement

The network is `rsnn-gesture-cl` with its published weights, the recordings sixteen simulated gestures, T = 20 frames
of 128 x 128, as often as the batch needs. "The plain way" is the same network as one would write it without this
library: a ConvLSTM cell that convolves input and hidden state together, one step at a time, and SpikingJelly's
multi-step neurons, in float32. Both are timed in turn; a figure is the median of the repeats.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import rsnn
from rsnn import kernels
from rsnn.bench import PlainNetwork
from rsnn.bench.subject import subject
from rsnn.kernels import ATan, Sigmoid
from rsnn.kernels.convlstm import convlstm

TARGETS = {"inference": 10.0, "training": 5.0, "LIF": 0.70}  # times the plain way, twice; share of the copy bandwidth
out = Console(highlight=False, soft_wrap=True)


class Bench:
    """One run: device, sizes, and what was found."""

    def __init__(self, device: str, small: bool, seconds: float) -> None:
        self.device, self.small, self.seconds = torch.device(device), small, seconds
        self.gpu = self.device.type == "cuda"
        self.model, self.distinct = ("rsnn-nmnist-cl", 1) if small else ("rsnn-gesture-cl", 16)
        self.batches = (1, 2) if small else (16, 64, 256)
        self.report: dict[str, Any] = {"targets": []}
        self.started = time.perf_counter()

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def time(self, **calls: Callable[[], object]) -> dict[str, float]:
        """Return the median seconds of each call, all in turn until the time for one measurement is up."""
        for call in calls.values():  # compiles, and chooses algorithms
            for _ in range(1 if self.small else 3):
                call()
        self.wait()
        times: dict[str, list[float]] = {name: [] for name in calls}
        end = time.perf_counter() + self.seconds
        while len(next(iter(times.values()))) < 2 or time.perf_counter() < end:
            for name, call in calls.items():
                self.wait()
                start = time.perf_counter()
                call()
                self.wait()
                times[name].append(time.perf_counter() - start)
        return {name: statistics.median(found) for name, found in times.items()}

    def busy(self, **calls: Callable[[], object]) -> dict[str, float]:
        """Return the seconds that each call keeps the GPU busy, medians; on a CPU, as `time`.

        The GPU is kept waiting until ten calls are in its queue, so that it never waits for Python.
        """
        if not self.gpu:
            return self.time(**calls)
        found = {}
        for name, call in calls.items():
            for _ in range(3):
                call()
            times = []
            for _ in range(5):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda._sleep(20_000_000)  # cycles: some ten milliseconds
                begin.record()
                for _ in range(10):
                    call()
                end.record()
                self.wait()
                times.append(begin.elapsed_time(end) / 10 * 1e-3)
            found[name] = statistics.median(times)
        return found

    def target(self, name: str, kind: str, found: float | None) -> None:
        """Print whether a target is met, and keep it in the report."""
        wanted = TARGETS[kind]
        verdict = "not measured" if found is None or not self.gpu else "met" if found >= wanted else "UNMET"
        self.report["targets"].append({"name": name, "wanted": wanted, "found": found, "verdict": verdict})


def describe(bench: Bench) -> None:
    """Print the machine and which kernel can run on it."""
    name = torch.cuda.get_device_name(bench.device) if bench.gpu else "CPU"
    out.print(f"[bold]{name}[/], torch {torch.__version__}" + (f", CUDA {torch.version.cuda}" if bench.gpu else ""))
    chosen = {operator: kernels.selected(bench.device, operator) for operator in ("lif", "convlstm")}
    for kernel, reason in kernels.status().items():
        serves = [operator for operator, which in chosen.items() if which == kernel]
        out.print(f"  {kernel:13} {reason or 'available'}" + (f" - chosen for {', '.join(serves)}" if serves else ""))
    bench.report |= {"device": name, "torch": torch.__version__, "selected": chosen, "status": kernels.status()}


def runnable(bench: Bench) -> dict[str, tuple[str, ...]]:
    """Return the operators of every kernel that can run on the device."""
    return {
        name: kernel.operators
        for name, kernel in kernels.selection.KERNELS.items()
        if kernels.status()[name] is None and (kernel.devices is None or bench.device.type in kernel.devices)
    }


def agreement(bench: Bench) -> None:
    """Hold every kernel that can run on the device against the torch kernel there, which is without TF32."""
    out.print("\n[bold]Agreement with the torch kernel[/] (largest difference, relative to the largest value)")
    rows: dict[str, Any] = {}
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    for name, operators in runnable(bench).items():
        for operator in operators:
            if name == "torch" or operator == "attention":  # the reference; PyTorch's own on GPUs
                continue
            worst, equal = (lif_agreement if operator == "lif" else convlstm_agreement)(bench, name)
            rows[f"{operator} {name}"] = {"worst": worst, "spikes equal": equal}
            spikes = "" if operator == "convlstm" else f", {100 * equal:.4f} % of the spikes equal"
            out.print(f"  {operator:9}{name:13} {worst:.1e}{spikes}")
    torch.backends.cudnn.allow_tf32 = tf32
    for number, (differ, fire) in halves_agreement(bench).items():
        rows[f"stage {number} in half precision"] = {"spikes differ": differ, "spikes": fire}
        out.print(
            f"  stage {number} of the network in half precision: {differ:.1e} of the spikes differ, {fire:.1e} are 1"
        )
    bench.report["agreement"] = rows


@torch.no_grad()
def halves_agreement(bench: Bench) -> dict[int, tuple[float, float]]:
    """Return, for stages that take spikes in half precision, the share of their spikes that differs from float32's.

    And the share of ones among them. The other convolution is without TF32.
    """
    model, _, frames = networks(bench)
    x, found = model.eval().forward_features(frames), {}
    first, *others = model.classifier.convs
    x, _ = first(x, None)
    for number, stage in enumerate(others, 2):
        takes = stage.takes_halves(x, None)
        halves = stage(x.half(), None)[0] if takes else None
        tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        x, _ = stage(x, None)
        torch.backends.cudnn.allow_tf32 = tf32
        if halves is not None:
            found[number] = (halves != x).double().mean().item(), x.double().mean().item()
    return found


def gradients(call: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> list[Tensor]:
    """Return the results of a call and the gradients of their sum, weighted, on the CPU."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    results = call(*inputs)
    sum((r * torch.linspace(-1, 1, r.numel(), device=r.device).reshape(r.shape)).sum() for r in results).backward()
    return [x.detach().double().cpu() for x in (*results, *(x.grad for x in inputs))]


def worst_of(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference, each relative to the largest value of its tensor."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in zip(found, expected, strict=True)
    )


def lif_agreement(bench: Bench, name: str) -> tuple[float, float]:
    """Return the worst difference of potentials and gradients, and the share of spikes that are the same."""
    worst, same, all_spikes = 0.0, 0, 0
    neurons = (2, 3, 7, 5) if bench.small else (8, 64, 33, 31)
    for v_reset, surrogate, dtype in product((0.0, None), (ATan(), Sigmoid()), (torch.float32, torch.bfloat16)):
        x = (torch.randn(12, *neurons, device=bench.device) * 2 + 0.5).to(dtype)
        options = {"v_reset": v_reset, "surrogate": surrogate}
        results = []
        for kernel in ("torch", name):
            with kernels.use(kernel):
                results.append(gradients(lambda x, options=options: kernels.lif(x, **options), x))
        expected, found = results
        # A spike that differs changes everything after it in that neuron: potentials and gradients of the others count.
        differ = (expected[0] != found[0]).any(0)
        same += (expected[0] == found[0]).sum().item()
        all_spikes += expected[0].numel()
        pairs = [
            (a.masked_fill(differ, 0), b.masked_fill(differ, 0)) for a, b in zip(found[1:], expected[1:], strict=True)
        ]
        if dtype == torch.float32:
            worst = max(worst, worst_of(*map(list, zip(*pairs, strict=True))))
    return worst, same / all_spikes


def convlstm_agreement(bench: Bench, name: str) -> tuple[float, float]:
    """Return the worst difference of results and gradients of two sizes, few channels and more.

    CuPy's kernels multiply in TF32, and step aside where that is not allowed: they are to, the torch kernel is not.
    """
    worst = 0.0
    for D, side in ((4, 9), (20, 6)) if bench.small else ((4, 65), (6, 64), (20, 33)):
        inputs = [
            torch.randn(shape, device=bench.device) * scale
            for shape, scale in (
                ((5, 2, 3, side, side), 1.0),
                ((4 * D, 3, 3, 3), 0.2),
                ((4 * D, D, 3, 3), 0.5 / D**0.5),
                ((4 * D,), 1.0),
            )
        ]
        results = []
        for kernel in ("torch", name):
            torch.backends.cudnn.allow_tf32 = kernel == "cupy"
            with kernels.use(kernel):
                results.append(gradients(convlstm, *inputs))
        torch.backends.cudnn.allow_tf32 = False
        worst = max(worst, worst_of(results[1], results[0]))
    return worst, 1.0


def lif_alone(bench: Bench) -> None:
    """Time the LIF kernels against a copy of as many bytes."""
    out.print("\n[bold]LIF alone[/]: what must be read and written in the time of the kernels, as a share of a copy's")
    numbers = 1 << (16 if bench.small else 28)
    source, target = (torch.empty(numbers, device=bench.device) for _ in range(2))
    bandwidth = 2 * 4 * numbers / bench.busy(copy=lambda: target.copy_(source))["copy"]
    del source, target
    out.print(f"  copy          {bandwidth / 1e9:8.0f} GB/s")
    bench.report["copy bandwidth"] = bandwidth
    names = [name for name, operators in runnable(bench).items() if "lif" in operators]
    rows = bench.report["lif"] = {}
    shapes = (
        [(3, 2, 4, 8, 8)] if bench.small else [(20, 16, 128, 32, 32), (20, 64, 128, 32, 32), (20, 256, 128, 16, 16)]
    )
    for shape, dtype in product(shapes, (torch.float32, torch.bfloat16)):
        x = torch.randn(shape, device=bench.device).to(dtype).requires_grad_()
        value, moved = x.element_size() * x.numel(), {}
        moved["inference"] = 2 * value  # input, spikes
        moved["forward"] = 2 * value + 4 * x.numel()  # and the potentials, in float32, for backward
        moved["backward"] = moved["forward"]  # spikes' gradients and potentials in, input's gradients out
        gradient, to_train = torch.randn_like(x), {}
        for name in names:
            with kernels.use(name):
                spikes = kernels.lif(x)[0]

                def infer(x: Tensor = x) -> object:
                    with torch.no_grad():
                        return kernels.lif(x)

                times = bench.busy(
                    inference=infer,
                    forward=lambda x=x: kernels.lif(x),
                    backward=lambda s=spikes, x=x, g=gradient: torch.autograd.grad(s, x, g, retain_graph=True),
                )
                del spikes
            shares = {phase: moved[phase] / seconds / bandwidth for phase, seconds in times.items()}
            label = f"{name} {tuple(shape)} {str(dtype).removeprefix('torch.')}"
            rows[label] = {"seconds": times, "share of copy": shares}
            text = ", ".join(f"{phase} {1e3 * t:.2f} ms {100 * shares[phase]:.0f} %" for phase, t in times.items())
            out.print(f"  {label:52} {text}")
            to_train[name] = times["forward"] + times["backward"]
        fastest, chosen = min(to_train, key=lambda name: to_train[name]), kernels.selected(bench.device, "lif")
        as_fast = to_train[chosen] <= 1.05 * to_train[fastest]
        note = "" if as_fast else f" [yellow]but `auto` takes {chosen}: change the order[/]"
        out.print(f"    fastest to train: {fastest}{note if bench.gpu else ''}")
    ours = [row["share of copy"] for label, row in rows.items() if label.startswith("cupy")]
    for phase in ("inference", "forward", "backward"):
        worst = min((row[phase] for row in ours), default=None)
        bench.target(f"LIF kernel, {phase}: share of the copy bandwidth, worst size", "LIF", worst)


@functools.cache
def networks(bench: Bench) -> tuple[rsnn.RSNN, PlainNetwork, Tensor]:
    """Return the network, the same the plain way, and frames (T, N, 2, H, W) of the distinct recordings."""
    model, frames, *_ = subject(bench.model, bench.distinct)
    model = model.to(bench.device)
    return model, PlainNetwork(model).to(bench.device), frames.to(bench.device)


def whole_network(bench: Bench) -> None:
    """Time inference and training the plain way and this library's."""
    model, plain, distinct = networks(bench)
    fast = kernels.graphed(model)
    out.print("\n[bold]The whole network[/]: milliseconds a batch, and how many times the plain way that is")
    rows = bench.report["network"] = {}
    # All inference before training: from there on the two networks have different weights.
    for kind, batch in product(("inference", "training"), bench.batches):
        frames = distinct.repeat(1, batch // bench.distinct, 1, 1, 1)
        labels = torch.arange(batch, device=bench.device) % model.num_classes
        found = None
        try:
            if kind == "inference":
                found = inference(bench, model.eval(), plain.eval(), fast, frames)
            else:
                found = training(bench, model.train(), plain.train(), fast, frames, labels)
            rows[f"{kind} {batch}"] = found
        except torch.cuda.OutOfMemoryError:
            out.print(f"  {kind}, batch {batch}: [yellow]out of memory[/]")
        ratio = None if found is None else found["ratio"]["graphed"]
        bench.target(f"{kind}, batch {batch}: times the plain way, float32", kind, ratio)
        fast.graphs.clear()
        if bench.gpu:
            torch.cuda.empty_cache()


def inference(
    bench: Bench, model: nn.Module, plain: nn.Module, fast: Callable[..., Tensor], frames: Tensor
) -> dict[str, Any]:
    """Time the forward pass."""

    def in_bf16(run: Callable[..., Tensor]) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.autocast(bench.device.type, dtype=torch.bfloat16):
                return run(frames)

        return call

    calls = {
        "plain": lambda: plain(frames),
        "ours": lambda: model(frames),
        "graphed": lambda: fast(frames),
        "ours bf16": in_bf16(model),
        "graphed bf16": in_bf16(fast),
    }
    with torch.no_grad():
        expected, decisions = plain(frames), {}
        for name, call in calls.items():
            decisions[name] = (call().argmax(1) == expected.argmax(1)).double().mean().item()
        difference = ((model(frames) - expected).abs().max() / expected.abs().max()).item()
        return show(
            f"inference, batch {frames.shape[1]}",
            bench.time(**calls),
            decisions=decisions,
            difference=difference,
        )


def training(
    bench: Bench, model: nn.Module, plain: nn.Module, fast: Callable[..., Tensor], frames: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Time a training step: forward, backward, Adam."""

    def step_of(network: nn.Module, run: Callable[..., Tensor], bf16: bool = False) -> Callable[[], None]:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(bench.device.type, dtype=torch.bfloat16) if bf16 else nullcontext():
                loss = F.cross_entropy(run(frames), labels)
            loss.backward()
            optimizer.step()

        return step

    calls = {
        "plain": step_of(plain, plain),
        "ours": step_of(model, model),
        "ours bf16": step_of(model, model, bf16=True),
        "graphed": step_of(model, fast),
        "graphed bf16": step_of(model, fast, bf16=True),
    }
    memory = {}
    for name, call in calls.items() if bench.gpu else ():
        torch.cuda.reset_peak_memory_stats(bench.device)
        call()
        memory[name] = torch.cuda.max_memory_allocated(bench.device)
    return show(f"training, batch {frames.shape[1]}", bench.time(**calls), memory=memory)


def show(title: str, seconds: dict[str, float], **more: Any) -> dict[str, Any]:
    """Print the times of one measurement and return its part of the report."""
    ratio = {name: seconds["plain"] / found for name, found in seconds.items()}
    text = ", ".join(
        f"{name} {1e3 * found:.2f}" + (f" ({ratio[name]:.1f}x)" if name != "plain" else "")
        for name, found in seconds.items()
    )
    out.print(f"  {title}: {text}")
    if more.get("memory"):
        out.print(
            "    peak memory: " + ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in more["memory"].items())
        )
    if "decisions" in more:
        same = ", ".join(f"{name} {100 * share:.0f} %" for name, share in more["decisions"].items() if name != "plain")
        out.print(f"    logits differ by {100 * more['difference']:.2g} % of the largest; same decision: {same}")
    return {"seconds": seconds, "ratio": ratio, **more}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a rehearsal, on a CPU say")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each measurement (at least two repeats)")
    parser.add_argument("--json", type=Path, help="write everything there, too")
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; a rehearsal runs with --device cpu --small")
    bench = Bench(options.device, options.small, 0.0 if options.small else options.seconds)
    for step in (describe, agreement, lif_alone, whole_network):
        step(bench)
    out.print("\n[bold]Targets[/]")
    for target in bench.report["targets"]:
        found = "-" if target["found"] is None else f"{target['found']:.2f}"
        out.print(f"  {target['verdict']:13} {target['name']}: {found}, wanted {target['wanted']:g}")
    bench.report["seconds"] = time.perf_counter() - bench.started
    out.print(f"\n{bench.report['seconds']:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(bench.report, indent=1))


if __name__ == "__main__":
    main()
