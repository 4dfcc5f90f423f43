"""`rsnn convert` and `rsnn simulate`: recordings into other files, and films into recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rsnn.cli.console import out, parse_size, print_json, refuse
from rsnn.errors import InputError

KeepTruncated = Annotated[bool, typer.Option("--keep-truncated", help="Take what is left of a truncated recording.")]


def convert(
    context: typer.Context,
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
    fps: Annotated[
        float, typer.Option(min=0.1, max=120, help="Frames a second of an animation; of a .gif at most 50.")
    ] = 25.0,
    sensor_size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the recording, if its file does not say it.")
    ] = None,
    source_format: Annotated[str | None, typer.Option("--from", help="Format of IN, whatever it looks like.")] = None,
    target_format: Annotated[str | None, typer.Option("--to", help="Format of OUT, whatever its suffix.")] = None,
    keep_truncated: KeepTruncated = False,
    sort: Annotated[bool, typer.Option("--sort", help="Sort the events by time where they are not.")] = False,
    from_zero: Annotated[
        bool, typer.Option("--from-zero", help="Count times from the first event: some formats hold no time of day.")
    ] = False,
) -> None:
    """Write a recording in another format, as frames, or as pictures to look at."""
    from rsnn.data.convert import FRAMES_SUFFIX, picture_frames
    from rsnn.data.convert import convert as run
    from rsnn.data.files import check_apart
    from rsnn.data.writers import FORMAT_OF_SUFFIX
    from rsnn.plots import ANIMATIONS, PICTURES, save_picture

    known = (*FORMAT_OF_SUFFIX, FRAMES_SUFFIX, *PICTURES)
    if target_format is None and target.suffix.lower() not in known:
        raise InputError(
            f"{target} has the suffix {target.suffix!r}; expected one of {', '.join(known)}, or --to FORMAT"
        )
    as_frames = target_format is None and target.suffix.lower() in (FRAMES_SUFFIX, *PICTURES)
    if as_frames:
        refuse(context, "from_zero", use="recordings", here=f"{target} will hold frames, which have no times")
    else:
        refuse(
            *(context, "frames", "split_by", "size"),
            use=f"frames and pictures ({', '.join((FRAMES_SUFFIX, *PICTURES))})",
            here=f"{target} will be a recording, which has no frames and keeps all its pixels",
        )
    if not as_frames or target.suffix.lower() not in ANIMATIONS:
        refuse(context, "fps", use=f"animations ({', '.join(ANIMATIONS)})", here=f"{target} will be none")
    frame_size = parse_size(size)
    options: dict[str, Any] = {
        "source_format": source_format,
        "sensor_size": parse_size(sensor_size),
        "truncated": "keep" if keep_truncated else "error",
        "unsorted": "sort" if sort else "error",
        "split_by": split_by,
        "size": None if frame_size is None else frame_size[::-1],
    }
    if as_frames and target.suffix.lower() in PICTURES:
        check_apart(source, target)
        made = picture_frames(
            source, num_frames=frames, fps=fps if target.suffix.lower() in ANIMATIONS else None, **options
        )
        written = save_picture(made, target, fps=fps, title=source.name)
    else:
        written = run(
            source, target, target_format=target_format, from_zero=from_zero, num_frames=frames or 20, **options
        )
    out.print(f"{escape(str(written))}: {written.stat().st_size:,} bytes", highlight=False, soft_wrap=True)


def simulate(
    context: typer.Context,
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
        str | None, typer.Option(help="Of the recordings, whatever their suffix: its name or suffix, numpy or .npz.")
    ] = None,
) -> None:
    """Record a video, images or stills with a simulated event camera; see docs/simulate.md."""
    from rsnn.data.simulate import command

    if cifar10dvs:
        refuse(
            *(context, "preset", "change", "fps", "size", "gamma", "moving", "format"),
            use="films and stills of your own",
            here="--cifar10dvs has its own",
        )
    if moving:
        refuse(context, "fps", use="films", here="--moving takes stills")
    if not (cifar10dvs or (moving and command.holds_many(source))):
        refuse(context, "jobs", use="many stills, with --moving or --cifar10dvs", here=f"{source} makes one recording")
    said = command.simulate(
        source,
        output,
        parameters=command.with_settings(preset, change or []),
        seed=seed,
        fps=fps,
        size=parse_size(size),
        gamma=gamma,
        moving=moving,
        cifar10dvs=cifar10dvs,
        jobs=jobs,
        format=format,
    )
    out.print(said, highlight=False, soft_wrap=True, markup=False)


def print_recording(name: str, as_json: bool, keep_truncated: bool) -> None:
    """Print what is in a recording."""
    from rsnn.data.summary import summarize

    found = summarize(name, truncated="keep" if keep_truncated else "error")
    if as_json:
        print_json(found.to_dict())
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
