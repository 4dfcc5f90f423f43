"""Published weights, read from the plain data in `weights.json`; the first entry of a name is its default."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rsnn.hub import WeightsEntry

_HERE = Path(__file__).parent
CHECKPOINTS = _HERE / "checkpoints"


def _read(table: Path) -> tuple[WeightsEntry, ...]:
    """Return the entries; what has no repository on the Hub is bundled, in a folder of its full name."""
    entries = (WeightsEntry(**row) for row in json.loads(table.read_text("utf-8")))
    return tuple(
        entry if entry.repo is not None else replace(entry, folder=CHECKPOINTS / entry.full_name) for entry in entries
    )


WEIGHTS = _read(_HERE / "weights.json")
