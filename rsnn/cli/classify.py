"""`rsnn predict`: recordings into classes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

import rsnn
from rsnn.cli.console import AsJson, ModelArgument, print_error, print_json, print_table, progress
from rsnn.errors import RSNNError
from rsnn.models import EventClassifier


def predict(
    model: ModelArgument,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings, of any format rsnn reads.")],
    as_json: AsJson = False,
) -> None:
    """Classify recordings. Exits with 1 when any of them failed; the others are classified all the same."""
    loaded = rsnn.load(model)
    results = []
    with progress("classifying", len(files), shown=len(files) > 1) as advance:
        for file in files:
            results.append(_classify(loaded, file))
            advance(len(results))
    if as_json:
        print_json(results)
    else:
        _print_predictions(results)
    if any("error" in result for result in results):
        raise typer.Exit(1)


def _classify(model: EventClassifier, file: Path) -> dict[str, Any]:
    """Return what `model` says of one file as plain data; `"error"` where it cannot be read."""
    began = time.perf_counter()
    try:
        prediction = model.predict(file)
    except RSNNError as error:
        return {"file": str(file), "error": str(error)}
    names = model.class_names or tuple(map(str, range(len(prediction.probabilities))))
    return {
        "file": str(file),
        "label": prediction.label,
        "index": prediction.index,
        "probabilities": dict(zip(names, prediction.probabilities.tolist(), strict=True)),
        "milliseconds": 1000 * (time.perf_counter() - began),
    }


def _print_predictions(results: list[dict[str, Any]]) -> None:
    table = Table(Column("file", overflow="fold"), "label", "probability", "next best", "time")
    for result in results:
        if "error" in result:
            continue
        ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
        (_, best), rest = ranked[0], ranked[1:3]
        table.add_row(
            escape(result["file"]),
            f"[bold]{escape(result['label'])}[/]",
            f"{best:.1%}",
            ", ".join(f"{escape(name)} {share:.1%}" for name, share in rest),
            f"{result['milliseconds']:.0f} ms",
        )
    if table.row_count:
        print_table(table)
    for result in results:
        if "error" in result:
            file, said = result["file"], result["error"]
            print_error(said if said.startswith(file) else f"{file}: {said}")
