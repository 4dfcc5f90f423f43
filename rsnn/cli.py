"""The `rsnn` command: thin shells over the library, with tables for people and JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from rsnn.errors import InputError, RSNNError, UnknownNameError

if TYPE_CHECKING:
    from rsnn.data import Events
    from rsnn.hub import WeightsEntry
    from rsnn.models import EventClassifier, Prediction

app = typer.Typer(
    name="rsnn",
    help="Recurrent spiking neural networks for event-camera recordings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Zoo name, ./folder, or org/name on the Hub.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn the library's errors into one line and exit code 1."""
    try:
        yield
    except RSNNError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _print_table(table: Table) -> None:
    """Print a table, whole where it goes to a file or another program, which do not know 80 columns."""
    console = out if out.is_terminal else Console(file=out.file, width=max(out.width, 240))
    console.print(table)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _load(name: str) -> EventClassifier:
    import rsnn

    return rsnn.load(name)


def _classify(model: EventClassifier, file: Path) -> dict[str, Any]:
    """Return what `model` says of one file as plain data; `"error"` where it cannot be read."""
    began = time.perf_counter()
    try:
        prediction: Prediction = model.predict(file)
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


@app.command()
def predict(
    model: ModelName,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings, of any format rsnn reads.")],
    as_json: AsJson = False,
) -> None:
    """Classify recordings. Exits with 1 when any of them failed; the others are classified all the same."""
    with _user_errors():
        loaded = _load(model)
    results = []
    with _progress("classifying", len(files), shown=len(files) > 1) as advance:
        for file in files:
            results.append(_classify(loaded, file))
            advance(len(results))
    if as_json:
        _print_json(results)
    else:
        _print_predictions(results)
    if any("error" in result for result in results):
        raise typer.Exit(1)


def _print_predictions(results: list[dict[str, Any]]) -> None:
    table = Table("file", "label", "probability", "next best", "time")
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
        _print_table(table)
    for result in results:
        if "error" in result:
            err.print(f"[bold red]error:[/] {escape(result['error'])}", highlight=False, soft_wrap=True)


@app.command()
def demo(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="Recordings; a simulated gesture by default."),
    ] = None,
    model: Annotated[str, typer.Option(help="Zoo name, ./folder, or org/name on the Hub.")] = "rsnn-gesture-cl",
    gesture: Annotated[str, typer.Option(help="Gesture to simulate, such as right_arm_cw or air_guitar.")] = "arm_roll",
    seed: Annotated[int, typer.Option(min=0, help="Who performs it, and how.")] = 0,
    output: Annotated[Path, typer.Option(help="Where to write the animated picture.")] = Path("rsnn-demo.gif"),
) -> None:
    """Watch a model make up its mind about a simulated gesture, or about your recordings, and draw an animation."""
    import rsnn

    with _user_errors():
        loaded = _load(model)
        if files:
            for number, file in enumerate(files):
                picture = output if number == 0 else output.with_stem(f"{output.stem}-{number + 1}")
                _demonstrate(loaded, model, file.name, rsnn.read_events(file), picture)
        else:
            _demonstrate(loaded, model, f"a simulated {gesture}", _simulated_gesture(gesture, seed), output)


def _simulated_gesture(gesture: str, seed: int) -> Events:
    from rsnn.data.simulate import SimulatedGestures

    names = SimulatedGestures.class_names
    if gesture not in names:
        raise UnknownNameError(f"there is no gesture {gesture!r}; expected one of {', '.join(names)}.")
    clips = SimulatedGestures(len(names), seed, split="test", duration_s=(1.5, 1.5))
    return clips[names.index(gesture)][0]


