"""Plot accuracy against energy over widths of the spiking CNN, numbers of steps, and thresholds.

    python scripts/energy_tradeoff.py rsnn-nmnist-cl nmnist_1000.npz --train :800 --test 800:1000 --output runs/tradeoff

MODEL is an RSNN with weights. For every width a new spiking CNN is trained over its encoder, which stays as it is (the
features are computed once); steps and thresholds are changed in MODEL itself, without training. The folder gets the
plot, a table and the trained networks, `width-16` and so on, which `scripts/table4.py` takes.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich import progress
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import rsnn
from rsnn.data import Events
from rsnn.energy import energy_report
from rsnn.nn import LIF, SCNN
from rsnn.training.sources import Part, open_part

BATCH_SIZE = 20

track = functools.partial(progress.track, console=Console(stderr=True))  # standard output is the table alone


@dataclass(frozen=True)
class Point:
    """One network: what was changed, how good it is, and what a recording costs, in microjoules."""

    series: str
    value: float
    accuracy: float
    decision: float
    whole: float


@torch.no_grad()
def features_of(model: rsnn.RSNN, part: Part) -> tuple[Tensor, Tensor]:
    """Return the encoder's features of all recordings (T, N, C, H, W) in half precision, and their labels."""
    rows, labels = [], []
    for events, label in track(part.pairs(), "encoder", total=len(part)):
        frames = model.preprocessing.frames(events)[:, None]
        rows.append(model.forward_features(frames).to(torch.float16))
        labels.append(label)
    return torch.cat(rows, 1), torch.tensor(labels)


def narrowed(model: rsnn.RSNN, width: int, features: Tensor, labels: Tensor, epochs: int) -> rsnn.RSNN:
    """Return MODEL's encoder under a spiking CNN of another width, trained on these features."""
    torch.manual_seed(0)
    whole = model.classifier
    kept = ("in_channels", "num_classes", "in_size", "pools", "votes", "in_pool", "tau", "v_threshold", "v_reset")
    classifier = SCNN(channels=width, **{name: getattr(whole, name) for name in kept})
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.01)
    N = len(labels)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * -(-N // BATCH_SIZE))
    classifier.train()
    for _ in track(range(epochs), f"width {width}"):
        for chosen in torch.randperm(N).split(BATCH_SIZE):
            rates, _ = classifier(features[:, chosen].float())
            loss = F.cross_entropy(model.logit_scale * rates, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return rsnn.RSNN(
        model.encoder,
        classifier.eval(),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        logit_scale=model.logit_scale,
    ).eval()


@torch.no_grad()
def measure(model: rsnn.RSNN, recordings: list[tuple[Events, int]], series: str, value: float) -> Point:
    """Return accuracy and energy on the recordings."""
    predictions = model.predict([events for events, _ in recordings])
    right = sum(prediction.index == label for prediction, (_, label) in zip(predictions, recordings, strict=True))
    report = energy_report(model, (model.preprocessing.frames(events)[:, None] for events, _ in recordings))
    parts = report.parts
    return Point(series, value, right / len(recordings), 1e6 * parts["classifier"].joules, 1e6 * report.total.joules)


def with_steps(model: rsnn.RSNN, steps: int) -> rsnn.RSNN:
    """Return the same network on recordings cut into other numbers of steps."""
    preprocessing = replace(model.preprocessing, num_frames=steps)
    kept = {"class_names": model.class_names, "logit_scale": model.logit_scale}
    return rsnn.RSNN(model.encoder, model.classifier, preprocessing=preprocessing, **kept).eval()


def set_thresholds(model: nn.Module, factor: float) -> None:
    """Multiply the thresholds of all neurons."""
    for module in model.modules():
        if isinstance(module, LIF):
            module.v_threshold *= factor


def plot(points: list[Point], path: Path, title: str) -> None:
    """Draw accuracy over energy: the decision part left, the whole network right."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, what, label in zip(axes, ("decision", "whole"), ("decision part", "whole network"), strict=True):
        for series, marker, place in (("width", "o", (-2, 6)), ("steps", "s", (6, -3)), ("threshold", "^", (-3, -11))):
            chosen = [point for point in points if point.series == series]
            energies = [getattr(point, what) for point in chosen]
            axis.plot(energies, [100 * point.accuracy for point in chosen], marker=marker, label=series)
            for point, energy in zip(chosen, energies, strict=True):
                axis.annotate(
                    f"{point.value:g}",
                    (energy, 100 * point.accuracy),
                    xytext=place,
                    fontsize=7,
                    textcoords="offset points",
                )
        axis.set_xscale("log")
        axis.set_xlabel(f"µJ a recording, {label}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="labelled recordings, as `rsnn evaluate` takes them")
    parser.add_argument("--train", default=":", help="which of them train, as FIRST:END")
    parser.add_argument("--test", default=":", help="which of them test")
    parser.add_argument("--widths", type=int, nargs="*", default=(4, 8, 16, 32, 64))
    parser.add_argument("--steps", type=int, nargs="*", default=(5, 10, 15, 30))
    parser.add_argument("--thresholds", type=float, nargs="*", default=(0.5, 0.75, 1.5, 2.0))
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = rsnn.load(options.model)
    # The number of steps is what changes here, and the same for all recordings.
    model.preprocessing = replace(model.preprocessing, max_step_ms=None)
    training, testing = (
        open_part(options.data, split=split, samples=samples).labelled_for(model.class_names, model.num_classes)
        for split, samples in (("train", options.train), ("test", options.test))
    )

    recordings = list(track(testing.pairs(), "recordings to test", total=len(testing)))  # simulated ones only once
    base = measure(model, recordings, "base", 1.0)
    points = []
    if options.widths:
        features, labels = features_of(model, training)
        for width in options.widths:
            small = narrowed(model, width, features, labels, options.epochs)
            small.save_pretrained(options.output / f"width-{width}")
            points.append(measure(small, recordings, "width", width))
    points.append(replace(base, series="width", value=model.classifier.channels))
    points.append(replace(base, series="steps", value=model.preprocessing.num_frames))
    points += [measure(with_steps(model, steps), recordings, "steps", steps) for steps in options.steps]
    points.append(replace(base, series="threshold"))
    for factor in options.thresholds:
        set_thresholds(model, factor)
        points.append(measure(model, recordings, "threshold", factor))
        set_thresholds(model, 1 / factor)
    points.sort(key=lambda point: (point.series, point.value))

    lines = ["| changed | to | accuracy | decision part, µJ | whole network, µJ |", "|---|---|---|---|---|"]
    lines += [f"| {p.series} | {p.value:g} | {p.accuracy:.1%} | {p.decision:.3g} | {p.whole:.3g} |" for p in points]
    (options.output / "tradeoff.md").write_text("\n".join(lines) + "\n", "utf-8")
    plot(points, options.output / "tradeoff.png", f"{options.model}, {testing.text}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
