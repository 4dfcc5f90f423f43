"""`rsnn models`, `rsnn info` and `rsnn export`: what there is, what is known of it, and how it leaves PyTorch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Column, Table

import rsnn
from rsnn import hub
from rsnn.cli.console import AsJson, ModelArgument, err, out, print_json, print_table, refuse
from rsnn.cli.recordings import KeepTruncated, print_recording
from rsnn.data.files import as_path
from rsnn.data.writers import FORMAT_OF_SUFFIX
from rsnn.errors import RecordingError, UnknownNameError, shown, suggest
from rsnn.hub import WeightsEntry
from rsnn.models import EventClassifier


def models(
    pattern: Annotated[str, typer.Argument(help="Glob, as in 'rsnn-*'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with published weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the models of the zoo."""
    entries = {name: hub.entries_of(name) for name in rsnn.list_models(pattern, pretrained=pretrained)}
    if not entries:
        raise _no_match(pattern, pretrained)
    if as_json:
        print_json([{"name": name, **_weights(found)} for name, found in entries.items()])
        return
    numbers = (Column(title, justify="right", no_wrap=True) for title in ("K", "params", "size", "acc.", "energy"))
    words = (Column("name", no_wrap=True), Column("tag", no_wrap=True), Column("data", min_width=9))
    table = Table(*words, *numbers, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name, found in entries.items():
        for entry in found:
            accuracy, joules = entry.metrics.get("accuracy"), entry.metrics.get("energy_joules")
            table.add_row(
                f"[bold]{name}[/]" if entry is found[0] else name,
                entry.tag,
                entry.data,
                str(entry.classes),
                f"{entry.parameters / 1e6:.2f} M",
                f"{entry.size_bytes / 1e6:.1f} MB",
                "" if accuracy is None else f"{accuracy:.1%}",
                "" if joules is None else f"{1e6 * joules:.1f} µJ",
            )
    if table.row_count:
        print_table(table)
    if untrained := [name for name, found in entries.items() if not found]:
        out.print(f"Untrained, from rsnn.create_model(name): {', '.join(untrained)}", highlight=False)


def info(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="MODEL|FILE", help="Zoo name, ./folder, org/name, or a recording.")],
    as_json: AsJson = False,
    keep_truncated: KeepTruncated = False,
) -> None:
    """Show what is known of a checkpoint (its card, where its weights are) or what is in a recording."""
    path = as_path(name)
    if path.exists() and not path.is_dir() and hub.find_entry(name) is None and name not in rsnn.list_models():
        print_recording(name, as_json, keep_truncated)
        return
    if path.suffix.lower() in {*FORMAT_OF_SUFFIX, ".aedat4", ".mat", ".npy"} and not path.exists():
        raise RecordingError(f"{name}: no such file; expected a recording, or a checkpoint")
    refuse(context, "keep_truncated", use="recordings", here=f"{name} is a model")
    untrained = name in rsnn.list_models() and hub.find_entry(name) is None
    model = rsnn.create_model(name) if untrained else rsnn.load(name)
    checkpoint = None if untrained else hub.resolve(name, local_files_only=True)
    card, recipe = ("", None) if checkpoint is None else (checkpoint.card(), checkpoint.recipe())
    if as_json:
        facts = _model_facts(model)
        print_json({"name": name, **facts, **_weights(_entries_of(name)), "recipe": recipe, "card": card})
    else:
        _print_model(name, model, card)
        if recipe is not None:
            _print_recipe(recipe)


def export(
    model: ModelArgument,
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    frames: Annotated[
        int | None, typer.Option(help="Write a whole recording of so many frames; one step with its state by default.")
    ] = None,
) -> None:
    """Write a model as an ONNX file, for programs without PyTorch; see docs/checkpoints.md."""
    from rsnn.export import to_onnx

    loaded = rsnn.load(model)
    path = as_path(output)
    with err.status(f"writing {escape(str(path))}, which takes a while"):
        difference = to_onnx(loaded, path, num_frames=frames)
    what = "one step of it" if frames is None else f"{frames} frames"
    out.print(
        f"{escape(str(path))}: {escape(model)}, {what}, {path.stat().st_size / 1e6:.1f} MB. Logits in ONNX Runtime "
        f"differ from the model's by at most {difference:.1g}.",
        highlight=False,
        soft_wrap=True,
    )


def _no_match(pattern: str, pretrained: bool) -> UnknownNameError:
    kind = "model with published weights" if pretrained else "model"
    return UnknownNameError(
        f"no {kind} of the zoo matches {shown(pattern)}; expected a name or a glob such as 'rsnn-*'; `rsnn models` "
        f"lists all.{suggest(pattern[:60], rsnn.list_models(pretrained=pretrained))}"
    )


def _weights(entries: list[Any]) -> dict[str, Any]:
    """Return weights entries as plain data: the default of a name, and the others."""
    default, *others = [entry.to_dict() for entry in entries] or [None]
    return {"pretrained": default, "other_weights": others}


def _entries_of(name: str) -> list[WeightsEntry]:
    """Return the weights entry that a name means, then those with other tags."""
    entry = hub.find_entry(name)
    return [] if entry is None else [entry, *(other for other in hub.entries_of(entry.name) if other is not entry)]


def _model_facts(model: EventClassifier) -> dict[str, Any]:

    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": model.num_classes,
        "class_names": model.class_names,
        "preprocessing": None if model.preprocessing is None else asdict(model.preprocessing),
    }


def _print_recipe(recipe: dict[str, Any]) -> None:
    """Print a checkpoint's recipe, which nobody has checked, as ASCII: a line for each of its tables."""
    out.print("Trained by the recipe:")
    for name, value in recipe.items():
        out.print(f"  {json.dumps(name)}: {json.dumps(value)}", highlight=False, markup=False, soft_wrap=True)


def _print_model(name: str, model: EventClassifier, card: str) -> None:
    """Print a model's card, its front matter left out, and which weights a name means."""
    facts, entries = _model_facts(model), _entries_of(name)
    if card:
        out.print(Markdown(card.split("---\n", 2)[-1] if card.startswith("---\n") else card))
    said = f"[bold]{escape(name)}[/]: {facts['class']}, {facts['parameters']:,} parameters, {facts['classes']} classes"
    if not entries:
        out.print(f"{said}, no published weights" if name in rsnn.list_models() else said)
    if name in rsnn.list_models() and not entries:
        out.print(f"rsnn.create_model({name!r}) builds it untrained.", highlight=False)
    elif not card and not entries:
        out.print("It has no card.")
    for entry in entries[:1]:
        others = "".join(f" Others: {other.full_name}." for other in entries[1:])
        out.print(f"{said}\n{'Default weights' if name == entry.name else 'Weights'}: {entry.full_name}.{others}")
        out.print(f"SHA-256 {entry.sha256}, {entry.licence}", highlight=False, soft_wrap=True)