def _demonstrate(loaded: EventClassifier, name: str, what: str, events: Events, picture: Path) -> None:
    """Go through a recording step by step, showing what the model thinks; then its time, its energy, a picture."""
    import torch
    from rich.live import Live

    from rsnn.energy import energy_report
    from rsnn.plots import save_animation

    assert loaded.preprocessing is not None
    frames = loaded.preprocessing.frames(events)
    labels = loaded.class_names or tuple(map(str, range(loaded.num_classes or 0)))
    out.print(f"[bold]{escape(what)}[/]: {len(events):,} events in {events.duration_us / 1e6:.2f} s")
    shares, state, seconds = [], None, 0.0
    with Live(console=out, auto_refresh=False, transient=out.is_terminal) as live, torch.inference_mode():
        for step, frame in enumerate(frames):
            began = time.perf_counter()
            logits, state = loaded.advance(frame[None, None], state)
            seconds += time.perf_counter() - began
            shares.append(logits[0].softmax(0))
            if out.is_terminal:
                live.update(_bars(f"step {step + 1} of {len(frames)}", labels, shares[-1].tolist()), refresh=True)
    for step in sorted({0, len(frames) // 4, len(frames) // 2, len(frames) - 1}):
        best = int(shares[step].argmax())
        out.print(f"  after step {step + 1:2}: {escape(labels[best])} ({shares[step][best]:.1%})", highlight=False)
    best = int(shares[-1].argmax())
    out.print(
        f"[bold]{escape(name)}[/] says [bold green]{escape(labels[best])}[/] ({shares[-1][best]:.1%}) "
        f"after {1000 * seconds:.0f} ms, {1000 * seconds / len(frames):.1f} ms a step"
    )
    out.print(_bars("", labels, shares[-1].tolist()))
    report = energy_report(loaded, frames[:, None])
    joules = report.total.cost(report.model)
    out.print(f"Energy of its operations: {1e6 * joules:.1f} µJ ({escape(report.model.source)})", highlight=False)
    title = f"{what}: {labels[best]} by {name}"
    written = save_animation(
        frames.numpy(), picture, probabilities=torch.stack(shares).numpy(), labels=labels, title=title
    )
    out.print(f"What it saw and thought, step by step: {escape(str(written))}")


def _bars(title: str, labels: Sequence[str], shares: Sequence[float]) -> Table:
    table = Table(title=title or None, title_justify="left", box=None, show_header=False, padding=(0, 1))
    for label, share in zip(labels, shares, strict=True):
        table.add_row(escape(label), f"{share:6.1%}", "█" * round(40 * share))
    return table


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Glob, as in 'rsnn-*'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with published weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the models of the zoo."""
    import rsnn
    from rsnn import hub

    entries = {name: hub.entries_of(name) for name in rsnn.list_models(pattern, pretrained=pretrained)}
    if as_json:
        _print_json([{"name": name, **_weights(found)} for name, found in entries.items()])
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
        _print_table(table)
    if untrained := [name for name, found in entries.items() if not found]:
        out.print(f"Untrained, from rsnn.create_model(name): {', '.join(untrained)}", highlight=False)


def _weights(entries: list[Any]) -> dict[str, Any]:
    """Return weights entries as plain data: the default of a name, and the others."""
    default, *others = [entry.to_dict() for entry in entries] or [None]
    return {"pretrained": default, "other_weights": others}


@app.command()
def info(
    name: Annotated[str, typer.Argument(metavar="MODEL|FILE", help="Zoo name, ./folder, org/name, or a recording.")],
    as_json: AsJson = False,
) -> None:
    """Show what is known of a checkpoint (its card, where its weights are) or what is in a recording."""
    import rsnn
    from rsnn import hub

    with _user_errors():
        if Path(name).expanduser().is_file() and name not in rsnn.list_models():
            _print_recording(name, as_json)
            return
        untrained = name in rsnn.list_models() and hub.find_entry(name) is None
        model = rsnn.create_model(name) if untrained else rsnn.load(name)
        card = "" if untrained else hub.resolve(name, local_files_only=True).card()
    if as_json:
        _print_json({"name": name, **_model_facts(model), **_weights(_entries_of(name)), "card": card})
    else:
        _print_model(name, model, card)


def _entries_of(name: str) -> list[WeightsEntry]:
    """Return the weights entry that a name means, then those with other tags."""
    from rsnn import hub

    entry = hub.find_entry(name)
    return [] if entry is None else [entry, *(other for other in hub.entries_of(entry.name) if other is not entry)]


def _model_facts(model: EventClassifier) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": model.num_classes,
        "class_names": model.class_names,
        "preprocessing": None if model.preprocessing is None else asdict(model.preprocessing),
    }


def _print_model(name: str, model: EventClassifier, card: str) -> None:
    """Print a model's card, its front matter left out, and which weights a name means."""
    from rich.markdown import Markdown

    facts, entries = _model_facts(model), _entries_of(name)
    if card:
        out.print(Markdown(card.split("---\n", 2)[-1] if card.startswith("---\n") else card))
    said = f"[bold]{escape(name)}[/]: {facts['class']}, {facts['parameters']:,} parameters, {facts['classes']} classes"
    if not entries:
        out.print(said if card else f"{said}, no published weights")
    if not entries and not card:
        out.print(f"rsnn.create_model({name!r}) builds it untrained.", highlight=False)
    for entry in entries[:1]:
        others = "".join(f" Others: {other.full_name}." for other in entries[1:])
        out.print(f"{said}\n{'Default weights' if name == entry.name else 'Weights'}: {entry.full_name}.{others}")
        out.print(f"SHA-256 {entry.sha256}, {entry.licence}", highlight=False, soft_wrap=True)


def _print_recording(name: str, as_json: bool) -> None:
    from rsnn.data.summary import summarize

    found = summarize(name)
    if as_json:
        _print_json(found.to_dict())
        return
    width, height = found.sensor_size
    hot = ", ".join(f"({x}, {y}) {count:,} events" for x, y, count in found.hot_pixels[:5])
    more = f" and {len(found.hot_pixels) - 5} more" if len(found.hot_pixels) > 5 else ""
    table = Table(show_header=False)
    for row in (
        ("format", f"{found.format}, {found.size_bytes:,} bytes"),
        (
            "sensor",
            f"{width} x {height} pixels" + ("" if found.sensor_is_known else ", a guess: the file says none"),
        ),
        ("time", f"{found.duration_us / 1e6:.6f} s, from {found.first_us} to {found.last_us} µs"),
        ("events", f"{found.events:,}, {found.rate_hz:,.0f} a second"),
        ("polarity", f"{found.brighter:.1%} brighter, {1 - found.brighter:.1%} darker"),
        ("pixels", f"{found.active_pixels:,} of {width * height:,} fire"),
        ("hot pixels", f"{len(found.hot_pixels)}: {hot}{more}" if hot else "none"),
    ):
        table.add_row(*row)
    out.print(f"[bold]{escape(name)}[/]")
    out.print(table, highlight=False)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A recording, of any format rsnn reads.")],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A recording (.npz .csv .aedat .bin .dat .raw .es .h5), its frames (.npy), an animation (.gif .mp4) "
            "or a sheet of frames (.png); brighter is red, darker blue.",
        ),
    ],
    frames: Annotated[
        int | None, typer.Option(min=1, help="How many; by default 20, and as many as --fps needs in an animation.")
    ] = None,
    split_by: Annotated[str, typer.Option(help="Frames of equal 'time' or 'number' of events.")] = "time",
    size: Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the frames.")] = None,
    fps: Annotated[float, typer.Option(min=0.1, max=120, help="Frames a second of an animation.")] = 25.0,
    sensor_size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the recording, if its file does not say it.")
    ] = None,
    source_format: Annotated[str | None, typer.Option("--from", help="Format of IN, whatever it looks like.")] = None,
    target_format: Annotated[str | None, typer.Option("--to", help="Format of OUT, whatever its suffix.")] = None,
    keep_truncated: Annotated[bool, typer.Option(help="Take what is left of a truncated recording.")] = False,
) -> None:
    """Write a recording in another format, as frames, or as pictures to look at."""
    from rsnn.data.convert import convert as run
    from rsnn.data.convert import picture_frames
    from rsnn.plots import PICTURES, save_picture
    from rsnn.streaming.watching import parse_sensor_size

    with _user_errors():
        frame_size = parse_sensor_size(size)
        options: dict[str, Any] = {
            "source_format": source_format,
            "sensor_size": parse_sensor_size(sensor_size),
            "truncated": "keep" if keep_truncated else "error",
            "split_by": split_by,
            "size": None if frame_size is None else frame_size[::-1],
        }
        if target.suffix.lower() in PICTURES and target_format is None:
            made = picture_frames(
                source, num_frames=frames, fps=None if target.suffix.lower() == ".png" else fps, **options
            )
            written = save_picture(made, target, fps=fps, title=source.name)
        else:
            written = run(source, target, target_format=target_format, num_frames=frames or 20, **options)
        out.print(f"{escape(str(written))}: {written.stat().st_size:,} bytes", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    model: ModelName,
    data: Annotated[
        str, typer.Option(help="Labelled recordings: archive (.npz), folder, or gestures:N for simulated ones.")
    ],
    samples: Annotated[str, typer.Option(help="Which of them, as FIRST:END; all by default.")] = ":",
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
    from accelerate import Accelerator

    from rsnn import evaluation
    from rsnn.training.report import confusion as draw_confusion
    from rsnn.training.sources import open_part

    with _user_errors():
        accelerator = Accelerator(cpu=cpu)
        loaded = _load(model)
        loaded.to(accelerator.device)
        part = open_part(data, split=split, kind=kind, samples=samples)
        share = range(accelerator.process_index, len(part), accelerator.num_processes)
        with _progress("evaluating", len(share), shown=accelerator.is_main_process) as advance:
            result = evaluation.evaluate(
                loaded,
                part.pairs(share),
                windows=windows,
                window_ms=window_ms,
                accelerator=accelerator,
                on_progress=advance,
            )
        worse = {}
        if robustness:
            levels = 1 + sum(len(disturbance.levels) for disturbance in evaluation.DISTURBANCES.values())
            with _progress("disturbing", levels, shown=accelerator.is_main_process) as advance:
                worse = evaluation.robustness(
                    loaded, lambda: part.pairs(share), accelerator=accelerator, on_progress=advance
                )
        if not accelerator.is_main_process:
            return
        if confusion is not None:
            draw_confusion(result.to_dict(), confusion, f"{model} on {part.text}")
    if as_json:
        disturbed = {name: {f"{level:g}": r.accuracy for level, r in levels.items()} for name, levels in worse.items()}
        row = {"model": model, "data": data, "part": part.text, **result.to_dict()}
        _print_json({**row, "robustness": disturbed} if worse else row)
        return
    _print_evaluation(model, part.text, result, worse)


def _print_evaluation(model: str, text: str, result: Any, worse: dict[str, Any]) -> None:
    from rsnn.evaluation import DISTURBANCES

    low, high = result.interval
    out.print(
        f"[bold]{escape(model)}[/] on {escape(text)}: accuracy "
        f"[bold green]{result.accuracy:.1%}[/] ({result.samples} recordings, 95 % interval {low:.1%} to {high:.1%})"
    )
    table = Table("class", "accuracy", "recordings", "most often taken for")
    for index, name in enumerate(result.class_names):
        row = result.confusion[index].copy()
        if not (count := int(row.sum())):
            continue
        row[index] = 0
        wrong = f"{result.class_names[row.argmax()]} ({row.max()})" if row.any() else ""
        table.add_row(escape(name), f"{result.per_class[name]:.1%}", str(count), escape(wrong))
    _print_table(table)
    for name, levels in worse.items():
        text = DISTURBANCES[name].text if name in DISTURBANCES else "time steps seen"
        table = Table(text, *(f"{level:g}" for level in levels), title=name, title_justify="left")
        table.add_row("accuracy", *(f"{r.accuracy:.1%}" for r in levels.values()))
        _print_table(table)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of a recipe (--list), or a .toml file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Recordings to train on: archive (.npz), folder, or gestures:N for simulated ones."),
    ] = None,
    samples: Annotated[str, typer.Option(help="Which of them, as FIRST:END; all by default.")] = ":",
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
        for name in training.list_recipes():
            out.print(name, highlight=False)
        return
    with _user_errors():
        if recipe is None and start is None:
            raise InputError("expected a recipe (rsnn train --list), or --from NAME to fine-tune a model")
        overrides = list(changes or ())
        if start is not None:
            overrides.insert(0, f"start={json.dumps(start)}")
        if seed is not None:
            overrides.append(f"seed={seed}")
        chosen = training.load_recipe(recipe or "fine-tune", overrides)
        if show:
            _print_json(chosen.to_dict())
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
                data or "simulated",
                folder,
                test=test,
                samples=samples,
                test_samples=test_samples,
                display=display,
            )
        except Stopped as stopped:
            display.close()
            err.print(f"{stopped}; give the same command again to go on", highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None
        except KeyboardInterrupt:
            display.close()
            err.print("stopped; what was saved is intact: give the same command again to go on", highlight=False)
            raise typer.Exit(130) from None
        finally:
            display.close()


@contextmanager
def _progress(title: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal while the block runs; yields what sets how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not shown) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)


