"""`rsnn train` and `rsnn evaluate`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import rsnn
from rsnn.cli.console import AsJson, ModelArgument, Samples, err, out, print_json, print_table, progress, refuse
from rsnn.errors import InputError
from rsnn.interrupts import EXIT_CODE


def train(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(help="Recipe by name (--list), a .toml, or a run's recipe.json.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Recordings to train on: archive (.npz), folder, or gestures:N for simulated ones."),
    ] = None,
    samples: Samples = ":",
    test: Annotated[
        str | None, typer.Option(help="Recordings to test on, once, at the end; by default the test part of --data.")
    ] = None,
    test_samples: Annotated[str, typer.Option(help="Which of them, as FIRST:END.")] = ":",
    start: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="Go on from a model: zoo name, ./folder or org/name.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<recipe>-seed<seed> by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random; the recipe's own by default.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field: optimizer.lr=1e-3.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write logs for TensorBoard too.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with every field, and stop.")] = False,
) -> None:
    """Train a model as a recipe says, or go on where the same command was interrupted; see docs/training.md."""
    from rsnn import training
    from rsnn.training.display import ConsoleDisplay, TensorBoardDisplay
    from rsnn.training.loop import Stopped

    if listed:
        others = (name for name in context.params if name != "listed")
        refuse(context, *others, use="a training", here="--list prints the names of all recipes and stops")
        for name in training.list_recipes():
            out.print(name, highlight=False)
        return
    if recipe is None and start is None:
        raise InputError("expected a recipe (rsnn train --list), or --from NAME to fine-tune a model")
    overrides = list(changes or ())
    if start is not None:
        overrides.insert(0, f"start={json.dumps(start, ensure_ascii=False)}")
    if seed is not None:
        overrides.append(f"seed={seed}")
    chosen = training.load_recipe(recipe or "fine-tune", overrides)
    if show:
        print_json(chosen.to_dict())
        return
    if data is None and chosen.data.kind != "simulated":
        raise InputError("expected recordings to train on: --data PATH")
    folder = output or Path("runs") / f"{chosen.name}-seed{chosen.seed}"
    display: Any = ConsoleDisplay(err)
    if tensorboard:
        display = TensorBoardDisplay(display, folder / "tensorboard")
    try:
        training.train(
            chosen,
            f"gestures:{chosen.data.samples}" if data is None else data,
            folder,
            test=test,
            samples=samples,
            test_samples=test_samples,
            display=display,
        )
        _part_processes()
    except Stopped as stopped:
        _part_processes()
        display.close()
        err.print(f"{stopped}; give the same command again to go on", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_CODE) from None
    except KeyboardInterrupt:
        display.close()
        err.print("stopped; what was saved is intact: give the same command again to go on", highlight=False)
        raise typer.Exit(EXIT_CODE) from None
    finally:
        display.close()


def evaluate(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[
        str, typer.Option(help="Labelled recordings: archive (.npz), folder, or gestures:N for simulated ones.")
    ],
    samples: Samples = ":",
    split: Annotated[str, typer.Option(help="Which part, where the data have parts.")] = "test",
    kind: Annotated[str, typer.Option(help="Data set of a folder: gesture, cifar10dvs, nmnist or sign.")] = "auto",
    windows: Annotated[int, typer.Option(min=1, help="Windows of each recording whose answers are averaged.")] = 1,
    window_ms: Annotated[
        int | None, typer.Option(min=1, help="Duration of a window; by default the model's own.")
    ] = None,
    robustness: Annotated[
        bool,
        typer.Option("--robustness", help="Also with events lost, noise, another tempo, and the first steps alone."),
    ] = False,
    confusion: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Draw the confusion matrix.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Stay on the CPU.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the accuracy of a model on labelled recordings, with its 95 % interval, and what it takes for what.

    Under `accelerate launch` the processes share the recordings out; each recording counts once.
    """
    from rsnn import evaluation
    from rsnn.training import launch
    from rsnn.training.report import confusion as draw_confusion
    from rsnn.training.sources import open_part, settings_that_count

    if windows == 1:
        refuse(context, "window_ms", use="--windows of 2 or more", here="recordings are taken whole here")
    by_split, by_kind = settings_that_count(data, kind)
    if not by_split and split != "all":
        refuse(context, "split", use="data with parts", here=f"{data} has none")
    if not by_kind and kind != "auto":
        refuse(context, "kind", use="the folder of a data set", here=f"{data} is no folder of {kind}")
    if confusion is not None:
        _check_picture(confusion)
    accelerator = launch.accelerator(cpu=cpu)
    loaded = rsnn.load(model)
    loaded.to(accelerator.device)
    part = open_part(data, split=split, kind=kind, samples=samples)
    part = part.labelled_for(loaded.class_names, loaded.num_classes)
    share = range(accelerator.process_index, len(part), accelerator.num_processes)
    ids = [part.ids[index] for index in share]
    with progress("evaluating", len(share), shown=accelerator.is_main_process) as advance:
        result = evaluation.evaluate(
            loaded,
            part.pairs(share),
            windows=windows,
            window_ms=window_ms,
            ids=ids,
            accelerator=accelerator,
            on_progress=advance,
        )
    worse = {}
    if robustness:
        levels = sum(len(disturbance.levels) for disturbance in evaluation.DISTURBANCES.values()) + (windows == 1)
        with progress("disturbing", levels, shown=accelerator.is_main_process) as advance:
            worse = evaluation.robustness(
                loaded,
                lambda: part.pairs(share),
                windows=windows,
                window_ms=window_ms,
                ids=ids,
                accelerator=accelerator,
                on_progress=advance,
            )
    _part_processes()
    if not accelerator.is_main_process:
        return
    if as_json:
        disturbed = {name: {f"{level:g}": r.accuracy for level, r in levels.items()} for name, levels in worse.items()}
        row = {"model": model, "data": data, "part": part.text, **result.to_dict()}
        print_json({**row, "robustness": disturbed} if worse else row)
    else:
        _print_evaluation(model, part.text, result, worse, windows)
    if confusion is not None:
        try:
            draw_confusion(result.to_dict(), confusion, f"{model} on {part.text}")
        except OSError as error:
            raise InputError(f"--confusion {confusion} cannot be written ({error.strerror or error})") from error


