"""Pictures of recordings: what the network sees, and what a person can check with a look."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.checks import is_number
from rsnn.data.files import as_path, replacing
from rsnn.errors import InputError, MissingDependencyError

COLUMNS = 10
ANIMATIONS = (".gif", ".mp4")
PICTURES = (*ANIMATIONS, ".png")

# Of an animation: pixels a side of its picture of the events, milliseconds a frame and of the last one.
_PICTURE = 384
_FRAME_MS = 150
_LAST_MS = 1500
_MOST_GIF_FPS = 50  # programs show frames of less than 20 ms much longer


def polarity_colours(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Colour frames of counts (T, 2, H, W): brighter red, darker blue, nothing white; returns (T, H, W, 3) in 0..1.

    Counts are shown up to the 99th percentile of those above zero, so that one hot pixel does not dim the
    rest.
    """
    counts = np.asarray(frames, dtype=np.float64)
    if counts.ndim != 4 or counts.shape[1] != 2 or not counts.size:
        raise InputError(f"got frames of shape {counts.shape}; expected (T, 2, H, W), at least one frame and pixel")
    if not np.isfinite(counts).all():
        raise InputError("got frames with NaN or infinite numbers; expected counts of events")
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
    figure.suptitle(title, parse_math=False)
    for step, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if step < len(colours):
            axes.imshow(colours[step], interpolation="nearest")
            axes.set_title(str(step + 1), fontsize=8)
    target = as_path(path)
    with _written(target, "picture") as made:
        save_figure(figure, made, format=target.suffix[1:] or "png")
    return target


def save_figure(figure: Any, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a figure of matplotlib's; what its fonts have no sign for becomes a box, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(path, dpi=120, **options)


def save_animation(
    frames: npt.NDArray[Any],
    path: str | os.PathLike[str],
    *,
    probabilities: npt.NDArray[Any] | None = None,
    labels: Sequence[str] = (),
    title: str = "",
    frame_ms: float = _FRAME_MS,
) -> Path:
    """Write frames of counts (T, 2, H, W) as an animated GIF and return its path.

    Args:
        frames: brighter red, darker blue, as in [`polarity_colours`][rsnn.plots.polarity_colours].
        path: where to write it.
        probabilities: of every class after each step (T, K), drawn as bars beside the events.
        labels: names of the K classes.
        title: above the picture.
        frame_ms: how long each frame is shown, in milliseconds, at least 20; the format knows hundredths of a second
            only, so some are shown a hundredth longer than others, and none drifts.

    Raises:
        InputError: shapes do not go together, the suffix of `path` is not .gif, or the file cannot be written there.

    """
    from PIL import Image, ImageDraw

    target = as_path(path)
    if target.suffix.lower() != ".gif":
        raise InputError(f"{target} has the suffix {target.suffix!r}; expected .gif, an animated picture")
    colours = (255 * polarity_colours(frames)).astype(np.uint8)
    shares = None if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    _check_above_zero(frame_ms=frame_ms)
    if shares is not None and not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(f"got probabilities from {shares.min():g} to {shares.max():g}; expected them from 0 to 1")
    if shares is not None and shares.shape != (len(colours), len(labels)):
        raise InputError(
            f"got probabilities of shape {shares.shape} for {len(colours)} frames and {len(labels)} labels; "
            "expected (frames, labels)"
        )
    scale = max(_PICTURE // max(colours.shape[1:3]), 1)
    height, width = scale * colours.shape[1], scale * colours.shape[2]
    bars = 0 if shares is None else 300
    pictures = []
    for step, colour in enumerate(colours):
        picture = Image.new("RGB", (width + bars, height + 24), "white")
        picture.paste(Image.fromarray(colour).resize((width, height), Image.Resampling.NEAREST), (0, 24))
        draw = ImageDraw.Draw(picture)
        draw.text((6, 6), f"{title}  step {step + 1} of {len(colours)}".strip(), fill="black")
        if shares is not None:
            pitch = min(height // max(len(labels), 1), 34)
            for place, (label, share) in enumerate(zip(labels, shares[step].tolist(), strict=True)):
                top = 24 + place * pitch
                best = place == int(shares[step].argmax())
                draw.text((width + 8, top), f"{label} {share:.0%}", fill="black" if best else "#666666")
                fill = "#2a9d5c" if best else "#b8c4bd"
                draw.rectangle((width + 8, top + 13, width + 9 + round(270 * share), top + 13 + pitch // 3), fill=fill)
        pictures.append(picture)
    ends = [10 * round(frame_ms * step / 10) for step in range(len(pictures))]
    durations = [max(end - start, 20) for start, end in pairwise(ends)] + [_LAST_MS]
    with _written(target, "picture") as made:
        pictures[0].save(made, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return target


def save_video(frames: npt.NDArray[Any], path: str | os.PathLike[str], *, fps: float = 25.0) -> Path:
    """Write frames of counts (T, 2, H, W) as an MP4 (H.264) and return its path; needs PyAV.

    Args:
        frames: brighter red, darker blue, as in [`polarity_colours`][rsnn.plots.polarity_colours].
        path: where to write it.
        fps: frames a second.

    Raises:
        InputError: `frames` has another shape, or the file cannot be written there.
        MissingDependencyError: PyAV is not installed.

    """
    _check_above_zero(fps=fps)
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            f"writing {path} needs PyAV, which is not installed: pip install 'rsnn[video]'; an animated .gif needs "
            "nothing more"
        ) from error
    colours = (255 * polarity_colours(frames)).astype(np.uint8)
    scale = max(_PICTURE // max(colours.shape[1:3]), 1)
    height, width = (side - side % 2 for side in (scale * colours.shape[1], scale * colours.shape[2]))
    target = as_path(path)
    with _written(target, "video") as made, av.open(str(made), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = max(width, 2), max(height, 2), "yuv420p"
        for colour in colours:
            large = np.repeat(np.repeat(colour, scale, axis=0), scale, axis=1)
            picture = np.ascontiguousarray(large[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target


def save_picture(frames: npt.NDArray[Any], path: str | os.PathLike[str], *, fps: float, title: str = "") -> Path:
    """Write frames of counts (T, 2, H, W) as the suffix of `path` says: .gif, .mp4, or a sheet of all as .png.

    Raises:
        InputError: the suffix is another one, `fps` is more than a .gif can show, or the file cannot be written.
        MissingDependencyError: an .mp4 needs a package that is not installed.

    """
    _check_above_zero(fps=fps)
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        if fps > _MOST_GIF_FPS:
            raise InputError(
                f"{path} with {fps:g} frames a second; expected at most {_MOST_GIF_FPS}, as a .gif can show "
                "them, or an .mp4"
            )
        return save_animation(frames, path, title=title, frame_ms=1000 / fps)
    if suffix == ".mp4":
        return save_video(frames, path, fps=fps)
    if suffix == ".png":
        return save_frames(frames, path, title=title)
    raise InputError(f"{path} has the suffix {suffix!r}; expected one of {', '.join(PICTURES)}")


def _check_above_zero(**numbers: float) -> None:
    for name, number in numbers.items():
        if not is_number(number) or not 0 < number < float("inf"):
            raise InputError(f"{name} is {number!r}; expected a number above 0")


@contextmanager
def _written(target: Path, what: str) -> Iterator[Path]:
    """Give the block a temporary name to write to, and the file its own name where that went well."""
    with replacing(target) as made:
        try:
            yield made
        except (OSError, ValueError) as error:  # FFmpeg's errors are among these, and a format that matplotlib has not
            raise InputError(f"the {what} {target} cannot be written: {error}") from error
