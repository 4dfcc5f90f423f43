"""`rsnn demo`: a model making up its mind, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

import rsnn
from rsnn.cli.console import DEFAULT_MODEL, ModelOption, out, refuse
from rsnn.data import Events
from rsnn.errors import InputError, UnknownNameError, suggest
from rsnn.models import EventClassifier
from rsnn.models.prediction import frames_of


def demo(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="Recordings; a simulated gesture by default."),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    gesture: Annotated[str, typer.Option(help="Gesture to simulate, such as right_arm_cw or arm_roll.")] = "air_guitar",
    seed: Annotated[int, typer.Option(min=0, help="Who performs it, and how.")] = 0,
    output: Annotated[Path, typer.Option(help="Where to write the animated picture.")] = Path("rsnn-demo.gif"),
) -> None:
    """Watch a model make up its mind about a simulated gesture, or about your recordings, and draw an animation."""
    if output.suffix.lower() != ".gif":
        raise InputError(f"{output} has the suffix {output.suffix!r}; expected .gif, an animated picture")
    if files:
        refuse(context, "gesture", "seed", use="simulated gestures", here=f"{files[0]} is a recording")
    loaded = rsnn.load(model)
    if files:
        for number, file in enumerate(files):
            picture = output if number == 0 else output.with_stem(f"{output.stem}-{number + 1}")
            _demonstrate(loaded, model, file.name, rsnn.read_events(file), picture)
    else:
        events = simulated_gesture(gesture, seed)
        if loaded.class_names is not None and gesture not in loaded.class_names:
            raise InputError(
                f"{model} knows no {gesture}, but {', '.join(loaded.class_names)}; expected a model of these "
                "gestures, such as rsnn-gesture-cl, or recordings for this one: rsnn demo FILE --model MODEL"
            )
        _demonstrate(loaded, model, f"a simulated {gesture}", events, output)


def simulated_gesture(gesture: str, seed: int) -> Events:
    """Return a recording of the gesture by a performer of the test part, drawn by the seed."""
    from rsnn.data.simulate import SimulatedGestures

    names = SimulatedGestures.class_names
    if gesture not in names:
        raise UnknownNameError(
            f"there is no gesture {gesture!r}; expected one of {', '.join(names)}.{suggest(gesture, names)}"
        )
    clips = SimulatedGestures(len(names), seed, split="test", duration_s=(1.5, 1.5))
    return clips[names.index(gesture)][0]


def _demonstrate(loaded: EventClassifier, name: str, what: str, events: Events, picture: Path) -> None:
    """Go through a recording step by step, showing what the model thinks; then its time, its energy, a picture."""
    from rsnn.plots import save_animation

    frames = frames_of(events, loaded)
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
    report = rsnn.energy_report(loaded, frames[:, None])
    joules = report.total.cost(report.model)
    out.print(
        f"Energy of its operations: {1e6 * joules:.1f} µJ ({escape(report.model.source)})",
        highlight=False,
    )
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
