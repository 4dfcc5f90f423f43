"""Many still pictures, moved before the camera: a folder of recordings from a folder or a zip of images."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rsnn.checks import check_whole
from rsnn.data.events import Events
from rsnn.data.files import as_path, locked, remove_partial, replacing
from rsnn.data.processes import check_not_started_again, pool
from rsnn.data.simulate.camera import to_events
from rsnn.data.simulate.footage import is_image
from rsnn.data.simulate.moving import check_movement, moving_image
from rsnn.data.simulate.parameters import DVSParameters, resolve_parameters
from rsnn.data.writers import FORMAT_OF_SUFFIX, write_events
from rsnn.errors import InputError, shortened

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
        if not len(events):
            raise InputError(
                f"{self.images}: {member} has too little contrast for an event; expected lower thresholds, or a folder "
                "without it"
            )
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
    they are an `EventFolder` if the pictures lie in a folder for each class. An interrupted run goes on where it ended,
    also with further pictures.

    Args:
        images: a folder or a zip, with pictures at any depth.
        folder: where the recordings go.
        parameters: of the pixels, or the name of a preset.
        seed: of mismatch and noise. Each recording depends on it, on the picture and on the picture's name alone.
        jobs: processes; as many as there are cores by default. With more than one, a script calls this below
            `if __name__ == "__main__":`, since each process runs the rest of the script.
        suffix: of the recordings, which says their format (see `write_events`).
        on_progress: called with the number of recordings that are there.
        movement: further arguments of `moving_image`.

    Returns:
        The folder.

    Raises:
        InputError: there are no pictures, one cannot be read, an argument is out of its range, or the folder holds
            recordings that were made in another way or of other pictures.
        RSNNError: a process ended before its work was done.

    """
    recorder = Recorder(as_path(images), resolve_parameters(parameters), seed, movement)
    return record(recorder, as_path(folder), suffix, jobs, on_progress)


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
    check_not_started_again()
    if suffix not in FORMAT_OF_SUFFIX:
        raise InputError(f"suffix is {suffix!r}; expected one of {', '.join(FORMAT_OF_SUFFIX)}")
    check_whole("seed", recorder.seed, 0)
    check_movement(**recorder.movement)
    jobs = os.cpu_count() or 1 if jobs is None else check_whole("jobs", jobs, 1)
    members = members or list_members(recorder.images)
    targets = {member: _target(member, suffix) for member in members}
    if len(set(targets.values())) < len(targets):
        raise InputError(f"{recorder.images} holds two pictures that differ in their suffix alone; rename one of them")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except OSError as error:
            raise InputError(
                f"{folder} cannot be written ({error}); expected a folder that this user may write to"
            ) from error
        remove_partial(folder)  # of a run that was killed: the lock is ours
        settings = json.loads(json.dumps(recorder.settings() | {"suffix": suffix}, default=_plain))
        _keep_settings(folder, settings, _digests(recorder.images, members))
        missing = [member for member in members if not (folder / targets[member]).is_file()]
        done = len(members) - len(missing)
        work = [(recorder, member, folder / targets[member]) for member in missing]
        for number, _ in enumerate(_run(work, jobs)):
            if on_progress:
                on_progress(done + number + 1)
        if missing or not (folder / MANIFEST).is_file():
            _write_manifest(folder, [(targets[member], part(member) if part else "") for member in members])
    return folder


def _target(member: str, suffix: str) -> str:
    return str(PurePosixPath(member).with_suffix(suffix))


def _plain(value: Any) -> Any:
    """Return a NumPy scalar or array, or a number of another kind, as JSON has it."""
    return value.tolist() if hasattr(value, "tolist") else float(value)