@app.command()
def energy(
    model: ModelName,
    data: Annotated[
        str | None,
        typer.Option(help="Recordings: archive (.npz), folder, single file, or gestures:N for simulated ones."),
    ] = None,
    samples: Annotated[str, typer.Option(help="Which of them, as FIRST:END; all by default.")] = ":",
    costs: Annotated[str, typer.Option(help="horowitz, horowitz-int8, horowitz-memory or lemaire.")] = "horowitz",
    untrained: Annotated[bool, typer.Option("--untrained", help="Random weights, for names without any.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the operations of a model on recordings, layer by layer, and say what they cost; see docs/energy.md."""
    import rsnn

    with _user_errors():
        loaded = rsnn.create_model(model) if untrained else _load(model)
        data, read, chosen = _recordings(loaded, data, samples)
        with _progress("counting", len(chosen)) as advance:
            report = rsnn.energy_report(loaded, _counted(read, chosen, advance), energy=costs)
    if as_json:
        _print_json({"model": model, "data": data, "first": chosen.start, "end": chosen.stop, **report.to_dict()})
        return
    out.print(f"[bold]{escape(model)}[/], one recording, the mean of {report.samples} of {escape(data)}")
    for (first, *others), *rows in report.tables():
        numbers = (Column(name, justify="right", no_wrap=True) for name in others)
        table = Table(Column(first, overflow="fold"), *numbers, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in rows:
            table.add_row(*map(escape, row), style="bold" if row[0] == "total" else "")
        _print_table(table)
    out.print(f"Energy: {escape(report.model.source)}.", highlight=False)
    for what, times in report.not_counted.items():
        err.print(f"[yellow]not counted:[/] {escape(what)} ({times} x)", highlight=False)


def _recordings(model: EventClassifier, data: str | None, samples: str) -> tuple[str, Callable[[int], Events], range]:
    """Open recordings: what they are, what reads one of them, and which were chosen; one that fits where None."""
    import rsnn
    from rsnn.data import EventArchive
    from rsnn.data import samples as shipped
    from rsnn.training.sources import open_part, sample_range

    if data is None:
        events = rsnn.read_events(shipped.path())
        size = model.preprocessing.frame_size if model.preprocessing else (1, 1)
        if max(size) <= min(events.sensor_size):
            return shipped.path().name, lambda _: events, range(1)
        return "a simulated gesture", lambda _: _simulated_gesture("right_hand_wave", 0), range(1)
    if Path(data).is_file():
        try:
            archive = EventArchive(data)
        except RSNNError:
            events = rsnn.read_events(data)  # whose error, if there is one, is of more use
            return data, lambda _: events, sample_range(samples, 1)
        return data, archive.events, sample_range(samples, len(archive))
    part = open_part(data, split="test")
    return data, part.read, sample_range(samples, len(part))


def _counted(read: Callable[[int], Events], chosen: range, advance: Callable[[int], None]) -> Iterator[Events]:
    for done, index in enumerate(chosen):
        advance(done)
        yield read(index)


@app.command()
def watch(
    source: Annotated[
        str,
        typer.Argument(help="Recording, - for standard input, aestream:PORT, jaer:PORT, or camera."),
    ],
    model: Annotated[str, typer.Option(help="Zoo name, ./folder, or org/name on the Hub.")] = "rsnn-nmnist-cl",
    window: Annotated[float | None, typer.Option(help="Seconds of evidence; by default the model's own.")] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds between predictions; by default one step.")] = None,
    overlap: Annotated[int, typer.Option(help="Windows that run at once.")] = 1,
    decay: Annotated[float, typer.Option(help="Weight of earlier predictions, from 0 to below 1.")] = 0.0,
    sensor_size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the sensor, where the source does not say it.")
    ] = None,
    speed: Annotated[float, typer.Option(help="Of a file's replay; inf for as fast as it goes.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each prediction.")] = False,
) -> None:
    """Run a model on a live source until it ends or you press Ctrl-C, and show what it says; see docs/streaming.md."""
    from rsnn.streaming import watching

    with _user_errors():
        watching.watch(
            _load(model),
            source,
            as_json=as_json,
            window=window,
            hop=hop,
            overlap=overlap,
            decay=decay,
            sensor_size=watching.parse_sensor_size(sensor_size),
            speed=speed,
        )


@app.command()
def simulate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="VIDEO_OR_FOLDER",
            help="A video, animated picture or folder of frames; with --moving a picture, or a folder or zip of them.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The recording, or a folder for those of many stills.")],
    preset: Annotated[str, typer.Option(help="Of the pixels: dvs128, clean or noisy.")] = "dvs128",
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one parameter of the preset.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second; a folder needs it.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the sensor; images are cut and rescaled to it.")
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(help="Exponent from pixel values to light; by default 1, and 2.2 with --moving.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of mismatch and noise.")] = 0,
    moving: Annotated[bool, typer.Option("--moving", help="Move still pictures as CIFAR10-DVS did.")] = False,
    cifar10dvs: Annotated[bool, typer.Option("--cifar10dvs", help="Make CIFAR-10 a stand-in for CIFAR10-DVS.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes for many stills; one a core by default.")] = None,
    format: Annotated[  # noqa: A002
        str | None, typer.Option(help="Of the recording, whatever its suffix; of many their suffix, such as .npz.")
    ] = None,
) -> None:
    """Record a video, images or stills with a simulated event camera; see docs/simulate.md."""
    from rsnn.data.simulate import command
    from rsnn.streaming.watching import parse_sensor_size

    with _user_errors():
        said = command.simulate(
            source,
            output,
            parameters=command.with_settings(preset, change or []),
            seed=seed,
            fps=fps,
            size=parse_sensor_size(size),
            gamma=gamma,
            moving=moving,
            cifar10dvs=cifar10dvs,
            jobs=jobs,
            format=format,
        )
        out.print(said, highlight=False, soft_wrap=True, markup=False)


