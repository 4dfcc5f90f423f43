"""Checkpoints as files: find, download, verify, read, write and publish them. Nothing here knows a model.

A checkpoint is a folder of three files: `config.json` (the model as plain data, labels and preprocessing included),
`model.safetensors` (its weights) and `README.md` (the model card).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from rsnn.errors import CheckpointError, ConfigError, InputError, UnknownNameError, suggest

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FORMAT_VERSION = 1

_LARGEST_CONFIG = 2**20  # bytes; ours are of a few thousand
_WEIGHT_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
_HUB_NAME = re.compile(r"(?:hf-hub:)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


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
        """Return the parsed `config.json`, its envelope checked.

        Raises:
            CheckpointError: the file is missing, too large, no JSON, or of a format this version cannot read.
        """
        raw = self._bytes(CONFIG_FILE, limit=_LARGEST_CONFIG)
        try:
            config = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.source}: {CONFIG_FILE} is not JSON ({error})") from error
        if not isinstance(config, dict):
            raise CheckpointError(f'{self.source}: {CONFIG_FILE} holds no object; expected one with "model"')
        version = config.get("format_version")
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise CheckpointError(
                f"{self.source}: {CONFIG_FILE} has format_version {version!r}; this rsnn reads 1 to {FORMAT_VERSION}. "
                "A newer checkpoint needs a newer rsnn: pip install --upgrade rsnn"
            )
        known = {"format_version", "library_name", "library_version", "weights_sha256", "model"}
        if unknown := sorted(set(config) - known):
            hint = suggest(unknown[0], known)
            raise ConfigError(f"{self.source}: {CONFIG_FILE} has the unknown key {unknown[0][:60]!r}.{hint}")
        if "model" not in config:
            raise ConfigError(
                f'{self.source}: {CONFIG_FILE} has no "model", the description of what to build'
            )
        return config

    def tensors(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights as the tensors of `expected` want them: the same names, shapes and kinds.

        Names and shapes are compared in the file's header, before any of its tensors is read.

        Raises:
            CheckpointError: the file is missing or damaged, its hash is not the published one, or its tensors are not
                those of the model.
        """
        path = self._file(WEIGHTS_FILE)
        self._verify(path)
        try:
            with safe_open(path, framework="pt") as file:
                self._compare(file, expected)
                tensors = {name: file.get_tensor(name) for name in expected}
        except (SafetensorError, OSError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} cannot be read ({error}). Download or save the checkpoint again"
            ) from error
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CheckpointError(f"{self.source}: the weights {name!r} hold NaN or infinite numbers")
        return {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}

    def card(self) -> str:
        """Return the text of the model card, empty where there is none."""
        return (
            self._bytes(CARD_FILE).decode("utf-8", "replace") if (self.folder / CARD_FILE).is_file() else ""
        )

    def _compare(self, file: Any, expected: Mapping[str, Tensor]) -> None:
        found = set(file.keys())
        for kind, names in (("misses", set(expected) - found), ("has the unknown", found - set(expected))):
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
                    f"{self.source}: the weights {name!r} have shape {shape}; the model has {tuple(tensor.shape)}"
                )
            if (
                dtype not in _WEIGHT_TYPES
                or _WEIGHT_TYPES[dtype].is_floating_point != tensor.is_floating_point()
            ):
                raise CheckpointError(
                    f"{self.source}: the weights {name!r} are {dtype}; the model has {tensor.dtype}"
                )

    def _verify(self, path: Path) -> None:
        published = self.sha256
        recorded = self.config().get("weights_sha256")
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
            raise CheckpointError(
                f"{self.source}: {self.folder} has no {name}; expected a folder that save_pretrained wrote"
            )
        inside = self.folder.resolve()
        if (
            inside.parent.name == "snapshots"
        ):  # the Hub's cache keeps its files beside the snapshots that link to them
            inside = inside.parent.parent
        if not path.resolve().is_relative_to(inside):
            raise CheckpointError(
                f"{self.source}: {path} is a link out of the checkpoint's folder; expected a file"
            )
        return path

    def _bytes(self, name: str, limit: int | None = None) -> bytes:
        path = self._file(name)
        if limit is not None and path.stat().st_size > limit:
            raise CheckpointError(
                f"{self.source}: {name} has {path.stat().st_size} bytes; expected at most {limit}"
            )
        try:
            return path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.source}: {path} cannot be read ({error.strerror})") from error


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(repr(name[:80]) for name in shown) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


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

    1. a path written as one (`./x`, `../x`, `/x`, or a `Path`): that folder;
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
    """
    hub_options = {
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    text = os.fspath(source)
    if isinstance(source, os.PathLike) or _is_written_as_path(text):
        folder = Path(text).expanduser()
        if not folder.is_dir():
            raise CheckpointError(f"{text} is not a folder; expected one that save_pretrained wrote")
        return Checkpoint(folder, text)
    entry = find_entry(text)
    if entry is not None:
        return _entry_checkpoint(entry, revision, hub_options)
    if match := _HUB_NAME.fullmatch(text):
        if revision is not None and match["revision"] not in (None, revision):
            raise InputError(
                f"{text!r} names one revision and revision={revision!r} another; expected one of them"
            )
        folder = _download(match["repo"], match["revision"] or revision, hub_options)
        return Checkpoint(folder, text)
    raise _unknown(text)


def _is_written_as_path(text: str) -> bool:
    return (
        text in (".", "..")
        or text.startswith(("./", "../", "/", "~/", ".\\", "..\\"))
        or text[1:3] in (":\\", ":/")
    )


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
        return UnknownNameError(f"{base!r} has no weights tagged {tag!r}; there is {', '.join(tags)}")
    with_weights = sorted(entry.name for entry in _index.entries)
    if base in _index.names:
        return UnknownNameError(
            f"{base!r} has no published weights; create_model({base!r}) builds it untrained. With weights: "
            f"{', '.join(with_weights)}"
        )
    hint = suggest(text, [*with_weights, *_index.names]) or f" With weights: {', '.join(with_weights)}."
    folder = f" To load the folder write './{text}'." if Path(text).is_dir() else ""
    return UnknownNameError(
        f"{text[:120]!r} is not a zoo name, an 'org/name' on the Hub or a path such as './folder'.{hint}{folder}"
    )


def _download(repo: str, revision: str | None, hub_options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub import errors as hub_errors

    at = f"{repo}@{revision}" if revision else repo
    try:
        # One snapshot, so that config and weights come from one commit even while somebody pushes.
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, CARD_FILE], **hub_options
            )
        )
    except hub_errors.GatedRepoError as error:
        raise CheckpointError(
            f"{at}: access is gated; accept its terms on the Hub, then pass token="
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{at}: the Hub has no such repository, or it is private and no valid token was sent (token=, or "
            f"`hf auth login`). To load a folder write './{repo}'"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{at}: the repository has no such branch, tag or commit") from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{at}: not in the local cache, and the Hub was not reached (offline mode, local_files_only, or no "
            "connection). Load it once while online"
        ) from error
    except (hub_errors.HFValidationError, hub_errors.HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{at}: the download failed ({error}). Try again; what has arrived is kept"
        ) from error
    except Exception as error:
        # The HTTP client's own errors (a connection cut in mid-transfer) are not wrapped by huggingface_hub.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests", "urllib3"):
            raise
        raise CheckpointError(
            f"{at}: the download failed ({error!r}). Try again; what has arrived is kept"
        ) from error


def write(
    folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str
) -> None:
    """Write a checkpoint into `folder`, which is made where it is missing.

    All three files are complete on the disk under temporary names before the first takes its place, and the config
    records the hash of the weights it belongs to: a crash leaves the former checkpoint or one that is refused.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    weights = safetensors_bytes(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    config = {
        "format_version": FORMAT_VERSION,
        **config,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    files = {
        CARD_FILE: card.encode(),
        WEIGHTS_FILE: weights,
        CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    target = Path(folder)
    temporary: dict[str, Path] = {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            handle, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=target)
            temporary[name] = Path(path)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary[name].chmod(0o644)
        for name, path in list(temporary.items()):
            path.replace(target / name)
            del temporary[name]
    except OSError as error:
        raise CheckpointError(
            f"{target}: the checkpoint cannot be written ({error.strerror or error})"
        ) from error
    finally:
        for path in temporary.values():
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
    from huggingface_hub import errors as hub_errors

    api = HfApi(token=token)
    try:
        repo_url = api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_url.repo_id,
            folder_path=folder,
            allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, CARD_FILE],
            revision=revision,
            commit_message=commit_message,
        )
    except (hub_errors.HFValidationError, hub_errors.HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{repo}: the Hub refused the upload ({error}). Check the name and that the token may write to it"
        ) from error
    return str(commit.repo_url)
