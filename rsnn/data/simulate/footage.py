"""Frames from files: videos, animated pictures and folders of images, as intensities with times."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.checks import as_float, is_number
from rsnn.data.events import check_sensor_size
from rsnn.data.files import as_path
from rsnn.data.simulate.pixels import check_memory
from rsnn.errors import InputError, MissingDependencyError, shown

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of red, green and blue, ITU-R BT.601, as Pillow and FFmpeg
SMALLEST_FPS, LARGEST_FPS = 0.001, 1e6
DEFAULT_DURATION_MS = 100  # of a frame of an animated picture that does not say, as browsers show it


@dataclass(frozen=True)
class Footage:
    """Frames of a file or folder, read anew each time it is gone through.

    Args:
        path: the file or folder.
        kind: "video", "animation" or "folder".
        fps: frames a second, in place of the file's own times.
        size: (width, height) of the frames, or None to leave them as they are.
        gamma: intensity is (pixel value / largest value) ** gamma.

    """

    path: Path
    kind: str
    fps: Fraction | None
    size: tuple[int, int] | None
    gamma: float

    def __iter__(self) -> Iterator[tuple[npt.NDArray[Any], int]]:
        pictures = {"video": _video, "animation": _animation, "folder": _folder}[self.kind](self.path)
        last_us, shape = -1, None
        for number, (picture, seconds, name) in enumerate(pictures):
            time_us = round(seconds * 1_000_000 if self.fps is None else number * Fraction(1_000_000) / self.fps)
            if time_us <= last_us:
                raise InputError(
                    f"{self.path}: frame {number} is at {time_us} us and the one before at {last_us} us; expected "
                    "times that increase: pass fps"
                )
            last_us = time_us
            try:
                intensity = as_intensity(picture, self.gamma, self.size)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
            shape = shape or intensity.shape
            if intensity.shape != shape:
                raise InputError(
                    f"{name} has {intensity.shape[1]} x {intensity.shape[0]} pixels and the first frame {shape[1]} x "
                    f"{shape[0]}; expected one size: pass size=(width, height), to which all are rescaled (rsnn "
                    "simulate --size)"
                )
            yield intensity, time_us

    def count(self) -> int | None:
        """Return the number of frames as far as it is known without decoding them."""
        if self.kind == "folder":
            return len(list_images(self.path))
        if self.kind == "animation":
            with open_image(self.path) as picture:
                return count_frames(picture)
        with _open_video(self.path) as container:
            return container.streams.video[0].frames or None


def read_frames(
    path: str | os.PathLike[str],
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    gamma: float = 1.0,
) -> Footage:
    """Return the frames of a video, an animated picture or a folder of images, for `to_events`.

    Args:
        path: a video of any kind that FFmpeg reads (needs the extra `rsnn[video]`), an animated GIF, PNG, WebP or TIFF,
            or a folder of images, which are taken in the order of their names (`2.png` before `10.png`), upright as
            their EXIF orientation says.
        fps: frames a second. A folder needs it; for a file it replaces the times that the file says, as for a slow
            motion video that was filmed faster than it plays.
        size: (width, height) to rescale to, after the frames were cut centrally to this shape.
        gamma: exponent from pixel values to intensity. 1.0 takes the values as they are, as ESIM and v2e do; 2.2 undoes
            the gamma curve of usual videos and gives the contrast of the scene itself, about twice as large.

    Returns:
        What yields pairs of an intensity (H, W), uint8 or, with a gamma, float32 from 0 to 1, and a time in
        microseconds.

    Raises:
        InputError: there is no such file, it is a single image, or an argument is out of its range.
        MissingDependencyError: it is a video and PyAV is not installed.

    """
    source = as_path(path)
    rate = None if fps is None else check_fps(fps)
    if size is not None:
        size = check_sensor_size(size, "size")
        check_memory((size[1], size[0]))
    gamma = check_gamma(gamma)
    if source.is_dir():
        if not list_images(source):
            raise InputError(
                f"{source} holds no images; expected a folder of the frames of one scene, such as 0001.png"
            )
        if rate is None:
            raise InputError(f"{source} does not say when its images were taken; expected fps, frames a second")
        return Footage(source, "folder", rate, size, gamma)
    if not source.is_file():
        raise InputError(f"{source} does not exist; expected a video, an animated picture or a folder of images")
    if source.suffix.lower() == ".zip" and zipfile.is_zipfile(source):
        raise InputError(
            f"{source} is a zip; expected a video, an animated picture or a folder of images: unpack it, or, if it "
            "holds stills to be moved, use record_images (rsnn simulate --moving)"
        )
    if is_image(source) or _is_image_to_ffmpeg(source):
        with open_image(source) as picture:
            if count_frames(picture) == 1:
                raise InputError(
                    f"{source} is a single image, in which nothing changes; expected a video or a folder of images: "
                    "moving_image moves a still (rsnn simulate --moving)"
                )
        return Footage(source, "animation", rate, size, gamma)
    return Footage(source, "video", rate, size, gamma)


def check_array(image: npt.NDArray[Any], name: str) -> None:
    """Check that an array is an image, (H, W) or (H, W, 3), of bytes or of floats.

    Raises:
        InputError: it is not; the message calls it by `name`.

    """
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] != 3):
        raise InputError(f"{name} has shape {image.shape}; expected (H, W), or (H, W, 3) for red, green and blue")
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise InputError(f"{name} holds {image.dtype} values; expected uint8 (0 to 255) or float (0 to 1)")


def check_fps(fps: Any) -> Fraction:
    """Return a frame rate as an exact number.

    Raises:
        InputError: it is none.

    """
    if not is_number(fps) or not SMALLEST_FPS <= fps <= LARGEST_FPS:
        raise InputError(f"fps is {shown(fps)}; expected frames a second, between {SMALLEST_FPS} and {LARGEST_FPS:.0f}")
    return Fraction(fps if isinstance(fps, Rational) else as_float(fps))


def check_gamma(gamma: float) -> float:
    """Return an exponent if it is one.

    Raises:
        InputError: it is not.

    """
    if not is_number(gamma) or not 0.1 <= gamma <= 10:
        raise InputError(f"gamma is {shown(gamma)}; expected a number between 0.1 and 10")
    return as_float(gamma)


def is_image(path: Path) -> bool:
    """Tell whether a file's name is that of an image."""
    image = _pillow()
    image.init()
    return image.registered_extensions().get(path.suffix.lower()) in image.OPEN and path.suffix.lower() not in _VIDEOS