@app.command()
def bench(
    model: Annotated[str, typer.Argument(help="Zoo name with the encoder CL; it runs with fresh weights.")] = (
        "rsnn-gesture-cl"
    ),
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Batch of inference; 1 and 16 by default.")] = None,
    train_batch: Annotated[int, typer.Option(min=1, help="Batch of the training step.")] = 8,
    density: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of spikes between the stages.")] = 0.1,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 5,
    scaling: Annotated[bool, typer.Option("--scaling", help="Measure how the cost grows with the sizes.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time this library on the CPU against the same network written the plain way, in turn, in one process."""
    from rsnn import bench as measure

    with _user_errors():
        if scaling:
            with _progress("measuring", 15) as advance:
                found = measure.scaling(repeats=repeats, on_progress=advance)
            data: Any = [vars(row) for row in found]
            rows, said = measure.sizes(found), [f"{measure.machine()}"]
        else:
            batches = tuple(batch or (1, 16))
            with _progress("measuring", len(batches) + 4) as advance:
                report = measure.bench(
                    model,
                    batches=batches,
                    train_batch=train_batch,
                    density=density,
                    repeats=repeats,
                    on_progress=advance,
                )
            data, rows, said = report.to_dict(), measure.tables(report), report.summary()
    if as_json:
        _print_json(data)
        return
    for line in said:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    if markdown:
        out.print(f"\n{measure.markdown(rows)}", highlight=False, soft_wrap=True, markup=False)
        return
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    _print_table(table)


@app.command()
def doctor() -> None:
    """Say what this machine has: versions, devices, and which kernel runs where, with the reason if one cannot."""
    from importlib.metadata import PackageNotFoundError, distributions, version

    import torch

    from rsnn import kernels

    table = Table("what", "found")
    for package in ("rsnn", "torch", "spikingjelly", "numpy", "huggingface-hub", "safetensors"):
        try:
            table.add_row(package, version(package))
        except PackageNotFoundError:
            table.add_row(package, "[red]not installed[/]")
    for package, names in {"triton": ("triton",), "cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x")}.items():
        found = [f"{version(name)} ({name})" for name in names if any(True for _ in distributions(name=name))]
        table.add_row(package, ", ".join(found) or "not installed (for GPUs)")
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device in devices:
        name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
        with _user_errors():
            chosen = (
                f"{label} by {kernels.selected(device, operator)!r}" for operator, label in kernels.OPERATORS.items()
            )
            table.add_row(device, f"{name}, {', '.join(chosen)}")
        if device != "cpu" and kernels.status()["spikingjelly"] is None:
            table.add_row(f"spikingjelly on {device}", escape(kernels.lif_spikingjelly.implementation(device)))
    for name, reason in kernels.status().items():
        table.add_row(f"kernel {name}", "[green]available[/]" if reason is None else f"[yellow]{escape(reason)}[/]")
    _print_table(table)
