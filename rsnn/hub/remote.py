"""The Hugging Face Hub: download, upload, and what its client's errors mean."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rsnn.errors import CheckpointError, InputError, shortened, shown
from rsnn.hub.files import CARD_FILE, FILES, HERE, RESULTS_FOLDER, run_hint

_HTTP_CLIENTS = ("httpx", "httpcore")  # modules of the clients that huggingface_hub has used, httpx2 included


def download(repo: str, revision: str | None, hub_options: dict[str, Any]) -> Path:
    """Return the folder in the Hub's cache that holds the checkpoint, downloaded where it is not there yet.

    Raises:
        CheckpointError: the Hub does not give the files.
        InputError: everything is to be downloaded anew, but offline.

    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE and hub_options["force_download"]:
        raise InputError(
            "force_download=True cannot download anything while HF_HUB_OFFLINE is set; expected one of the two alone"
        )
    at = f"{repo}@{revision}" if revision else repo
    try:
        # One snapshot, so that config and weights come from one commit even while somebody pushes.
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=FILES,
                library_name="rsnn",
                library_version=version("rsnn"),
                **hub_options,
            )
        )
    except Exception as error:
        if translated := _translated(error, at, "download", folder_hint(repo)):
            raise translated from error
        raise


def push(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model with rsnn",
) -> str:
    """Upload the checkpoint in `folder` to `repo` (`org/name`) on the Hub, made where it is missing; return its URL.

    The files go up as they are, but for what a card says of loading: its `"./this-folder"` becomes the repository.

    Raises:
        InputError: `repo` is no text, or `folder` no path.
        CheckpointError: the folder holds no checkpoint, or the Hub refuses it.

    """
    if not isinstance(repo, str):
        raise InputError(f"repo is {shown(repo)}; expected the name of a repository on the Hub, such as 'me/my-model'")
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"folder is {shown(folder)}; expected the path of a folder that save_pretrained wrote")
    path, at = Path(folder).expanduser(), f"{repo}@{revision}" if revision else repo
    if missing := [name for name in FILES[:2] if not (path / name).is_file()]:
        hint = run_hint(path, os.fspath(folder))
        raise CheckpointError(f"{folder} has no {missing[0]}; expected a folder that save_pretrained wrote{hint}")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="rsnn", library_version=version("rsnn"))
    files = [path / name for name in FILES if (path / name).is_file()] + sorted((path / RESULTS_FOLDER).glob("*.yaml"))
    try:
        repo_url = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(
            repo_url.repo_id,
            [CommitOperationAdd(file.relative_to(path).as_posix(), _content(file, at)) for file in files],
            revision=revision,
            commit_message=commit_message,
        )
    except Exception as error:
        if translated := _translated(error, at, "upload"):
            raise translated from error
        raise
    return str(repo_url)


def _content(file: Path, at: str) -> Path | bytes:
    """Return what to upload of a file: a card's bytes, which say where it is loaded from, or the file itself."""
    if file.name != CARD_FILE:
        return file
    return file.read_bytes().replace(f'"{HERE}"'.encode(), f'"{at}"'.encode())


def _translated(error: Exception, at: str, action: str, hint: str = "") -> CheckpointError | None:
    """Return what the user should read of an error of the Hub's client; None where it is none of its errors."""
    from huggingface_hub import errors as hub_errors

    match error:
        case hub_errors.GatedRepoError():
            return CheckpointError(f"{at}: access is gated; accept its terms on the Hub, then pass token=")
        case hub_errors.HfHubHTTPError(response=response) if isinstance(error, hub_errors.RepositoryNotFoundError) or (
            response.status_code == 401 and action == "download"
        ):
            return CheckpointError(
                f"{at}: the Hub has no such repository, or it is private and no valid token was sent (token=, or "
                f"`hf auth login`).{hint}"
            )
        case hub_errors.RevisionNotFoundError():
            made = "; expected one that is there: huggingface_hub.create_branch makes one" if action == "upload" else ""
            return CheckpointError(f"{at}: the repository has no such branch, tag or commit{made}")
        case hub_errors.LocalEntryNotFoundError():
            reason = "local_files_only=True" if error.__cause__ is None else _reason(error.__cause__)
            return CheckpointError(
                f"{at}: not in the local cache, and the Hub was not reached ({reason}). Load it once while online"
                f"{'.' + hint if hint else ''}"
            )
        case hub_errors.HFValidationError():
            return CheckpointError(f"{at} is not a repository on the Hub: {shortened(str(error)).rstrip('.')}.{hint}")
        case hub_errors.HfHubHTTPError(response=response) if response.status_code in (401, 403):
            return CheckpointError(
                f"{at}: the Hub refuses the {action} ({response.status_code}); expected a token that may do it "
                "(token=, or `hf auth login`)"
            )
    # The HTTP client's own errors (a connection cut in mid-transfer) come through unwrapped, and so do the errors of
    # an answer that is not the Hub's, as from a proxy.
    if isinstance(error, OSError | ValueError | RuntimeError) or type(error).__module__.startswith(_HTTP_CLIENTS):
        kept = "; files that are complete are kept" if action == "download" else ""
        return CheckpointError(f"{at}: the {action} failed ({_reason(error)}). Try again{kept}")
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the client says only what it was doing
        error = error.__cause__
    return shortened(f"{type(error).__name__}: {error}".partition("\n")[0])


def folder_hint(text: str) -> str:
    """Say how to load the folder of that name, or of that file of a checkpoint, where there is one."""
    folder = os.path.dirname(text) if os.path.basename(text) in FILES else text  # noqa: PTH119, PTH120 (any text)
    return f" To load the folder write './{folder}'." if text and os.path.isdir(folder) else ""  # noqa: PTH112
