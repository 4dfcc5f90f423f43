"""Many still pictures, moved before the camera: a folder of recordings from a folder or a zip of images."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rsnn.data.events import Events
from rsnn.data.files import locked, remove_partial, replacing
from rsnn.data.simulate.camera import to_events
from rsnn.data.simulate.footage import is_image
from rsnn.data.simulate.moving import moving_image
from rsnn.data.simulate.parameters import DVSParameters, resolve_parameters
from rsnn.data.writers import FORMAT_OF_SUFFIX, write_events
from rsnn.errors import InputError

SETTINGS = "simulation.json"
MANIFEST = "manifest.csv"
TOGETHER = 8  # pictures that a process takes at a time


@dataclass(frozen=True)
class Recorder:
    """How pictures become recordings.

    Args:
        images: the folder or zip that holds the pictures.
        parameters: of the pixels.
        seed: of mismatch and noise; each picture has its own part of it, by its name.
        movement: arguments of `moving_image`.
        on_its_side: whether the camera lies as that of CIFAR10-DVS did: x = H - 1 - row, y = W - 1 - column.

    """

    images: Path
    parameters: DVSParameters
    seed: int = 0
    movement: dict[str, Any] = dataclasses.field(default_factory=dict)
    on_its_side: bool = False

    def settings(self) -> dict[str, Any]:
        """Return all that the events depend on, as plain data."""
        return {
            "simulated": "moving images",
            "parameters": dataclasses.asdict(self.parameters),
            "seed": self.seed,
            "movement": {
                key: list(value) if isinstance(value, tuple) else value for key, value in self.movement.items()
            },
            "on_its_side": self.on_its_side,
        }

    def record(self, member: str) -> Events:
        """Return the events of one picture."""
        picture = _opened(self.images, member)
        try:
            frames = moving_image(picture, **self.movement)
        except InputError as error:
            raise InputError(f"{self.images}: {member}: {error}") from error
        events = to_events(frames, self.parameters, seed=(self.seed, *member.encode()))
        if not self.on_its_side:
            return events
        W, H = events.sensor_size
        return Events(events.t, H - 1 - events.y, W - 1 - events.x, events.p, (H, W))


def record_images(
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    parameters: DVSParameters | str = "dvs128",
    *,
    seed: int = 0,
    jobs: int | None = None,
    suffix: str = ".raw",
    on_progress: Callable[[int], None] | None = None,
    **movement: Any,
) -> Path:
    """Record every still picture of a folder or zip as `moving_image` moves it, several at a time.

    The recordings lie in `folder` as the pictures do in `images`. With the table `manifest.csv`, which is written last,
    they are an `EventFolder` if the pictures lie in a folder for each class. An interrupted run goes on where it ended.

    Args:
        images: a folder or a zip, with pictures at any depth.
        folder: where the recordings go.
        parameters: of the pixels, or the name of a preset.
        seed: of mismatch and noise. Each recording depends on it, on the picture and on the picture's name alone.
        jobs: processes; as many as there are cores by default.
        suffix: of the recordings, which says their format (see `write_events`).
        on_progress: called with the number of recordings that are there.
        movement: further arguments of `moving_image`.

    Returns:
        The folder.

    Raises:
        InputError: there are no pictures, one cannot be read, an argument is out of its range, or the folder holds
            recordings that were made in another way.

    """
    recorder = Recorder(Path(images).expanduser(), resolve_parameters(parameters), seed, movement)
    return record(recorder, Path(folder).expanduser(), suffix, jobs, on_progress)


def record(
    recorder: Recorder,
    folder: Path,
    suffix: str,
    jobs: int | None,
    on_progress: Callable[[int], None] | None,
    members: Sequence[str] | None = None,
    part: Callable[[str], str] | None = None,
) -> Path:
    """Record pictures (all, or `members`); `part` says in which part of the data set a picture is."""
    if suffix not in FORMAT_OF_SUFFIX:
        raise InputError(f"suffix is {suffix!r}; expected one of {', '.join(FORMAT_OF_SUFFIX)}")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise InputError(f"jobs is {jobs!r}; expected a whole number of at least 1")
    members = members or list_members(recorder.images)
    targets = {member: str(PurePosixPath(member).with_suffix(suffix)) for member in members}
    if len(set(targets.values())) < len(targets):
        raise InputError(f"{recorder.images} holds two pictures that differ in their suffix alone; rename one of them")
    with locked(folder):
        remove_partial(folder)  # of a run that was killed: the lock is ours
        _keep_settings(folder, json.loads(json.dumps(recorder.settings() | {"suffix": suffix})))
        missing = [member for member in members if not (folder / targets[member]).is_file()]
        done = len(members) - len(missing)
        work = [(recorder, member, folder / targets[member]) for member in missing]
        for number, _ in enumerate(_run(work, jobs or os.cpu_count() or 1)):
            if on_progress:
                on_progress(done + number + 1)
        if missing or not (folder / MANIFEST).is_file():
            _write_manifest(folder, [(targets[member], part(member) if part else "") for member in members])
    return folder


def list_members(images: Path) -> list[str]:
    """Return the pictures in a folder or zip, as paths in it, in the order of their names.

    Raises:
        InputError: there is no such folder or zip, or it holds no pictures.

    """
    if images.is_dir():
        names = [path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()]
    elif zipfile.is_zipfile(images):
        with zipfile.ZipFile(images) as archive:
            names = [member.filename for member in archive.infolist() if not member.is_dir()]
    else:
        raise InputError(f"{images} is neither a folder nor a zip; expected one that holds pictures")
    # Hidden ones are left out, and with them names that lead out of a zip by "..".
    pictures = sorted(name for name in names if is_image(Path(name)) and "/." not in f"/{name}")
    if not pictures:
        raise InputError(f"{images} holds no pictures; expected images such as <class>/0001.png")
    if any(PurePosixPath(name).is_absolute() for name in pictures):
        raise InputError(f"{images} holds names that lead out of it; expected a zip that can be unpacked")
    return pictures


def _opened(images: Path, member: str) -> Any:
    if images.is_dir():
        return images / member
    try:
        with zipfile.ZipFile(images) as archive:
            return io.BytesIO(archive.read(member))
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{images}: {member} cannot be read ({error}); expected a whole zip") from error


Work = tuple[Recorder, str, Path]


def _do(work: Work) -> None:
    recorder, member, target = work
    write_events(target, recorder.record(member))


def _run(work: Sequence[Work], jobs: int) -> Iterator[None]:
    if jobs == 1 or len(work) <= TOGETHER:
        yield from map(_do, work)
        return
    # A picture is too small a task for more than one thread.
    with (
        _environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1"),
        ProcessPoolExecutor(min(jobs, len(work)), multiprocessing.get_context("spawn")) as pool,
    ):
        try:
            yield from pool.map(_do, work, chunksize=TOGETHER)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _keep_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings beside the recordings, or check that those already there were made with the same."""
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(not child.name.startswith(".") for child in folder.iterdir()):
            raise InputError(f"{folder} holds other files; expected a new or empty folder for the recordings")
        with replacing(path) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected the settings of the recordings beside it"
        ) from error
    if before != settings:
        different = [key for key in settings if before.get(key) != settings[key]]
        raise InputError(
            f"{folder} holds recordings made with other settings ({', '.join(different)}); expected the same to go on: "
            "choose another folder, or delete this one"
        )


def _write_manifest(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write the table that `EventFolder` reads: the class is the folder that a recording is in."""
    with replacing(folder / MANIFEST) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "label", "split"])
        for path, part in rows:
            table.writerow([path, PurePosixPath(path).parent.name or folder.name, part])
