"""Pictures of recordings: what the network sees, and what a person can check with a look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.errors import InputError

COLUMNS = 10


def polarity_colours(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Colour frames of counts (T, 2, H, W): brighter red, darker blue, nothing white; returns (T, H, W, 3) in 0..1.

    Counts are shown up to the 99th percentile of those above zero, so that one hot pixel does not dim the
    rest.
    """
    counts = np.asarray(frames, dtype=np.float64)
    if counts.ndim != 4 or counts.shape[1] != 2:
        raise InputError(f"got frames of shape {counts.shape}; expected (T, 2, H, W)")
    above = counts[counts > 0]
    darker, brighter = np.clip(counts / (np.percentile(above, 99) if above.size else 1.0), 0, 1).swapaxes(0, 1)
    return np.stack((1 - darker, 1 - np.maximum(darker, brighter), 1 - brighter), axis=-1)


def save_frames(frames: npt.NDArray[Any], path: str | os.PathLike[str], *, title: str = "") -> Path:
    """Write a picture of frames of counts (T, 2, H, W), ten in a row, and return its path.

    Raises:
        InputError: `frames` has another shape, or the picture cannot be written there.

    """
    from matplotlib.figure import Figure

    colours = polarity_colours(frames)
    rows = -(-len(colours) // COLUMNS)
    columns = min(len(colours), COLUMNS)
    figure = Figure(figsize=(1.3 * columns, 1.4 * rows + (0.4 if title else 0.0)), layout="constrained")
    figure.suptitle(title)
    for step, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if step < len(colours):
            axes.imshow(colours[step], interpolation="nearest")
            axes.set_title(str(step + 1), fontsize=8)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"the picture {target} cannot be written: {error}") from error
    return target
