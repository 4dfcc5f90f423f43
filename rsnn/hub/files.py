"""The files of a checkpoint: their names, and how they are written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from rsnn.errors import CheckpointError, InputError, shown

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FILES = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
RESULTS_FOLDER = ".eval_results"  # of the Hub's benchmarks, where a checkpoint was evaluated on one
FORMAT_VERSION = 1
HERE = "./this-folder"  # in a card, the place of a checkpoint that has none yet that others can load it from


def run_hint(folder: Path, written: str) -> str:
    """Say where the checkpoint is, if the folder that a user wrote is that of a training."""
    there = (folder / "model" / CONFIG_FILE).is_file()
    return f": the model of this run is in {os.path.join(written, 'model')}" if there else ""  # noqa: PTH118 (keeps "./")


_METADATA_ALONE = re.compile(rb"\s*(---\s*\n((?!---).*\n)*---)?\s*")


def _check_free(folder: Path) -> None:
    """Raise CheckpointError where files that no checkpoint of rsnn has would be written over.

    A card that is only metadata may be: the Hub begins a repository with one.
    """
    taken = [name for name in (CARD_FILE, CONFIG_FILE) if (folder / name).is_file()]
    if taken == [CARD_FILE] and _METADATA_ALONE.fullmatch((folder / CARD_FILE).read_bytes()):
        return
    try:
        ours = CONFIG_FILE in taken and "format_version" in json.loads((folder / CONFIG_FILE).read_bytes())
    except (ValueError, TypeError):
        ours = False
    if taken and not ours:
        raise CheckpointError(
            f"{folder} holds a {taken[0]} that is of no checkpoint of rsnn, and would be written over; expected a "
            "folder of its own"
        )


def write(folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Write a checkpoint into `folder`, which is made where it is missing.

    All three files are complete on the disk under temporary names before the first takes its place. The former card
    goes first and the new one comes last, and the config records the hash of its weights: whenever the process dies,
    the folder holds the former checkpoint, or the new one, or one that is refused, and never a card that speaks of
    other weights.

    Raises:
        InputError: `folder` is no path, or an empty one.
        CheckpointError: the folder cannot be written, or holds such files of something else, or the weights are not
            finite.

    """
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise InputError(f"folder is {shown(folder)}; expected the path of a folder to write the checkpoint into")
    target = Path(folder).expanduser()
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    check_finite(copies, f"{target} was not written")
    weights = safetensors_bytes(copies)
    config = {
        "format_version": FORMAT_VERSION,
        **config,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    files = {
        WEIGHTS_FILE: weights,
        CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        CARD_FILE: card.encode(),
    }
    suffix = f".{secrets.token_hex(4)}.tmp"
    temporary = {name: target / f".{name}{suffix}" for name in files}
    try:
        target.mkdir(parents=True, exist_ok=True)
        if blocked := [name for name in files if (target / name).is_dir()]:
            raise CheckpointError(f"{target}: {blocked[0]} is a folder there; expected a place for a file")
        _check_free(target)
        for name, content in files.items():
            with temporary[name].open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        (target / CARD_FILE).unlink(missing_ok=True)
        for name, path in temporary.items():
            path.replace(target / name)
    except OSError as error:
        raise CheckpointError(f"{target}: the checkpoint cannot be written ({error.strerror or error})") from error
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        CheckpointError: some are; the message begins with `source`.

    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source}: the weights {name!r} hold NaN or infinite numbers")
