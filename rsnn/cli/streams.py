"""`rsnn watch`: a model on a live source."""

from __future__ import annotations

from typing import Annotated

import typer

import rsnn
from rsnn.cli.console import DEFAULT_MODEL, ModelOption, parse_size, refuse


def watch(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(help="Recording, - for standard input, aestream:PORT, jaer:PORT, or camera."),
    ],
    model: ModelOption = DEFAULT_MODEL,
    window: Annotated[float | None, typer.Option(help="Seconds of evidence; by default the model's own.")] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds between predictions; by default one step.")] = None,
    overlap: Annotated[int, typer.Option(help="Windows that run at once.")] = 1,
    decay: Annotated[float, typer.Option(help="Weight of earlier predictions, from 0 to below 1.")] = 0.0,
    sensor_size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the sensor, where the source does not say it.")
    ] = None,
    speed: Annotated[float, typer.Option(help="Of a file's replay; inf for as fast as it goes.")] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor, for the model.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each prediction.")] = False,
) -> None:
    """Run a model on a live source until it ends or you press Ctrl-C, and show what it says; see docs/streaming.md.

    On a terminal that is a live view; a file or another program gets a line for each prediction, as soon as it is made.
    """
    from rsnn.streaming.sources import is_camera, is_recording
    from rsnn.streaming.watching import watch as run

    if not is_recording(source):
        refuse(context, "speed", use="the replay of a recording", here=f"the events of {source} come as they come")
    if is_camera(source):
        refuse(context, "sensor_size", use="sources that do not say it", here="a camera does")
    run(
        rsnn.load(model),
        source,
        as_json=as_json,
        window=window,
        hop=hop,
        overlap=overlap,
        decay=decay,
        sensor_size=parse_size(sensor_size),
        speed=speed,
        threads=threads,
    )
