"""Checkpoints as files: find, download, verify, read, write and publish them. Nothing here knows a model.

A checkpoint is a folder of three files: `config.json` (the model as plain data, labels and preprocessing included),
`model.safetensors` (its weights) and `README.md` (the model card).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from rsnn.errors import CheckpointError, ConfigError, InputError, RSNNError, UnknownNameError, suggest

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
RESULTS_FOLDER = ".eval_results"  # of the Hub's benchmarks, where a checkpoint was evaluated on one
FORMAT_VERSION = 1

_FILES = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]

# In bytes; ours are of a few thousand.
_LARGEST_CONFIG = 2**20
_LARGEST_CARD = 2**20
_LARGEST_HEADER = 2**22
_WEIGHT_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_NAME = re.compile(r"(?:hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_PATH_START = re.compile(r"[/\\]|\.\.?[/\\]|~[^/\\]*[/\\]|[A-Za-z]:[/\\]")
_HTTP_CLIENTS = ("httpx", "httpcore")  # modules of the clients that huggingface_hub has used, httpx2 included


@dataclass(frozen=True)
class WeightsEntry:
    """Published weights: where they are, how to know them, and what they are worth.

    Attributes:
        name: the zoo's name of the model.
        tag: which of its weights; `"rsnn-gesture-cl.sim"` asks for the tag `"sim"`.
        sha256: of `model.safetensors`.
        size_bytes: of `model.safetensors`.
        parameters: number of trained parameters.
        classes: number of classes.
        data, split: what it was trained and evaluated on.
        metrics: what was measured, by name.
        licence: of the weights, as an SPDX identifier.
        folder: the bundled checkpoint, where the package has it.
        repo, commit: the repository on the Hub and its pinned commit, where it has not.

    """

    name: str
    tag: str
    sha256: str
    size_bytes: int
    parameters: int
    classes: int
    data: str
    split: str
    metrics: Mapping[str, float]
    licence: str
    folder: Path | None = None
    repo: str | None = None
    commit: str | None = None

    @property
    def full_name(self) -> str:
        """The name with its tag, as in `"rsnn-gesture-cl.sim"`."""
        return f"{self.name}.{self.tag}"

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain data."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **values,
            "metrics": dict(self.metrics),
            "folder": None if self.folder is None else str(self.folder),
        }


@dataclass
class _Index:
    """The zoo's names, filled by `register`; the first entry of a name is its default."""

    entries: list[WeightsEntry] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


_index = _Index()


def register(entries: Iterable[WeightsEntry], names: Iterable[str]) -> None:
    """Make the zoo's weights entries, and the names of all its models, known to `resolve`."""
    _index.entries = list(entries)
    _index.names = list(names)


def find_entry(name: str) -> WeightsEntry | None:
    """Return the weights entry of a zoo name, with or without a tag, or None where there is none."""
    return next((entry for entry in _index.entries if name in (entry.name, entry.full_name)), None)


