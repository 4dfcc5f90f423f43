"""The report of a finished run: curves, confusion matrix, firing rates, and the model with a card ready for the zoo."""

from __future__ import annotations

import re
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rsnn.energy import energy_report
from rsnn.errors import shortened
from rsnn.hub import HERE
from rsnn.hub.resolution import is_written_as_path
from rsnn.models import EventClassifier, cards
from rsnn.models.pretrained import save_model
from rsnn.plots import save_figure
from rsnn.training.recipe import Recipe
from rsnn.training.sources import Part
from rsnn.training.state import saving

ENERGY_RECORDINGS = 8
WRITTEN = ("model", "curves.png", "confusion.png", "firing_rates.png")
INTACT = "the trained models are intact"
MOST_NAMED = 60  # classes of a confusion matrix
LONGEST_NAME = 40  # of a class in it


def write(folder: Path, model: EventClassifier, recipe: Recipe, metrics: dict[str, Any], shown: Part) -> None:
    """Write the pictures and the model into the run's folder.

    Args:
        folder: of the run.
        model: with the selected weights.
        recipe: what they were trained by, as others may read it.
        metrics: of the run; what the report adds is put in.
        shown: recordings whose energy is measured.

    Raises:
        RSNNError: the folder cannot be written.

    """
    metrics["versions"] = {name: version(name) for name in ("rsnn", "torch", "spikingjelly", "accelerate")}
    metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    final = "test_selected" if "test_selected" in metrics else "validation_selected"
    energy = _energy(model, shown)
    metrics["energy_joules"] = energy["total"]["joules"]
    weights = f"{metrics['parameters']:,} weights, stored as float32."
    target = folder / "model"
    with saving(target, INTACT):
        save_model(
            model,
            target,
            lambda config: cards.published_card(
                config, _facts(recipe, metrics, final), metrics[final], energy, weights, source=HERE
            ),
            recipe=recipe.to_dict(),
        )
    with saving(folder, INTACT):
        curves(metrics["phases"], folder / "curves.png")
        confusion(metrics[final], folder / "confusion.png", final.replace("_", " part, "))
        rates = {name: phase["history"][-1]["rates"] for name, phase in metrics["phases"].items()}
        if any(rates.values()):
            firing(rates, folder / "firing_rates.png")


def _energy(model: EventClassifier, shown: Part) -> dict[str, Any]:
    chosen = np.unique(np.linspace(0, len(shown) - 1, ENERGY_RECORDINGS).astype(int))
    return energy_report(model, (shown.read(int(i)) for i in chosen)).to_dict()


def _facts(recipe: Recipe, metrics: dict[str, Any], final: str) -> cards.Facts:
    """Return what a card says, as far as a program can know it; the author adds the data's licence and the limits."""
    parts = metrics["parts"]
    tested = parts["test"]
    phases = ", then ".join(
        f"{name} ({phase['model']}, epoch {phase['selected_epoch']} of {len(phase['history'])} selected)"
        for name, phase in metrics["phases"].items()
    )
    starts = f", which wants the model {recipe.start} too" if is_written_as_path(recipe.start) else ""
    return cards.Facts(
        name=recipe.name,
        data=f"Trained on: {parts['training']['text']} ({parts['training']['recordings']} recordings).",
        dataset=_dataset(recipe.data.kind, parts["training"]["text"]),
        split=f"Validated on the {parts['validation']['text']} ({parts['validation']['recordings']} recordings), which "
        f"selected the epoch and nothing else. "
        + (f"Tested once, at the end, on {tested['text']}. " if tested else "No part was held out to test on. ")
        + f"Phases: {phases}.",
        part=final.partition("_")[0],
        evaluated_on=f"{final.partition('_')[0]} part",
        selected_accuracies=(metrics["selected_accuracy"],),
        last_accuracies=(metrics["last_accuracy"],),
        reproduce=f"{metrics['command']}  # in this folder: config.json has the recipe{starts}",
        limits="Say here what the model cannot do, or was not tried on, before you share it.",
        licence="other",
    )


