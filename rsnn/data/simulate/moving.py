"""Move a still picture before the camera, along a closed path, over and over.

This follows how CIFAR10-DVS was made (Li et al., "CIFAR10-DVS: An Event-Stream Dataset for Object Classification",
Frontiers in Neuroscience 2017), by descriptions of it, not checked against the paper's full text: a picture of 32 x
32 pixels, enlarged by bicubic interpolation to 512 x 512, was moved on a screen before a DVS128 in a repeated closed
loop of smooth movement: four diagonal ways of 10 screen pixels to a side, each in about 50 ms, and back at the start
six times, some 1.2 s. With the picture filling the sensor a screen pixel is a quarter of a sensor pixel, so a way is
2.5 sensor pixels to a side. The recordings' times were afterwards redrawn to remove the screen's 60 Hz, so the
movement here is continuous.

Letters: H height, W width of the sensor.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rsnn.checks import as_float, check_whole, is_number
from rsnn.data.events import check_sensor_size
from rsnn.data.simulate.footage import LUMA, as_intensity, check_array, check_gamma, open_image, upright
from rsnn.data.simulate.pixels import check_memory
from rsnn.errors import InputError, shown

if TYPE_CHECKING:
    import PIL.Image

FloatArray = npt.NDArray[np.float32]

# Corners of the loop (right, down), in units of a way: up to the right, down to the right, and back below.
CORNERS = np.array([(0, 0), (1, -1), (2, 0), (1, 1), (0, 0)], dtype=np.float64)
LONGEST_STEP = 0.25  # sensor pixels to a side from one frame to the next


def moving_image(
    image: str | os.PathLike[str] | IO[bytes] | PIL.Image.Image | npt.NDArray[Any],
    *,
    size: tuple[int, int] = (128, 128),
    distance: float = 2.5,
    loop_us: int = 200_000,
    loops: int = 6,
    gamma: float = 2.2,
) -> Iterator[tuple[FloatArray, int]]:
    """Yield the frames of a still picture in repeated closed-loop smooth movement, for `to_events`.

    The picture is cut centrally to the sensor's shape and enlarged or reduced until it fills the sensor wherever it
    moves. By default it moves as the pictures of CIFAR10-DVS did. The events that follow are those of the picture's
    edges: each side of the diamond shows other edges.

    Args:
        image: a file (its name, or opened), an image of Pillow, or an array (H, W) or (H, W, 3) in RGB, uint8 or float
            from 0 to 1; the first frame of an animated picture. A photo is turned upright as its EXIF orientation says.
        size: (width, height) of the sensor in pixels.
        distance: sensor pixels that a way goes along x and along y; a loop is as wide and as high as twice that.
        loop_us: microseconds for one loop of four ways.
        loops: number of loops.
        gamma: exponent from the picture's values to the light of the screen that shows it.

    Yields:
        Intensity (H, W), float32 from 0 to 1, not to be written to, and its time in microseconds, from 0 on.

    Raises:
        InputError: the picture cannot be read, or an argument is out of its range.

    """
    (W, H), distance, loop_us, loops, gamma, frames = _as_numbers(size, distance, loop_us, loops, gamma)
    # Sensor pixels that the picture reaches beyond each side of the sensor, so that no border is ever seen.
    margin = math.ceil(distance)
    picture = _load(image, (W + 2 * margin, H + 2 * margin))
    corners = np.linspace(0, 4, frames, endpoint=False)
    # Centred: x and y run from -distance to distance.
    right, down = (distance * (np.interp(corners, range(5), CORNERS[:, axis]) - (axis == 0)) for axis in (0, 1))
    # What comes round again is drawn once.
    views = [_see(picture, (W, H), margin, x, y) ** np.float32(gamma) for x, y in zip(right, down, strict=True)]
    for view in views:
        view.flags.writeable = False
    return ((views[number % frames], number * loop_us // frames) for number in range(loops * frames + 1))


def check_movement(**movement: Any) -> None:
    """Check arguments of `moving_image`, without a picture.

    Raises:
        InputError: one is out of its range.
        TypeError: it has no such argument.

    """
    given = inspect.signature(moving_image).bind(None, **movement)
    given.apply_defaults()
    _as_numbers(**given.kwargs)


def _as_numbers(
    size: tuple[int, int], distance: float, loop_us: int, loops: int, gamma: float
) -> tuple[tuple[int, int], float, int, int, float, int]:
    """Return the arguments of `moving_image` as Python's numbers, and how many frames a loop has."""
    W, H = check_sensor_size(size, "size")
    if not (is_number(distance) and 0 < distance <= min(W, H)):
        raise InputError(
            f"distance is {shown(distance)}; expected pixels, above 0 and at most {min(W, H)}, the shorter side of "
            f"{W} x {H}"
        )
    distance = as_float(distance)
    loop_us, loops = check_whole("loop_us", loop_us, 1), check_whole("loops", loops, 1)
    gamma = check_gamma(gamma)
    frames = 4 * math.ceil(distance / LONGEST_STEP)
    if loop_us < frames:
        raise InputError(f"loop_us is {loop_us}; expected at least {frames} for a loop of this size")
    check_memory((H, W), frames * np.dtype(np.float32).itemsize)
    return (W, H), distance, loop_us, loops, gamma, frames


