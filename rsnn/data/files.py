"""Files and folders that appear under their name only when they are complete.

Each is made under another name in the same folder and then renamed, which is one operation of the file system. A lock
keeps two processes from doing the same work; it is released when a process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rsnn.data.progress import progress
from rsnn.errors import InputError, shown

PATIENCE_S = 1.0


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return the path that a user gives, with `~` as the home folder.

    Raises:
        InputError: it is none.

    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path is {shown(path)}; expected the path of a file, as text or a pathlib.Path")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - `Path.expanduser` fails at a file called "~name"


def check_apart(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Check that what is read is not what will be written over.

    Raises:
        InputError: both are one file.

    """
    try:
        same = as_path(source).samefile(as_path(target))
    except OSError:  # one of them is not there
        return
    if same:
        raise InputError(f"{target} is the file that is read; expected another name, lest the original be lost")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield another name in the same folder; what is written there becomes `path` if the block ends well.

    The other name has the same suffix, since some writers go by it. A link stays: the file that it names is written.

    Raises:
        InputError: the file cannot be written there, or something else than a file is.

    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            found = "folder" if target.is_dir() else "pipe or device"
            raise InputError(f"{path} cannot be written (it is a {found}); expected the name of a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
        partial.touch(exist_ok=False)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); expected a folder that this user may write to"
        ) from error
    try:
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be written ({reason}); expected a file name with room on its disk") from error
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed within `replacing` left in a folder and those in it."""
    for left_over in folder.rglob(".*.partial*"):
        left_over.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock beside `target` while it is made; says so when another process has it."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        with progress(f"waiting for another process to make {target.name}"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def make_folder(target: Path, fill: Callable[[Path], None], *, is_whole: Callable[[Path], bool] = Path.is_dir) -> None:
    """Let `fill` make the folder `target`, which appears only when it is complete.

    Nothing happens if it is there and `is_whole` says so; if it is there and is not, it is made anew.
    """
    if is_whole(target):
        return
    with locked(target):
        if is_whole(target):  # another process made it meanwhile
            return
        prefix = f".{target.name}.partial-"
        for left_over in target.parent.glob(f"{prefix}*"):  # of a process that was killed: the lock is ours
            shutil.rmtree(left_over, ignore_errors=True)
        partial = target.with_name(f"{prefix}{secrets.token_hex(4)}")
        partial.mkdir()
        try:
            fill(partial)
            if target.is_dir():
                shutil.rmtree(target)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