def _dataset(kind: str, text: str) -> str:
    """Return the short name of a data set: its kind, or where that goes by what the data are, what they are called."""
    if kind not in ("auto", "folder", "archive"):
        return kind
    if "simulated gestures" in text:
        return "simulated"
    return re.split(r", | \[| without its validation part", text)[0].removesuffix(".npz")


def curves(phases: dict[str, Any], path: Path) -> None:
    """Draw loss and accuracy of every epoch, one column of panels a phase; a dot marks the selected epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(phases), 6), layout="constrained")
    for (name, phase), (above, below) in zip(
        phases.items(), np.array(figure.subplots(2, len(phases), squeeze=False)).T, strict=True
    ):
        for key, label in (("train_accuracy", "training (augmented)"), ("accuracy", "validation")):
            _course(above, phase["history"], key, label)
        above.plot(phase["selected_epoch"], phase["selected_accuracy"], "o", color="C1")
        above.set(ylabel="accuracy", ylim=(0, 1.02))
        above.set_title(f"{name}: {phase['model']}", parse_math=False)
        above.legend()
        for key, label in (("loss", "training loss"), ("cross_entropy", "validation cross-entropy")):
            _course(below, phase["history"], key, label)
        below.set(xlabel="epoch", ylim=(0, None))
        below.legend()
    save_figure(figure, path)


def _course(axes: Any, history: list[dict[str, Any]], key: str, label: str) -> None:
    """Draw a figure of every epoch; of a single one a dot, for a line would not be seen."""
    epochs = [epoch["epoch"] for epoch in history]
    axes.plot(epochs, [epoch[key] for epoch in history], "." if len(epochs) == 1 else "-", label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)


def compare_curves(runs: dict[str, list[dict[str, Any]]], path: Path, *, title: str = "") -> None:
    """Draw the validation accuracy of several trainings in one panel, as Figure 3 of the paper does for the heads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, history in runs.items():
        _course(axes, history, "accuracy", name)
    axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.02))
    axes.set_title(title, parse_math=False)
    legend = axes.legend()
    legend.set_in_layout(False)  # so that it leaves the curves their room, however many there are
    for text in legend.get_texts():
        text.set_parse_math(False)
    save_figure(figure, path)


def confusion(evaluation: dict[str, Any], path: Path, title: str) -> None:
    """Draw a confusion matrix: rows the true class, columns the predicted one, shares of the row in colour.

    Beyond `MOST_NAMED` classes names and counts would be too small to read, and are left out.
    """
    from matplotlib.figure import Figure

    counts = np.array(evaluation["confusion"])
    names = [shortened(name, LONGEST_NAME) for name in evaluation["class_names"]]
    named = len(names) <= MOST_NAMED
    room = max(2.0, 0.1 * max(map(len, names)) + 1) if named else 2.0  # for the names
    side = max(2.0, 0.42 * min(len(names), MOST_NAMED)) + room
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    if named:
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    for row, column in zip(*np.nonzero(counts), strict=True) if named else ():
        share = counts[row, column] / counts[row].sum()
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", color="white" if share > 0.5 else "black"
        )
    axes.set(xlabel="predicted", ylabel="true")
    letters = round(8 * side)  # in a line
    whole = f"{shortened(title, 4 * letters)}: {evaluation['accuracy']:.1%}"
    figure.suptitle(textwrap.fill(whole, letters), parse_math=False)
    save_figure(figure, path)


def firing(rates: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the firing rate of every spiking layer on the validation part after the last epoch of each phase."""
    from matplotlib.figure import Figure

    rows = [
        (shortened(f"{phase}: {layer}", 60), rate) for phase, layers in rates.items() for layer, rate in layers.items()
    ]
    figure = Figure(figsize=(7, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(rows)), [rate for _, rate in rows])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="share of steps at which a neuron fires", xlim=(0, max([0.05, *(1.1 * rate for _, rate in rows)])))
    save_figure(figure, path)
