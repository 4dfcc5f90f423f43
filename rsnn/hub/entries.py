"""What the zoo publishes: an entry for each set of weights, and which of them a name means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


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
class Index:
    """The zoo's names, filled by `register`; the first entry of a name is its default."""

    entries: list[WeightsEntry] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


index = Index()


def register(entries: Iterable[WeightsEntry], names: Iterable[str]) -> None:
    """Make the zoo's weights entries, and the names of all its models, known to `resolve`."""
    index.entries = list(entries)
    index.names = list(names)


def find_entry(name: str) -> WeightsEntry | None:
    """Return the weights entry of a zoo name, with or without a tag, or None where there is none."""
    return next((entry for entry in index.entries if name in (entry.name, entry.full_name)), None)


def entries_of(name: str) -> list[WeightsEntry]:
    """Return all weights entries of a zoo name without a tag, the default first."""
    return [entry for entry in index.entries if entry.name == name]
