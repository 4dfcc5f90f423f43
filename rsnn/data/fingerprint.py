"""What a cache depends on, as short texts: the content of the source files, and the code that reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsnn.data.files import replacing
from rsnn.data.progress import progress
from rsnn.errors import InputError, RecordingError

DIGEST_BYTES = 20
# What turns a file, or the settings of a simulation, into frames.
CODE = (
    "events.py",
    "frames.py",
    "archive.py",
    "readers/*.py",
    "datasets/*.py",
    "transforms/*.py",
    "simulate/**/*.py",
    "simulate/**/*.cu",
)
SETTLED_NS = 2_000_000_000  # a file changed this recently may change again within one tick of its clock


def file_digests(files: Sequence[Path], memory: Path) -> list[str]:
    """Return the digest of each file's content.

    Files are read once: what is known of a path, size and times of change is remembered in the file `memory`.

    Raises:
        RecordingError: a file cannot be read.

    """
    known = _remembered(memory)
    found: dict[str, list[str]] = {}
    unknown = []
    for path in dict.fromkeys(files):
        name, state = str(path.resolve()), file_state(path)
        if (entry := known.get(name)) and entry[:-1] == state:
            found[name] = entry
        else:
            unknown.append((path, name, state))
    if unknown:
        from concurrent.futures import ThreadPoolExecutor

        now = time.time_ns()
        with progress("reading files", len(unknown)) as advance, ThreadPoolExecutor() as pool:
            digests = pool.map(_digest, [path for path, _, _ in unknown])
            for number, ((_, name, state), digest) in enumerate(zip(unknown, digests, strict=True)):
                found[name] = [*state, digest]
                advance(number + 1)
        settled = {name: entry for name, entry in found.items() if now - max(map(int, entry[1:3])) > SETTLED_NS}
        with contextlib.suppress(InputError), replacing(memory) as partial:  # a cache that may only be read will do
            partial.write_text(json.dumps(_remembered(memory) | settled))
    return [found[str(path.resolve())][-1] for path in files]


@functools.cache
def code_digest() -> str:
    """Return a digest of the modules that turn a file into frames, so that a change of theirs makes caches anew."""
    folder = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for pattern in CODE:
        for path in sorted(folder.glob(pattern)):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def file_state(path: Path) -> list[str]:
    """Return what changes when a file does: its size, its times of change (the second one no program sets), its number.

    Raises:
        RecordingError: there is no such file.

    """
    try:
        status = path.stat()
    except OSError as error:
        raise RecordingError(f"{path} cannot be read ({error}); expected a file of the data set") from error
    return [str(x) for x in (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)]


def told(value: Any, _within: frozenset[int] = frozenset()) -> str:
    """Return a text for a value, as `repr` with the content of arrays and functions: another one for another value.

    Of a function it has the code, its defaults, what it took from around it, and the plain values among its globals. Of
    what does not say what it is the text has an address, `" at 0x"`.
    """
    if id(value) in _within:
        return "itself"
    within = _within | {id(value)}
    if isinstance(value, Tensor):
        try:
            plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            content = plain.flatten().view(torch.uint8).numpy().tobytes()
            return f"tensor {value.dtype} {tuple(value.shape)} {_hashed(content)}"
        except (RuntimeError, NotImplementedError, TypeError):
            return _said(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.dtype} {value.shape} {_hashed(np.ascontiguousarray(value).tobytes())}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = (f"{field.name}={told(getattr(value, field.name), within)}" for field in dataclasses.fields(value))
        return f"{type(value).__module__}.{type(value).__qualname__}({', '.join(parts)})"
    if isinstance(value, tuple | list):
        return f"({', '.join(told(item, within) for item in value)},)"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(told(item, within) for item in value))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{told(key, within)}: {told(item, within)}' for key, item in value.items())}}}"
    if isinstance(value, functools.partial):
        return f"partial {told((value.func, value.args, value.keywords), within)}"
    if isinstance(value, types.FunctionType):
        around = [_of_cell(cell) for cell in value.__closure__ or ()]
        known = told((value.__defaults__, value.__kwdefaults__, around, _plain_globals(value)), within)
        return f"{value.__module__}.{value.__qualname__} {_hashed(_code(value.__code__, within).encode())} {known}"
    own = getattr(value, "fingerprint", None)
    return own if isinstance(own, str) else _said(value)


def _said(value: Any) -> str:
    """Return the `repr` of a value, with an address where it leaves something out."""
    said = repr(value)
    return said if isinstance(value, str | bytes) or "..." not in said else f"<{type(value).__name__}, in part, at 0x0>"


def _of_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return "empty"


def _plain_globals(function: types.FunctionType) -> dict[str, Any]:
    known = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
    return {name: value for name, value in known.items() if isinstance(value, bool | int | float | str | bytes)}


def _code(code: types.CodeType, within: frozenset[int]) -> str:
    constants = [_code(x, within) if isinstance(x, types.CodeType) else told(x, within) for x in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _hashed(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise RecordingError(f"{path} cannot be read ({error}); expected a file of the data set") from error


def _remembered(memory: Path) -> dict[str, list[str]]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):  # forgetting costs time only
        return {}
    whole = isinstance(known, dict) and all(isinstance(entry, list) and len(entry) == 5 for entry in known.values())
    return known if whole else {}


def cache_root() -> Path:
    """Return the folder for caches: `$RSNN_CACHE`, else `rsnn` in the user's folder for caches."""
    if chosen := os.environ.get("RSNN_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsnn"
