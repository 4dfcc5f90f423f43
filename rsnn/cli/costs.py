"""`rsnn energy` and `rsnn bench`: what a model costs, in operations and in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Column, Table

import rsnn
from rsnn import hub
from rsnn.cli.console import (
    DEFAULT_MODEL,
    AsJson,
    ModelArgument,
    Samples,
    err,
    out,
    print_json,
    print_table,
    progress,
    refuse,
)
from rsnn.cli.demo import simulated_gesture
from rsnn.data import EventArchive, Events
from rsnn.data import samples as shipped
from rsnn.energy.costs import energy_model
from rsnn.errors import RSNNError, UnknownNameError
from rsnn.models import EventClassifier


def energy(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option(help="Recordings: archive (.npz), folder, single file, or gestures:N for simulated ones."),
    ] = None,
    samples: Samples = ":",
    costs: Annotated[str, typer.Option(help="horowitz, horowitz-int8, horowitz-memory or lemaire.")] = "horowitz",
    untrained: Annotated[bool, typer.Option("--untrained", help="Random weights, for names without any.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the operations of a model on recordings, layer by layer, and say what they cost; see docs/energy.md."""
    if data is None:
        refuse(context, "samples", use="the recordings of --data", here="without it one recording is counted")
    energy_model(costs)  # an unknown name is an error before anything takes long
    if not untrained and model in rsnn.list_models() and hub.find_entry(model) is None:
        raise UnknownNameError(f"{model!r} has no published weights; --untrained counts it with random ones")
    loaded = rsnn.create_model(model) if untrained else rsnn.load(model)
    data, read, chosen = _recordings(loaded, data, samples)
    with progress("counting", len(chosen)) as advance:
        report = rsnn.energy_report(loaded, _counted(read, chosen, advance), energy=costs)
    if as_json:
        print_json({"model": model, "data": data, "first": chosen.start, "end": chosen.stop, **report.to_dict()})
        return
    out.print(
        f"[bold]{escape(model)}[/], one recording, the mean of {report.samples} of {escape(data)}", soft_wrap=True
    )
    for (first, *others), *rows in report.tables():
        numbers = (Column(name, justify="right", no_wrap=True) for name in others)
        table = Table(Column(first, overflow="fold"), *numbers, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for row in rows:
            table.add_row(*map(escape, row), style="bold" if row[0] == "total" else "")
        print_table(table)
    out.print(f"Energy: {escape(report.model.source)}.", highlight=False, soft_wrap=True)
    for what, times in report.not_counted.items():
        err.print(f"[yellow]not counted:[/] {escape(what)} ({times} x)", highlight=False)


def _recordings(model: EventClassifier, data: str | None, samples: str) -> tuple[str, Callable[[int], Events], range]:
    """Open recordings: what they are, what reads one of them, and which were chosen; one that fits where None."""
    from rsnn.training.sources import open_part, sample_range

    if data is None:
        events = rsnn.read_events(shipped.path())
        size = model.preprocessing.frame_size if model.preprocessing else (1, 1)
        if max(size) <= min(events.sensor_size):
            return shipped.path().name, lambda _: events, range(1)
        return "a simulated gesture", lambda _: simulated_gesture("right_hand_wave", 0), range(1)
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


def bench(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Zoo name of an RSNN, ./folder or org/name.")] = DEFAULT_MODEL,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Batch of inference; 1 and 16 by default.")] = None,
    train_batch: Annotated[int, typer.Option(min=1, help="Batch of the training step.")] = 8,
    density: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Take fresh weights that make this share of the stages' outputs fire."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the median counts.")] = 5,
    scaling: Annotated[bool, typer.Option("--scaling", help="Measure how the cost grows with the sizes.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of a table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time this library on the CPU against the same network written the plain way, in turn, in one process."""
    from rsnn import bench as measure

    if as_json:
        refuse(context, "markdown", use="people to read", here="--json prints for programs")
    if scaling:
        refuse(
            *(context, "model", "batch", "train_batch", "density"),
            use="the comparison with the plain way",
            here="--scaling measures networks and sizes of its own",
        )
        with progress("measuring", len(measure.SIZES)) as advance:
            found = measure.scaling(repeats=repeats, on_progress=advance)
        data: Any = [vars(row) for row in found]
        rows, said = measure.sizes(found), [measure.conditions()]
    else:
        batches = tuple(batch or (1, 16))
        with progress("measuring", len(batches) + 4) as advance:
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
        print_json(data)
        return
    for line in said:
        out.print(f"- {line}" if markdown else line, highlight=False, soft_wrap=True, markup=False)
    if markdown:
        out.print(f"\n{measure.markdown(rows)}", highlight=False, soft_wrap=True, markup=False)
        return
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    print_table(table)