def entries_of(name: str) -> list[WeightsEntry]:
    """Return all weights entries of a zoo name without a tag, the default first."""
    return [entry for entry in _index.entries if entry.name == name]


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds a checkpoint, found but not yet believed.

    Attributes:
        folder: the folder.
        source: what the user asked for, for messages.
        sha256: what the weights must hash to, where that is known beforehand.

    """

    folder: Path
    source: str
    sha256: str | None = None

    def config(self) -> dict[str, Any]:
        """Return the parsed `config.json`, its envelope checked; what `"model"` holds is not.

        Raises:
            CheckpointError: the file is missing, too large, no JSON, or of a format this version cannot read.
            ConfigError: a key is unknown, missing, there twice, or of a wrong type.

        """
        return self._config

    @cached_property
    def _config(self) -> dict[str, Any]:
        config = self._json(self._bytes(CONFIG_FILE, _LARGEST_CONFIG))
        if not isinstance(config, dict) or "format_version" not in config:
            raise CheckpointError(
                f"{self.source}: {CONFIG_FILE} is not one of rsnn, it has no format_version; expected a checkpoint "
                "that save_pretrained wrote"
            )
        version = config["format_version"]
        if type(version) is not int or version < 1:
            raise CheckpointError(
                f"{self.source}: {CONFIG_FILE} has the format_version {_shown(version)}; expected a whole number from "
                f"1 to {FORMAT_VERSION}"
            )
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{self.source}: {CONFIG_FILE} has format_version {_shown(version)}, and this rsnn reads 1 to "
                f"{FORMAT_VERSION}: it was saved by a newer one. Upgrade with: pip install --upgrade rsnn"
            )
        known = ("format_version", "library_name", "library_version", "weights_sha256", "model")
        if unknown := sorted(set(config) - set(known)):
            raise ConfigError(
                f"{self.source}: {CONFIG_FILE} has the unknown key {_shown(unknown[0])}; expected some of "
                f"{', '.join(known)}.{suggest(unknown[0][:60], known)}"
            )
        for name in ("library_name", "library_version"):
            if not isinstance(config.get(name, ""), str):
                raise ConfigError(f"{self.source}: {CONFIG_FILE}: {name} is {_shown(config[name])}; expected a text")
        digest = config.get("weights_sha256")
        if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise ConfigError(
                f"{self.source}: {CONFIG_FILE}: weights_sha256 is {_shown(digest)}; expected 64 hexadecimal digits"
            )
        if "model" not in config:
            raise ConfigError(f'{self.source}: {CONFIG_FILE} has no "model", the description of what to build')
        return config

    def tensors(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights as the tensors of `expected` want them: the same names, shapes and kinds.

        Names and shapes are compared in the file's header, before any of its tensors is read, so memory goes only to
        what the file really holds. Floating-point weights may be stored in any precision.

        Raises:
            CheckpointError: the file is missing or damaged, its hash is not the published one, or its tensors are not
                those of the model.

        """
        path = self._file(WEIGHTS_FILE)
        try:
            self._verify(path)
            self._check_header(path)
            with safe_open(path, framework="pt") as file:
                self._compare(file, expected)
                # Copies: what safe_open gives is the mapped file, which somebody may write to while the model lives.
                tensors = {name: file.get_tensor(name).to(like.dtype, copy=True) for name, like in expected.items()}
        except RSNNError:
            raise
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} cannot be read ({_shortened(str(error))}). Download or save the "
                "checkpoint again"
            ) from error
        _check_finite(tensors, self.source)
        return tensors

    def card(self) -> str:
        """Return the text of the model card without control characters, empty where there is none."""
        if not (self.folder / CARD_FILE).is_file():
            return ""
        text = self._bytes(CARD_FILE, _LARGEST_CARD).decode("utf-8", "replace")
        return "".join(c for c in text if c.isprintable() or c in "\n\t")

    def _json(self, raw: bytes) -> object:
        try:
            return json.loads(raw, object_pairs_hook=_without_repeats, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{self.source}: {CONFIG_FILE} is not valid JSON ({_shortened(str(error))}); download or save the "
                "checkpoint again"
            ) from error

    def _compare(self, file: Any, expected: Mapping[str, Tensor]) -> None:
        found = set(file.keys())
        for kind, names in (("misses the", set(expected) - found), ("has the unknown", found - set(expected))):
            if names:
                raise CheckpointError(
                    f"{self.source}: {WEIGHTS_FILE} {kind} weights {_listed(names)}; expected exactly those of the "
                    f"model in {CONFIG_FILE}"
                )
        for name, tensor in expected.items():
            header = file.get_slice(name)
            shape, dtype = tuple(header.get_shape()), header.get_dtype()
            if shape != tuple(tensor.shape):
                raise CheckpointError(
                    f"{self.source}: the weights {name!r} have shape {shape}; the model in {CONFIG_FILE} has "
                    f"{tuple(tensor.shape)}"
                )
            stored = _WEIGHT_TYPES.get(dtype)
            if stored is None or stored.is_floating_point != tensor.is_floating_point():
                raise CheckpointError(f"{self.source}: the weights {name!r} are {dtype}; the model has {tensor.dtype}")

    def _check_header(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _LARGEST_HEADER:
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} says its header has {length} bytes; expected at most "
                f"{_LARGEST_HEADER}. It is damaged, or not a safetensors file"
            )

    def _verify(self, path: Path) -> None:
        published, recorded = self.sha256, self.config().get("weights_sha256")
        if published is None and recorded is None:
            return
        found = sha256_of(path)
        if published is not None and found != published:
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} has SHA-256 {found}; published is {published}. The file was not used: "
                "it is damaged or not the one that was published; download it again (force_download=True)"
            )
        if recorded is not None and found != recorded:
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} has SHA-256 {found}; {CONFIG_FILE} belongs to weights of {recorded}. "
                "Save or download the two together; if you changed the weights on purpose, delete weights_sha256"
            )

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            expected = (
                "a repository that push_to_hub wrote. If a download broke off, load it again while online"
                if self._is_snapshot()
                else "a folder that save_pretrained wrote"
            )
            raise CheckpointError(f"{self.source}: {self.folder} has no {name}; expected {expected}")
        resolved = path.resolve()
        if not any(resolved.is_relative_to(root) for root in self._roots()):
            raise CheckpointError(f"{self.source}: {path} is a link out of the checkpoint's folder; expected a file")
        return path

    def _roots(self) -> list[Path]:
        """Return the folders that links in this one may lead into."""
        folder = self.folder.resolve()
        if self._is_snapshot():
            # The Hub's cache: snapshots link to the repository's blobs, and these to the cache's shared ones.
            return [folder, folder.parents[1] / "blobs", folder.parents[2] / "blobs"]
        return [folder]

    def _is_snapshot(self) -> bool:
        """Tell whether the folder lies where the Hub's cache keeps what it downloaded."""
        folder = self.folder.resolve()
        return folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--")

    def _bytes(self, name: str, limit: int) -> bytes:
        try:
            path = self._file(name)
            size = path.stat().st_size
            if size > limit:
                raise CheckpointError(f"{self.source}: {name} has {size} bytes; expected at most {limit}")
            return path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.source}: {name} cannot be read ({error.strerror or error})") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_shown(repeated)} is there twice")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{source}: the weights {name!r} hold NaN or infinite numbers")


