"""A checkpoint that was found, read and verified without being believed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rsnn.errors import CheckpointError, ConfigError, RSNNError, shortened, shown, suggest
from rsnn.hub.files import CARD_FILE, CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE, check_finite, run_hint, sha256_of

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
                f"{self.source}: {CONFIG_FILE} has the format_version {shown(version)}; expected a whole number from "
                f"1 to {FORMAT_VERSION}"
            )
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{self.source}: {CONFIG_FILE} has format_version {shown(version)}, and this rsnn reads 1 to "
                f"{FORMAT_VERSION}: it was saved by a newer one. Upgrade with: pip install --upgrade rsnn"
            )
        known = ("format_version", "library_name", "library_version", "weights_sha256", "model", "recipe")
        if unknown := sorted(set(config) - set(known)):
            raise ConfigError(
                f"{self.source}: {CONFIG_FILE} has the unknown key {shown(unknown[0])}; expected some of "
                f"{', '.join(known)}.{suggest(unknown[0][:60], known)}"
            )
        for name in ("library_name", "library_version"):
            if not isinstance(config.get(name, ""), str):
                raise ConfigError(f"{self.source}: {CONFIG_FILE}: {name} is {shown(config[name])}; expected a text")
        digest = config.get("weights_sha256")
        if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise ConfigError(
                f"{self.source}: {CONFIG_FILE}: weights_sha256 is {shown(digest)}; expected 64 hexadecimal digits"
            )
        if not isinstance(config.get("recipe", {}), dict):
            raise ConfigError(f"{self.source}: {CONFIG_FILE}: recipe is {shown(config['recipe'])}; expected an object")
        if "model" not in config:
            raise ConfigError(f'{self.source}: {CONFIG_FILE} has no "model", the description of what to build')
        return config

    def recipe(self) -> dict[str, Any] | None:
        """Return the recipe that the weights were trained by, unchecked, or None where none is kept.

        Raises:
            CheckpointError, ConfigError: as `config`.

        """
        return self.config().get("recipe")

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
        except PermissionError as error:
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} cannot be read ({error.strerror or error}); expected a file that this "
                "user may open"
            ) from error
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} cannot be read ({shortened(str(error))}). Download or save the "
                "checkpoint again"
            ) from error
        check_finite(tensors, self.source)
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
                f"{self.source}: {CONFIG_FILE} is not valid JSON ({shortened(str(error))}); download or save the "
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
            remedy = (
                "Download them again (force_download=True)"
                if self._is_snapshot()
                else "Save or download the two together; if you changed the weights on purpose, delete weights_sha256"
            )
            raise CheckpointError(
                f"{self.source}: {WEIGHTS_FILE} has SHA-256 {found}; {CONFIG_FILE} belongs to weights of {recorded}. "
                f"{remedy}"
            )

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            expected = (
                "a repository that push_to_hub wrote. If a download broke off, load it again while online"
                if self._is_snapshot()
                else f"a folder that save_pretrained wrote{run_hint(self.folder, self.source)}"
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
        raise ValueError(f"the key {shown(repeated)} is there twice")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _listed(names: set[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(shown(name) for name in sorted(names)[:3]) + more
