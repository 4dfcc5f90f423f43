"""Archives of the data sets: where they come from, whether they are whole, and how they are unpacked.

Every step leaves either its whole result or nothing under the final name: files and folders are made under another name
and then renamed, which is one operation of the file system. A lock keeps two processes from doing the same work; it is
released when a process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from rsnn.data.files import locked, make_folder
from rsnn.data.progress import progress
from rsnn.errors import InputError, RecordingError

COPY_BYTES = 1 << 20
TIMEOUT_S = 30


class Archive(NamedTuple):
    """A file of a data set as its authors publish it; `direct` if the address is that of the file itself."""

    name: str
    url: str
    md5: str
    direct: bool = True


def find_archives(root: Path, archives: Sequence[Archive], *, download: bool) -> list[Path]:
    """Return where the archives are: in `root` or, as SpikingJelly keeps them, in `root/download`.

    Raises:
        RecordingError: one is missing and could not be downloaded. The message says which files to put where.

    """
    paths, missing = [], []
    for archive in archives:
        path = next(
            (folder / archive.name for folder in (root, root / "download") if (folder / archive.name).is_file()), None
        )
        if path is None:
            path = root / archive.name
            failure = _download(archive, path) if download or not archive.direct else "not asked to download it"
            if failure is not None:
                missing.append((archive, failure))
        paths.append(path)
    if missing:
        wanted = "\n".join(
            f"  {root / archive.name}  (md5 {archive.md5}) from {archive.url}: {failure}"
            for archive, failure in missing
        )
        advice = "pass download=True, or " if not download and any(archive.direct for archive, _ in missing) else ""
        raise RecordingError(
            f"{root} lacks {len(missing)} of {len(archives)} files; expected them there: {advice}download them with a "
            f"browser and put them at\n{wanted}"
        )
    return paths


def check_md5(archive: Archive, path: Path) -> None:
    """Check that a file is the published one.

    Raises:
        RecordingError: it is not.

    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(COPY_BYTES):
            digest.update(data)
    if digest.hexdigest() != archive.md5:
        raise RecordingError(
            f"{path} has the md5 {digest.hexdigest()}; expected {archive.md5}: the file is incomplete or another one, "
            "delete "
            f"it and download it again from {archive.url}"
        )


def make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder of a data set, which appears when it is complete; nothing happens if it is there.

    Raises:
        InputError: it cannot be written there.

    """
    try:
        make_folder(folder, fill)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made ({error.strerror or error}); expected a root with room that this user may write "
            "to: link the archives into one, or let somebody who may write there make it"
        ) from error


def unpack(path: Path, folder: Path) -> None:
    """Unpack the regular files of a zip or tar archive below `folder`; links and names that lead out of it are refused.

    Raises:
        RecordingError: the archive is damaged or has such a name.
        OSError: the folder cannot be written.

    """
    try:
        with progress(f"unpacking {path.name}"):
            _unpack(path, folder)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, RecordingError) or getattr(error, "errno", None):  # a full disk is not the archive's fault
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecordingError(
            f"{path} cannot be unpacked ({reason}); expected a whole archive: download it again"
        ) from error


def _unpack(path: Path, folder: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as stream:
                        _write(path, folder, member.filename, stream)
    else:
        with tarfile.open(path) as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    _write(path, folder, entry.name, content)


def unpack_inner(path: Path, inner: str, folder: Path) -> None:
    """Unpack an archive whose files lie in a folder `inner`, as they usually do, into `folder` itself."""
    unpack(path, folder)
    lying = folder / inner
    if lying.is_dir():
        for child in lying.iterdir():
            child.rename(folder / child.name)
        lying.rmdir()


def _write(path: Path, folder: Path, name: str, stream: IO[bytes]) -> None:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
        raise RecordingError(f"{path} has a file named {name!r}; expected names below its own folder: do not use it")
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(stream, file, COPY_BYTES)


def _download(archive: Archive, path: Path) -> str | None:
    """Fetch an archive, going on where an earlier attempt ended; return why it failed, or `None`."""
    from http.client import HTTPException  # as urllib, not with `import rsnn`: they take their time

    if not archive.direct:
        return "its page has to be opened in a browser"
    part = path.with_name(f"{path.name}.part")
    try:
        with locked(path):
            if path.is_file():
                return None
            try:
                _fetch(archive.url, part)
                check_md5(archive, part)
            except RecordingError:
                part.unlink(missing_ok=True)  # nothing can be built on wrong bytes
                raise
            os.replace(part, path)  # noqa: PTH105 - replaces a file that another process put there
    except RecordingError as error:
        return f"what came is not the file ({error})"
    except (OSError, ValueError, HTTPException) as error:
        return f"the download failed ({error})"
    return None


def _fetch(url: str, part: Path) -> None:
    import urllib.error
    import urllib.request

    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            return
        raise
    begun = have if response.status == 206 else 0
    length = response.headers.get("Content-Length")
    total = None if length is None else begun + int(length)
    with response, part.open("ab" if begun else "wb") as file, progress(f"downloading {part.stem}", total) as advance:
        while data := response.read(COPY_BYTES):
            file.write(data)
            advance(file.tell())
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes; the next call goes on there")
