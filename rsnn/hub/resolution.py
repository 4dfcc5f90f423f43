"""From what a user writes (a zoo name, a path, `org/name`) to a folder with a checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from rsnn.errors import CheckpointError, InputError, UnknownNameError, shortened, shown, suggest
from rsnn.hub import entries, remote
from rsnn.hub.checkpoint import Checkpoint
from rsnn.hub.entries import WeightsEntry
from rsnn.hub.files import FILES

_HUB_NAME = re.compile(r"(?:hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_PATH_START = re.compile(r"[/\\]|\.\.?[/\\]|~[^/\\]*[/\\]|[A-Za-z]:[/\\]")


def resolve(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Checkpoint:
    """Find the checkpoint that `source` names, downloading it where it is on the Hub.

    1. a path written as one (`./x`, `../x`, `/x`, `~/x`, or a `Path`): that folder;
    2. a zoo name, with or without a tag: the bundled checkpoint, else the pinned commit on the Hub;
    3. `org/name[@revision]`, or the same after `hf-hub:`: the Hub;
    4. anything else is an error. A folder that merely has the name of a zoo model is never taken for it.

    Args:
        source: what to find.
        revision: branch, tag or commit on the Hub; `main` where it is None.
        cache_dir, token, local_files_only, force_download: as in `huggingface_hub.snapshot_download`.

    Raises:
        UnknownNameError: no rule fits; the message lists the nearest zoo names.
        CheckpointError: the folder is not there, or the Hub does not give the files.
        InputError: the arguments contradict each other.

    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"got a {type(source).__name__}; expected a zoo name, a path, or 'org/name' on the Hub")
    if force_download and local_files_only:
        raise InputError("force_download=True and local_files_only=True contradict each other; expected one of them")
    hub_options = {
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    text = os.fspath(source)
    if not isinstance(source, str) or is_written_as_path(text):
        if revision is not None:
            raise InputError(f"{shown(text)} is a folder; revision={revision!r} goes with 'org/name' only")
        return Checkpoint(_folder(text), text)
    entry = entries.find_entry(text)
    if entry is not None:
        return _entry_checkpoint(entry, revision, hub_options)
    if match := _HUB_NAME.fullmatch(text):
        if revision is not None and match["revision"] not in (None, revision):
            raise InputError(f"{text!r} names one revision and revision={revision!r} another; expected one of them")
        folder = remote.download(match["repo"], match["revision"] or revision, hub_options)
        return Checkpoint(folder, text)
    raise _unknown(text)


def is_written_as_path(text: str) -> bool:
    """Tell whether a text names a folder, as against a model of the zoo or a repository on the Hub."""
    return text in (".", "..", "~") or bool(_PATH_START.match(text))


def _folder(text: str) -> Path:
    folder = Path(text)
    try:
        folder = folder.expanduser()
        if folder.is_dir():
            return folder
        found, wanted = "does not exist", "a folder"
        if folder.is_file():
            found = "is a file"
            wanted = f"its folder, {os.path.dirname(text) or '.'}," if folder.name in FILES else wanted  # noqa: PTH120
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{shown(text)} cannot be opened ({shortened(str(error), 60)})") from error
    raise CheckpointError(f"{shown(text)} {found}; expected {wanted} that save_pretrained wrote")


def _entry_checkpoint(entry: WeightsEntry, revision: str | None, hub_options: dict[str, Any]) -> Checkpoint:
    if revision is not None:
        raise InputError(
            f"{entry.name!r} is a zoo name, whose weights are pinned; revision={revision!r} goes with 'org/name' only"
        )
    folder = entry.folder
    if folder is None:
        assert entry.repo is not None
        folder = remote.download(entry.repo, entry.commit, hub_options)
    return Checkpoint(folder, entry.full_name, entry.sha256)


def _unknown(text: str) -> UnknownNameError:
    base, _, tag = text.partition(".")
    tags = [entry.full_name for entry in entries.index.entries if entry.name == base]
    if tag and tags:
        return UnknownNameError(
            f"{base!r} has no weights tagged {shown(tag)}; there is {', '.join(tags)}.{remote.folder_hint(text)}"
        )
    with_weights = sorted({entry.name for entry in entries.index.entries})
    listed = f" With weights: {', '.join(with_weights)}." if with_weights else ""
    if base in entries.index.names:
        return UnknownNameError(
            f"{base!r} has no published weights; create_model({base!r}) builds it untrained."
            f"{listed}{remote.folder_hint(text)}"
        )
    hint = suggest(text[:60], [*with_weights, *entries.index.names]) or listed
    return UnknownNameError(
        f"{shown(text)} is not a zoo name, an 'org/name' on the Hub or a path such as './folder'."
        f"{hint}{remote.folder_hint(text)}"
    )
