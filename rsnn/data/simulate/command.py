"""What `rsnn simulate` does, as one function: a film, a still or many stills in, recordings out."""

from __future__ import annotations

import dataclasses
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsnn.data.events import Events
from rsnn.data.files import check_apart
from rsnn.data.progress import progress
from rsnn.data.simulate.camera import iter_events
from rsnn.data.simulate.cifar10dvs import SUFFIX, build_cifar10dvs
from rsnn.data.simulate.footage import read_frames
from rsnn.data.simulate.moving import moving_image
from rsnn.data.simulate.parameters import DVSParameters, resolve_parameters
from rsnn.data.simulate.stills import list_members, record_images
from rsnn.data.writers import FORMAT_OF_SUFFIX, write_events
from rsnn.errors import ConfigError, InputError, RecordingError, suggest


def simulate(
    source: Path,
    output: Path,
    *,
    parameters: DVSParameters,
    seed: int = 0,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    gamma: float | None = None,
    moving: bool = False,
    cifar10dvs: bool = False,
    jobs: int | None = None,
    format: str | None = None,  # noqa: A002 - as in `write_events`
) -> str:
    """Record a film, a still or a folder of stills; return what was written, in a sentence.

    What does not concern the kind of source is ignored.

    Args:
        source: a video, an animated picture or a folder of frames; with `moving` a picture, or a folder or zip of them.
        output: the recording, or, of many stills, the folder for them.
        parameters: of the pixels.
        seed: of mismatch and noise.
        fps: frames a second of a film.
        size: (width, height) of the sensor.
        gamma: exponent from pixel values to intensity.
        moving: whether `source` is stills, to be moved.
        cifar10dvs: whether `source` is CIFAR-10, to become `SimulatedCIFAR10DVS`.
        jobs: processes for many stills.
        format: of the recording, whatever its suffix, or of many, by its name or suffix: "numpy" or ".npz".

    Raises:
        RSNNError: something is not as above.

    """
    check_apart(source, output)
    began = time.perf_counter()
    movement: dict[str, Any] = {"size": size, "gamma": gamma}
    movement = {name: value for name, value in movement.items() if value is not None}
    if cifar10dvs:
        with progress("recording", 10_000) as advance:
            build_cifar10dvs(source, output, seed=seed, jobs=jobs, on_progress=advance)
        return _many(output, 10_000, began)
    if moving and holds_many(source):
        if output.suffix.lower() in FORMAT_OF_SUFFIX and not output.is_dir():
            raise InputError(
                f"{output} is the name of one recording, and {source} holds many stills; expected the name of a folder "
                f"for theirs: --format {output.suffix.lower()} says what they will be"
            )
        total = len(list_members(source))
        with progress("recording", total) as advance:
            record_images(
                source,
                output,
                parameters,
                seed=seed,
                jobs=jobs,
                suffix=SUFFIX if format is None else _suffix_of(format),
                on_progress=advance,
                **movement,
            )
        return _many(output, total, began)
    format_name = None if format is None else FORMAT_OF_SUFFIX.get(format, format)
    frames: Iterable[tuple[Any, int]]
    if moving:
        frames = list(moving_image(source, **movement))
        total_frames: int | None = len(frames)
    else:
        footage = read_frames(source, fps=fps, size=size, gamma=1.0 if gamma is None else gamma)
        frames, total_frames = footage, footage.count()
    tally = _Tally()
    with progress("recording", total_frames) as advance:
        seen = tally.frames(frames, advance)
        try:
            write_events(output, tally.events(iter_events(seen, parameters, seed=seed)), format=format_name)
        except RecordingError as error:
            if tally.number:
                raise
            raise InputError(
                f"nothing in {source} changes enough for an event; expected two frames or more that differ: lower "
                "thresholds see more (--set pos_thres=0.1 --set neg_thres=0.1)"
            ) from error
    said = tally.sentence(output, time.perf_counter() - began)
    if (format_name or FORMAT_OF_SUFFIX[output.suffix.lower()]) == "nmnist":
        said += "; the file does not say its sensor: pass sensor_size in read_events, --sensor-size in `rsnn convert`"
    return said


def holds_many(source: Path) -> bool:
    """Tell whether what is to be moved is a folder or zip of stills, and not one."""
    return not source.is_file() or zipfile.is_zipfile(source)


def _suffix_of(format_name: str) -> str:
    """Return the suffix of recordings in a format; what is none stays what it is."""
    return next((suffix for suffix, name in FORMAT_OF_SUFFIX.items() if name == format_name), format_name)


def with_settings(preset: str, settings: Sequence[str]) -> DVSParameters:
    """Return a preset with some of its parameters changed, each written NAME=VALUE.

    Raises:
        UnknownNameError: there is no such preset.
        ConfigError: there is no such parameter, or a value is not a number in its range.

    """
    parameters = resolve_parameters(preset)
    known = [field.name for field in dataclasses.fields(parameters)]
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name not in known or not equals:
            raise ConfigError(
                f"{setting!r} sets no parameter; expected NAME=VALUE with one of {', '.join(known)}."
                f"{suggest(name, known)}"
            )
        try:
            changes[name] = float(value)
        except ValueError:
            raise ConfigError(f"{name} is {value!r}; expected a number") from None
    return dataclasses.replace(parameters, **changes)


def _many(folder: Path, number: int, began: float) -> str:
    return f"{folder}: {number:,} recordings in {time.perf_counter() - began:,.0f} s"


class _Tally:
    """Counts what goes by."""

    def __init__(self) -> None:
        self.number = self.on = 0
        self.first_us = self.last_us = 0
        self.shape: tuple[int, ...] = ()

    def frames(self, frames: Iterable[tuple[Any, int]], advance: Any) -> Iterator[tuple[Any, int]]:
        for number, (frame, time_us) in enumerate(frames):
            if not number:
                self.first_us, self.shape = time_us, frame.shape
            self.last_us = time_us
            yield frame, time_us
            advance(number + 1)

    def events(self, pieces: Iterable[Events]) -> Iterator[Events]:
        for piece in pieces:
            self.number += len(piece)
            self.on += int(np.count_nonzero(piece.p))
            yield piece

    def sentence(self, output: Path, seconds: float) -> str:
        span = (self.last_us - self.first_us) * 1e-6
        return (
            f"{output}: {self.number:,} events in {span:.2f} s, {self.shape[1]} x {self.shape[0]} pixels, "
            f"{self.on / max(self.number, 1):.0%} brighter; simulated in {seconds:.1f} s"
        )