_VIDEOS = {".mpg", ".mpeg"}  # which Pillow knows by name and cannot decode


def list_images(folder: Path) -> list[Path]:
    """Return the images in a folder, in the order that people count in; names that begin with a dot are left out."""
    images = (path for path in folder.iterdir() if not path.name.startswith(".") and is_image(path))
    return sorted(images, key=lambda path: _counted(path.name))


def _counted(name: str) -> list[str | int]:
    """Return a name's texts and numbers in turn, a text first."""
    return [int(part) if place % 2 else part for place, part in enumerate(_DIGITS.split(name))]


_DIGITS = re.compile(r"([0-9]+)")


def open_image(source: Any) -> Any:
    """Return an image opened by Pillow; `source` is a path or a file.

    Raises:
        InputError: it is damaged, too large, or no image.

    """
    try:
        return _pillow().open(source)
    except Exception as error:  # of Pillow's many readers, each has errors of its own
        raise InputError(f"{_name(source)} is not an image that can be read ({error})") from error


def count_frames(picture: Any) -> int:
    """Return how many frames an opened image has.

    Raises:
        InputError: it is damaged.

    """
    with _decoding(picture):
        return int(getattr(picture, "n_frames", 1))


def upright(picture: Any) -> Any:
    """Return an opened image decoded and turned as its EXIF orientation says.

    Raises:
        InputError: it is damaged.

    """
    from PIL import ImageOps

    with _decoding(picture):
        picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF data do not spoil the picture
        return picture