def _see(picture: FloatArray, size: tuple[int, int], margin: int, right: float, down: float) -> FloatArray:
    """Return the picture's values at the sensor's pixels when it has moved some sensor pixels."""
    rows, columns = picture.shape
    W, H = size
    seen = _cubic(rows, H, margin, down) @ picture @ _cubic(columns, W, margin, right).T
    return np.clip(seen, 0, 1).astype(np.float32, copy=False)


def _cubic(cells: int, pixels: int, margin: int, shift: float) -> FloatArray:
    """Return the matrix (pixels, cells) of cubic convolution from a picture's cells to a row of sensor pixels.

    Source: Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, with a = -1/2.
    """
    scale = cells / (pixels + 2 * margin)
    # The middle of a sensor pixel, in cells; the picture's shift moves what it sees the other way.
    place = (np.arange(pixels) + 0.5 + margin - shift) * scale - 0.5
    first = np.floor(place).astype(np.int64)
    matrix = np.zeros((pixels, cells))
    for offset in range(-1, 3):
        cell = first + offset
        away = np.abs(place - cell)
        near = (1.5 * away - 2.5) * away * away + 1
        far = ((-0.5 * away + 2.5) * away - 4) * away + 2
        weight = np.where(away < 1, near, np.where(away < 2, far, 0))
        np.add.at(matrix, (np.arange(pixels), np.clip(cell, 0, cells - 1)), weight)
    return matrix.astype(np.float32)


def _load(image: Any, size: tuple[int, int]) -> FloatArray:
    """Return the picture's values, 0 to 1, cut to the shape of `size`, and reduced to it where it is larger."""
    import PIL.Image

    if isinstance(image, np.ndarray):
        picture = PIL.Image.fromarray(_as_codes(image))
    else:
        picture = _opened(image)
        if not picture.mode.startswith(("I", "F")):
            picture = picture.convert("RGB")
    # Enlarging is left to the sampling, which knows where the sensor's pixels are.
    scale = min(picture.width / size[0], picture.height / size[1], 1.0)
    values = as_intensity(picture, 1.0, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
    return values.astype(np.float32) / np.float32(255) if values.dtype == np.uint8 else values


def _opened(image: Any) -> Any:
    import PIL.Image

    if isinstance(image, PIL.Image.Image):
        return upright(image)
    if not isinstance(image, str | os.PathLike) and not hasattr(image, "read"):
        raise InputError(f"image is {shown(image)}; expected a file, an image of Pillow or a NumPy array")
    with open_image(image) as opened:
        return upright(opened)


def _as_codes(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    check_array(image, "image")
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if not (image.min() >= 0 and image.max() <= 1):
        raise InputError(f"image holds values from {image.min()} to {image.max()}; expected floats between 0 and 1")
    grey = image if image.ndim == 2 else image @ LUMA
    return np.ascontiguousarray(np.clip(grey, 0, 1), dtype=np.float32)  # luma's weights add up to a bit more than 1
