"""Real clips of DVS128 Gesture, as the scripts beside it take them: an archive with the gestures' class names."""

from __future__ import annotations

from pathlib import Path

from rsnn.data import EventArchive, Events
from rsnn.data.simulate import SimulatedGestures
from rsnn.errors import RSNNError


def named_clips(path: Path) -> list[tuple[str, Events]]:
    """Return the class name and the events of each clip; ends the script where the archive holds others."""
    names = SimulatedGestures.class_names
    try:
        archive = EventArchive(path, sensor_size=(128, 128))
    except RSNNError as error:
        raise SystemExit(f"error: {error}") from None
    if archive.labels is None or archive.class_names is None:
        raise SystemExit(f"error: {path} does not name the classes of its clips; expected labels and class_names")
    known = [str(archive.class_names[label]) for label in archive.labels]
    if others := sorted(set(known) - set(names)):
        raise SystemExit(f"error: {path} holds {', '.join(others)}; expected clips of {', '.join(names)}")
    return list(zip(known, archive, strict=True))
