"""`rsnn predict`: recordings into classes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

import rsnn
from rsnn.cli.console import DEFAULT_MODEL, MODEL_HELP, AsJson, err, print_error, print_json, print_table, progress
from rsnn.data.writers import FORMAT_OF_SUFFIX
from rsnn.errors import InputError, RSNNError
from rsnn.models import EventClassifier


def predict(
    model_and_files: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] FILE...",
            help=f"{MODEL_HELP} {DEFAULT_MODEL} if left out. Then recordings, of any format rsnn reads.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Classify recordings. Exits with 1 when any of them failed; the others are classified all the same."""
    model, files = _model_and_files(model_and_files)
    loaded = rsnn.load(model or DEFAULT_MODEL)
    if model is None and not as_json:
        err.print(f"with {DEFAULT_MODEL}; for another model: rsnn predict MODEL FILE...", highlight=False)
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


def _model_and_files(words: list[str]) -> tuple[str | None, list[Path]]:
    """Return the model's name, None where the first word is a recording, and the recordings.

    Raises:
        InputError: there is a model and nothing else.

    """
    first, others = words[0], words[1:]
    file = Path(first)
    certain = first in rsnn.list_models() or file.is_dir()
    if not certain and (file.exists() or file.suffix.lower() in FORMAT_OF_SUFFIX or not others):
        return None, list(map(Path, words))
    if not others:
        what = "a folder, taken for a model's" if file.is_dir() else "a model"
        raise InputError(f"{first} is {what}; expected recordings after it: rsnn predict {first} FILE...")
    return first, list(map(Path, others))


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
