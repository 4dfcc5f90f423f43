"""Recordings that ship with the package, made by the project itself (`scripts/make_demo_recording.py`)."""

from __future__ import annotations

from pathlib import Path

from rsnn.errors import UnknownNameError, suggest


def names() -> list[str]:
    """Return the file names of the recordings that ship with the package."""
    return sorted(file.name for file in Path(__file__).parent.iterdir() if file.suffix == ".bin")


def path(name: str = "digit_3.bin") -> Path:
    """Return the path of a recording that ships with the package.

    Raises:
        UnknownNameError: there is none of that name.

    """
    if name not in names():
        raise UnknownNameError(
            f"no recording {name!r} ships with rsnn; expected one of {names()}.{suggest(name, names())}"
        )
    return Path(__file__).parent / name
