"""Where a training is, in one file that is either the old one or the new one, whenever the process dies.

Everything random is a function of the place (seed, phase, epoch, update, recording), so a place and the tensors are all
there is to keep: no generator's state, and the file is safetensors with a JSON header, never a pickle.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from rsnn.errors import CheckpointError, TrainingError


@dataclass
class Place:
    """How far a phase is.

    Attributes:
        phase: its name.
        epoch: epochs completed.
        update: updates done in the epoch after those.
        history: what was measured after each epoch.
        selected_epoch: the epoch that validated best, 0 before the first.
        sums: of the running epoch: loss, recordings, right ones, seconds, seconds waited for recordings.

    """

    phase: str
    epoch: int = 0
    update: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    selected_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)


def save_state(path: Path, place: Place, groups: dict[str, dict[str, Tensor]]) -> None:
    """Replace the file at `path` by the place and the groups of tensors.

    Raises:
        TrainingError: it cannot be written; what was there before stays.

    """
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    try:
        write_bytes(path, tensors_to_bytes(tensors, {"place": json.dumps(asdict(place))}))
    except OSError as error:
        before = f"the last good checkpoint in {path.parent} is intact" if path.exists() else "nothing was saved before"
        raise cannot_write(path, error, before) from error


def load_state(path: Path) -> tuple[Place, dict[str, dict[str, Tensor]]]:
    """Return what `save_state` wrote.

    Raises:
        TrainingError: the file is damaged.

    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            place = Place(**json.loads(file.metadata()["place"]))
            for full_name in file.keys():  # noqa: SIM118  (not a mapping)
                group, _, name = full_name.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(full_name)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is damaged ({error}); delete it to train this phase again from its begin, or choose "
            "another --output"
        ) from error
    return place, groups


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors: `<number of the parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` returned; its rates stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        number, _, name = full_name.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is complete on the disk under another name before it takes its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write plain data as a JSON file, whole or not at all.

    Raises:
        TrainingError: it cannot be written.

    """
    try:
        write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise cannot_write(path, error, "what was written before is intact") from error


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of a process that was killed, which are called as `write_bytes` calls them."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name):
            with suppress(OSError):
                path.unlink()


@contextmanager
def saving(path: Path, intact: str) -> Iterator[None]:
    """Let the error of what cannot be written in the block say what is intact, and what to do.

    Raises:
        TrainingError: it cannot be written.

    """
    try:
        yield
    except (OSError, CheckpointError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise cannot_write(path, cause, intact) from error


def cannot_write(path: Path, error: OSError, intact: str) -> TrainingError:
    """Return the error that says that a file could not be written, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space" if full else "make the folder writable"
    return TrainingError(
        f"{path} cannot be written ({error.strerror or error}); {intact}: {remedy} and give the same command again"
    )