def _shown(value: object) -> str:
    return _shortened(repr(value), 60)


def _shortened(text: str, length: int = 300) -> str:
    """Return `text` as a message shows it: short, and without what a terminal would obey."""
    text = text if len(text) <= length else text[: length - 3] + "..."
    return "".join(c if c.isprintable() else " " for c in text)


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(_shown(name) for name in shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if not isinstance(source, str) or _is_written_as_path(text):
        if revision is not None:
            raise InputError(f"{_shown(text)} is a folder; revision={revision!r} goes with 'org/name' only")
        return Checkpoint(_folder(text), text)
    entry = find_entry(text)
    if entry is not None:
        return _entry_checkpoint(entry, revision, hub_options)
    if match := _HUB_NAME.fullmatch(text):
        if revision is not None and match["revision"] not in (None, revision):
            raise InputError(f"{text!r} names one revision and revision={revision!r} another; expected one of them")
        folder = _download(match["repo"], match["revision"] or revision, hub_options)
        return Checkpoint(folder, text)
    raise _unknown(text)


def _is_written_as_path(text: str) -> bool:
    return text in (".", "..", "~") or bool(_PATH_START.match(text))


def _folder(text: str) -> Path:
    folder = Path(text)
    try:
        folder = folder.expanduser()
        if folder.is_dir():
            return folder
        found = "is a file" if folder.is_file() else "does not exist"
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{_shown(text)} cannot be opened ({_shortened(str(error), 60)})") from error
    raise CheckpointError(f"{_shown(text)} {found}; expected a folder that save_pretrained wrote")


def _entry_checkpoint(entry: WeightsEntry, revision: str | None, hub_options: dict[str, Any]) -> Checkpoint:
    if revision is not None:
        raise InputError(
            f"{entry.name!r} is a zoo name, whose weights are pinned; revision={revision!r} goes with 'org/name' only"
        )
    folder = entry.folder
    if folder is None:
        assert entry.repo is not None
        folder = _download(entry.repo, entry.commit, hub_options)
    return Checkpoint(folder, entry.full_name, entry.sha256)


def _unknown(text: str) -> UnknownNameError:
    base, _, tag = text.partition(".")
    tags = [entry.full_name for entry in _index.entries if entry.name == base]
    if tag and tags:
        return UnknownNameError(
            f"{base!r} has no weights tagged {_shown(tag)}; there is {', '.join(tags)}.{_folder_hint(text)}"
        )
    with_weights = sorted({entry.name for entry in _index.entries})
    listed = f" With weights: {', '.join(with_weights)}." if with_weights else ""
    if base in _index.names:
        return UnknownNameError(
            f"{base!r} has no published weights; create_model({base!r}) builds it untrained."
            f"{listed}{_folder_hint(text)}"
        )
    hint = suggest(text[:60], [*with_weights, *_index.names]) or listed
    return UnknownNameError(
        f"{_shown(text)} is not a zoo name, an 'org/name' on the Hub or a path such as './folder'."
        f"{hint}{_folder_hint(text)}"
    )


def _folder_hint(text: str) -> str:
    return f" To load the folder write './{text}'." if text and os.path.isdir(text) else ""  # noqa: PTH112 (any text)


def _download(repo: str, revision: str | None, hub_options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    at = f"{repo}@{revision}" if revision else repo
    try:
        # One snapshot, so that config and weights come from one commit even while somebody pushes.
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=_FILES,
                library_name="rsnn",
                library_version=version("rsnn"),
                **hub_options,
            )
        )
    except Exception as error:
        if translated := _translated(error, at, "download", _folder_hint(repo)):
            raise translated from error
        raise


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
            return CheckpointError(f"{at}: the repository has no such branch, tag or commit")
        case hub_errors.LocalEntryNotFoundError():
            reason = "local_files_only=True" if error.__cause__ is None else _reason(error.__cause__)
            return CheckpointError(
                f"{at}: not in the local cache, and the Hub was not reached ({reason}). Load it once while online"
                f"{'.' + hint if hint else ''}"
            )
        case hub_errors.HFValidationError():
            return CheckpointError(f"{at} is not a repository on the Hub: {_shortened(str(error))}.{hint}")
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
    return _shortened(f"{type(error).__name__}: {error}".partition("\n")[0])


def write(folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Write a checkpoint into `folder`, which is made where it is missing.

    All three files are complete on the disk under temporary names before the first takes its place. The former card
    goes first and the new one comes last, and the config records the hash of its weights: whenever the process dies,
    the folder holds the former checkpoint, or the new one, or one that is refused, and never a card that speaks of
    other weights.

    Raises:
        CheckpointError: the folder cannot be written, or the weights are not finite.

    """
    target = Path(folder).expanduser()
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    _check_finite(copies, f"{target} was not written")
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

    Raises:
        CheckpointError: the Hub refuses it.

    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="rsnn", library_version=version("rsnn"))
    try:
        repo_url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_url.repo_id,
            folder_path=os.fspath(folder),
            allow_patterns=[*_FILES, f"{RESULTS_FOLDER}/*.yaml"],
            revision=revision,
            commit_message=commit_message,
        )
    except Exception as error:
        if translated := _translated(error, f"{repo}@{revision}" if revision else repo, "upload"):
            raise translated from error
        raise
    return str(repo_url)