def list_members(images: Path) -> list[str]:
    """Return the pictures in a folder or zip, as paths in it, in the order of their names.

    Raises:
        InputError: there is no such folder or zip, or it holds no pictures.

    """
    if images.is_dir():
        names = [path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()]
    elif zipfile.is_zipfile(images):
        names = _names_in_zip(images)
    else:
        raise InputError(f"{images} is neither a folder nor a zip; expected one that holds pictures")
    # Hidden ones are left out, and with them names that lead out of a zip by "..".
    pictures = sorted(name for name in names if is_image(Path(name)) and "/." not in f"/{name}")
    if not pictures:
        raise InputError(f"{images} holds no pictures; expected images such as <class>/0001.png")
    if any(PurePosixPath(name).is_absolute() for name in pictures):
        raise InputError(f"{images} holds names that lead out of it; expected a zip that can be unpacked")
    for name in pictures:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{images} holds a picture whose name is not UTF-8, {os.fsencode(name)!r}; rename it"
            ) from None
    return pictures


def _names_in_zip(images: Path) -> list[str]:
    try:
        with zipfile.ZipFile(images) as archive:
            return [member.filename for member in archive.infolist() if not member.is_dir()]
    except Exception as error:  # what a damaged directory raises is not documented
        raise InputError(f"{images} cannot be read ({error}); expected a whole zip") from error


def _opened(images: Path, member: str) -> Any:
    if images.is_dir():
        return images / member
    try:
        with zipfile.ZipFile(images) as archive:
            return io.BytesIO(archive.read(member))
    except Exception as error:  # also those of whatever it is compressed with
        raise InputError(
            f"{images}: {member} cannot be read ({error}); expected a whole zip without a password"
        ) from error


def _digests(images: Path, members: Sequence[str]) -> dict[str, str]:
    """Return the size and the CRC-32 of each picture's file, as text."""
    if images.is_dir():
        files = ((member, (images / member).read_bytes()) for member in members)
        try:
            return {member: f"{len(data)} {zlib.crc32(data):08x}" for member, data in files}
        except OSError as error:
            raise InputError(f"{images} cannot be read ({error}); expected pictures that this user may read") from error
    with zipfile.ZipFile(images) as archive:
        infos = {member: archive.getinfo(member) for member in members}
    return {member: f"{info.file_size} {info.CRC:08x}" for member, info in infos.items()}


Work = tuple[Recorder, str, Path]


def _do(work: Work) -> None:
    recorder, member, target = work
    write_events(target, recorder.record(member))


def _run(work: Sequence[Work], jobs: int) -> Iterator[None]:
    if jobs == 1 or len(work) <= TOGETHER:
        yield from map(_do, work)
        return
    with pool(min(jobs, len(work))) as executor:
        yield from executor.map(_do, work, chunksize=TOGETHER)


def _keep_settings(folder: Path, settings: dict[str, Any], pictures: dict[str, str]) -> None:
    """Write the settings and the pictures' digests beside the recordings, or check them against those already there.

    There may be more pictures than before, and others in place of those that have no recording yet. Settings without a
    single recording, as a run that failed leaves them, do not count.
    """
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(not child.name.startswith(".") for child in folder.iterdir()):
            raise InputError(f"{folder} holds other files; expected a new or empty folder for the recordings")
        _write_settings(path, settings | {"pictures": pictures})
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
        known = before.pop("pictures", None)  # early folders have none
        known = None if known is None else dict(known)
        recorded = [member for member in known or () if (folder / _target(member, before["suffix"])).is_file()]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected the settings of the recordings beside it"
        ) from error
    if known is not None and not recorded:
        _write_settings(path, settings | {"pictures": pictures})
        return
    if before != settings:
        different = [key for key in settings if before.get(key) != settings[key]]
        raise InputError(
            f"{folder} holds recordings made with other settings ({', '.join(different)}); expected the same to go on: "
            "choose another folder, or delete this one"
        )
    if known is None or known == pictures:
        return
    others = [member for member in recorded if known[member] != pictures.get(member)]
    if others:
        raise InputError(
            f"{folder} holds recordings of other pictures ({shortened(', '.join(others))}); expected the same to go "
            "on: choose another folder, or delete these recordings"
        )
    _write_settings(path, settings | {"pictures": pictures})


def _write_settings(path: Path, settings: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_manifest(folder: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write the table that `EventFolder` reads: the class is the folder that a recording is in."""
    with replacing(folder / MANIFEST) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "label", "split"])
        for path, part in rows:
            table.writerow([path, PurePosixPath(path).parent.name or folder.name, part])