@contextmanager
def _decoding(picture: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # as in `open_image`
        raise InputError(f"{_name(picture)} cannot be decoded ({error}); expected a whole image") from error


def _name(source: Any) -> Any:
    """Return what a message calls a path, an open file or an opened image."""
    if isinstance(source, str | os.PathLike):
        return source
    return getattr(source, "filename", None) or getattr(source, "name", None) or "the image"


def as_intensity(picture: Any, gamma: float, size: tuple[int, int] | None = None) -> npt.NDArray[Any]:
    """Return the luma of a Pillow image, (H, W): uint8, or float32 from 0 to 1 if it has more bits or a gamma.

    With a size (width, height) it is cut centrally to this shape and rescaled to it.

    Raises:
        InputError: it holds floats beyond 0 to 1.

    """
    if picture.mode == "F":
        values = np.asarray(picture)
        if not 0 <= values.min() <= values.max() <= 1:
            raise InputError(f"an image holds values from {values.min()} to {values.max()}; expected 0 to 1 in floats")
    if picture.mode == "LAB":  # of which Pillow makes colours, but no grey
        picture = picture.convert("RGB")
    if size is not None and picture.size != size:
        picture = _fitted(picture, size)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float32)
        # Rescaling overshoots at edges.
        return np.clip(values if picture.mode == "F" else values / np.float32(65535), 0, 1) ** gamma
    codes = np.asarray(picture.convert("L"))
    return codes if gamma == 1 else _GAMMA_STEPS[codes] ** np.float32(gamma)


def _fitted(picture: Any, size: tuple[int, int]) -> Any:
    scale = min(picture.width / size[0], picture.height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    colour = _RESCALED_AS.get(picture.mode, picture.mode)
    return picture.convert(colour).resize(
        size, _pillow().Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )


# Modes that Pillow rescales without blending the pixels, with their bytes in the wrong order, or not at all.
_RESCALED_AS = {"1": "L", "I;16B": "I"} | dict.fromkeys(("P", "RGBA", "CMYK", "YCbCr", "HSV", "PA"), "RGB")
_GAMMA_STEPS = (np.arange(256) / 255).astype(np.float32)


# Each of these yields pictures, the seconds at which they are shown, and what messages call them.


def _folder(path: Path) -> Iterator[tuple[Any, Fraction, str]]:
    for file in list_images(path):
        with open_image(file) as picture:
            yield upright(picture), Fraction(0), str(file)  # `fps` says the time


def _animation(path: Path) -> Iterator[tuple[Any, Fraction, str]]:
    seconds = Fraction(0)
    with open_image(path) as picture:
        for number in range(count_frames(picture)):
            with _decoding(picture):
                picture.seek(number)
                picture.load()
            yield picture, seconds, f"{path}: frame {number}"
            seconds += Fraction(picture.info.get("duration") or DEFAULT_DURATION_MS) / 1000


def _video(path: Path) -> Iterator[tuple[Any, Fraction, str]]:
    import av

    with _open_video(path) as container:
        first: Fraction | None = None
        try:
            for number, frame in enumerate(container.decode(video=0)):
                seconds = Fraction(0) if frame.pts is None else frame.pts * frame.time_base
                if frame.pts is None and number:
                    raise InputError(f"{path} does not say when its frames are shown; expected fps, frames a second")
                first = seconds if first is None else first
                picture = _pillow().fromarray(frame.to_ndarray(format="gray"))
                turn = round(getattr(frame, "rotation", 0)) % 360
                picture = picture.rotate(turn, expand=True) if turn else picture
                yield picture, seconds - first, f"{path}: frame {number}"
        except av.FFmpegError as error:
            raise InputError(f"{path} cannot be decoded ({error.strerror}); expected a whole video") from error


def _is_image_to_ffmpeg(path: Path) -> bool:
    """Tell whether a file that is no image by its name is one by its content."""
    with _open_video(path) as container:
        return str(container.format.name).endswith("_pipe")


def _open_video(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            f"reading the video {path.name} needs PyAV, which is not installed: pip install 'rsnn[video]'; folders of "
            "images and animated pictures need nothing more"
        ) from error
    try:
        # FFmpeg takes what stands before a colon for a protocol, and "12:30.mp4" is a file.
        container = av.open(os.fspath(path.absolute()))
    except av.FFmpegError as error:
        raise InputError(
            f"{path} is not a video that FFmpeg reads ({error.strerror}); expected a video, an animated picture or a "
            "folder of images"
        ) from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} has no pictures in it; expected a video")
    return container


def _pillow() -> Any:
    import PIL.Image

    return PIL.Image