def _check_picture(path: Path) -> None:
    """Raise InputError where a picture could not be written: before the work, not after it."""
    from matplotlib.backend_bases import FigureCanvasBase

    suffixes = [f".{suffix}" for suffix in sorted(FigureCanvasBase.get_supported_filetypes())]
    if path.suffix.lower() not in suffixes:
        raise InputError(f"--confusion {path}: the suffix is {path.suffix!r}; expected one of {', '.join(suffixes)}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--confusion {path}: {path.parent} is no folder to write to; expected one that is there")


def _part_processes() -> None:
    """Close the connections of the processes of a launcher: one that just ends can take the others down with it."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _print_evaluation(model: str, text: str, result: Any, worse: dict[str, Any], windows: int) -> None:
    from rsnn.evaluation import DISTURBANCES

    low, high = result.interval
    out.print(
        f"[bold]{escape(model)}[/] on {escape(text)}: accuracy "
        f"[bold green]{result.accuracy:.1%}[/] ({result.samples} recordings, 95 % interval {low:.1%} to {high:.1%})",
        soft_wrap=True,
    )
    table = Table("class", "accuracy", "recordings", "most often taken for")
    for index, name in enumerate(result.class_names):
        row = result.confusion[index].copy()
        if not (count := int(row.sum())):
            continue
        row[index] = 0
        wrong = f"{result.class_names[row.argmax()]} ({row.max()})" if row.any() else ""
        table.add_row(escape(name), f"{result.per_class[name]:.1%}", str(count), escape(wrong))
    print_table(table)
    for name, levels in worse.items():
        text = DISTURBANCES[name].text if name in DISTURBANCES else "time steps seen"
        table = Table(text, *(f"{level:g}" for level in levels), title=name, title_justify="left")
        table.add_row("accuracy", *(f"{r.accuracy:.1%}" for r in levels.values()))
        print_table(table)
    if worse and "steps" not in worse:
        why = "the model needs the whole recording at once"
        out.print(f"steps: left out, for {f'--windows {windows} takes whole ones' if windows > 1 else why}")
