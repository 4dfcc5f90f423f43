"""Film gestures on a GPU (`film.cu`), through CuPy: many clips in one launch, from the picture to the pixels' events.

What a clip is made of comes from the same generators as on the CPU, and so do the sensor's pixels and its readout. Only
noise falls differently. PyTorch has no part in it.

Letters: F frames of a clip.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.events import Events
from rsnn.data.simulate.camera import deliver
from rsnn.data.simulate.gestures.arms import LEFT, RIGHT
from rsnn.data.simulate.gestures.draw import HAND_REACH, HAND_SPRITE
from rsnn.data.simulate.gestures.film import STEP_US, Film
from rsnn.data.simulate.gestures.scene import MARGIN, SIDE
from rsnn.data.simulate.parameters import DVSParameters
from rsnn.data.simulate.pixels import DARKEST_CUTOFF, DVSPixels, PixelEvents
from rsnn.data.simulate.readout import Readout
from rsnn.errors import InputError, MissingDependencyError

FloatArray = npt.NDArray[np.floating[Any]]

CLIPS = 32  # that should be filmed at once at most: 1 MB of images each
THREADS = 128  # of a block, kThreads in film.cu
TICKS = 64  # of a microsecond, kTicks
EVENTS = 1 << 18  # of a clip that there is room for at first
_PIXEL_BITS, _TIME_BITS = 15, 32  # of an event: clip, time, pixel and polarity

# The structures of film.cu.
_FLOAT, _INT = np.float32, np.int32
_BOX = ("box", _INT, 4)
_LIMB = np.dtype(
    [_BOX, ("start", _FLOAT, 2), ("along", _FLOAT, 2), ("length", _FLOAT), ("per_length", _FLOAT), ("radius", _FLOAT),
     ("growth", _FLOAT)]
)  # fmt: skip
_HAND = np.dtype([_BOX, ("wrist", _FLOAT, 2), ("along", _FLOAT, 2), ("across", _FLOAT, 2), ("unused", _FLOAT, 2)])
_SHADOW = np.dtype(
    [_BOX, ("start", _FLOAT, 2), ("delta", _FLOAT, 2), ("along", _FLOAT, 2), ("slope", _FLOAT), ("most", _FLOAT)]
)
_SHIFT = np.dtype([("place", _INT), ("part", _FLOAT, 2), ("unused", _INT)])
_FRAME = np.dtype(
    [("limbs", _LIMB, (2, 2)), ("hands", _HAND, 2), ("shadows", _SHADOW, 2), ("shifts", _SHIFT, 3), ("time_us", _INT),
     ("lamp", _FLOAT), ("gain", _FLOAT), ("base", _FLOAT), ("first", _INT), ("unused", _INT, 3)]
)  # fmt: skip
_CLIP = np.dtype(
    [("pause_us", np.float64), ("seed", np.uint64), ("frames", _INT), ("first", _INT), ("slow", _INT),
     ("low_pass", _INT), ("shadow", _FLOAT), ("edge", _FLOAT), ("log_eps", _FLOAT), ("unused", _INT)]
)  # fmt: skip


class Take(NamedTuple):
    """One clip to film: what is before the camera, the sensor's parameters, the seed of its pixels and readout."""

    film: Film
    parameters: DVSParameters
    seed: tuple[int, ...]


class Packed(NamedTuple):
    """What the kernel takes of some clips: a header of each, and their frames and their images one after the other."""

    clips: npt.NDArray[np.void]
    frames: npt.NDArray[np.void]
    images: npt.NDArray[np.float32]


def check(device: str) -> None:
    """Check that there is CuPy for this device; does not look for the device.

    Raises:
        MissingDependencyError: CuPy is not installed.

    """
    if importlib.util.find_spec("cupy") is None:
        raise MissingDependencyError(
            f"device={device!r} films with CuPy, which is not installed: pip install 'rsnn[cuda]', or leave `device` "
            "out to film on the CPU"
        )


def record(takes: Sequence[Take], device: str) -> list[Events]:
    """Return what the camera sees of each clip, as `to_events(film.frames(), parameters, seed=seed)` does.

    Args:
        takes: the clips, filmed in one launch: CLIPS of them at most, or memory may run out.
        device: "cuda" or "cuda:<number>".

    Raises:
        InputError: there is no such device, or it cannot be used.
        MissingDependencyError: CuPy is not installed.

    """
    # The longest first, so that the GPU is not left with one at the end.
    order = sorted(range(len(takes)), key=lambda i: -len(takes[i].film.ticks))
    seeds = [np.random.SeedSequence(take.seed).spawn(2) for take in takes]
    packed = pack([takes[i] for i in order], [np.random.default_rng(seeds[i][0]) for i in order])
    words = _events(packed, device)
    ends = np.searchsorted(words, np.arange(len(takes) + 1, dtype=np.uint64) << np.uint64(_PIXEL_BITS + _TIME_BITS))
    clips: dict[int, Events] = {}
    for place, i in enumerate(order):
        readout = Readout((SIDE, SIDE), takes[i].parameters, np.random.default_rng(seeds[i][1]))
        times = takes[i].film.ticks * STEP_US
        events = _unpack(words[ends[place] : ends[place + 1]])
        clips[i] = deliver(readout, [events], int(times[0]), int(times[-1]))
    return [clips[i] for i in range(len(takes))]


def _events(packed: Packed, device: str) -> npt.NDArray[np.uint64]:
    """Return the events of the pixels in order of clip, time and pixel, in words of 64 bits."""
    launch = _launcher(device)
    room = EVENTS * len(packed.clips)
    while True:
        number, words = launch(packed, room)
        if number <= room:
            return words
        room = number


def _unpack(words: npt.NDArray[np.uint64]) -> PixelEvents:
    low = words.astype(np.uint32)
    t = ((words >> np.uint64(_PIXEL_BITS)).astype(np.uint32)) / TICKS
    pixel = (low >> np.uint32(1) & np.uint32(SIDE * SIDE - 1)).astype(np.int64)
    return PixelEvents(t, pixel, (low & np.uint32(1)).astype(np.uint8))


def pack(takes: Sequence[Take], rngs: Sequence[np.random.Generator]) -> Packed:
    """Return the clips as the kernel takes them; `rngs` are those of the sensors' pixels."""
    clips = np.zeros(len(takes), dtype=_CLIP)
    tables, images = [], []
    first = 0
    for clip, take, rng in zip(clips, takes, rngs, strict=True):
        film, parameters = take.film, take.parameters
        pixels = DVSPixels((SIDE, SIDE), parameters, rng)
        tables.append(_table(film, parameters))
        images += _images(film, pixels)
        clip["pause_us"] = parameters.refractory_period_s * 1e6
        clip["seed"] = rng.integers(2**64, dtype=np.uint64)
        clip["frames"], clip["first"] = len(film.ticks), first
        clip["slow"] = sum(1 << side for side in film.slow)
        clip["low_pass"] = parameters.cutoff_hz > 0
        clip["shadow"], clip["edge"], clip["log_eps"] = film.scene.shadow[2], 1 / film.scene.blur, parameters.log_eps
        first += len(film.ticks)
    return Packed(clips, np.concatenate(tables), np.concatenate(images))


def _images(film: Film, pixels: DVSPixels) -> list[npt.NDArray[np.float32]]:
    """Return the images of a clip in the order of film.cu, each flat."""
    rate = np.diff(pixels.noise_until, prepend=0.0)  # events a microsecond
    with np.errstate(divide="ignore", over="ignore"):
        interval = np.where(rate > 0, 1 / rate, np.inf).astype(np.float32)
    images: list[FloatArray] = [film.scene.light, film.scene.background]
    images += [image for layer in (film.torso, film.head) for image in layer]
    images += [texture for arm in film.limbs for texture in arm]
    images += [image for sprite in film.hands for image in sprite]
    images += [pixels.positive, pixels.negative, pixels.leak_per_us, pixels.excess]
    images += [interval, pixels.noise_lost, pixels.noise_on]
    return [image.astype(np.float32, copy=False).reshape(-1) for image in images]


def _table(film: Film, parameters: DVSParameters) -> npt.NDArray[np.void]:
    """Return what changes from frame to frame, (F,)."""
    table = np.zeros(len(film.ticks), dtype=_FRAME)
    for side in (RIGHT, LEFT):
        track = film.tracks[side]
        shoulder, elbow, wrist, tip = track.joints.transpose(1, 0, 2)
        upper, middle, lower = track.radii.T
        _put_limb(table["limbs"][:, side, 0], shoulder, elbow, upper, middle, film.scene.blur)
        _put_limb(table["limbs"][:, side, 1], elbow, wrist, middle, lower, film.scene.blur)
        _put_hand(table["hands"][:, side], wrist, track.direction, *track.hand.T)
        if film.scene.shadow[2]:
            moved, depth = film.scene.shadow[:2], film.scene.shadow[2]
            _put_shadow(table["shadows"][:, side], elbow + moved, tip + moved, middle, depth)
    for number, shift in enumerate((film.shake, film.torso_shift, film.head_shift)):
        _put_shift(table["shifts"][:, number], shift)
    times = film.ticks * STEP_US
    span_us = np.diff(times, prepend=times[0]).astype(np.float64)
    k = (2 * np.pi * parameters.cutoff_hz * span_us * 1e-6).astype(np.float32)
    table["time_us"] = times
    table["lamp"] = film.lamp()
    table["gain"], table["base"] = np.float32(1 - DARKEST_CUTOFF) * k, np.float32(DARKEST_CUTOFF) * k
    table["first"] = film.first_arm()
    return table


# Each of these puts the numbers of one part of the picture into its place of the table; see draw.py.


def _put_box(part: npt.NDArray[np.void], start: FloatArray, end: FloatArray, wide: FloatArray) -> None:
    part["box"][:, :2] = np.floor(np.minimum(start, end) - wide[:, None])
    part["box"][:, 2:] = np.ceil(np.maximum(start, end) + wide[:, None])


def _put_limb(
    part: npt.NDArray[np.void], start: FloatArray, end: FloatArray, first: FloatArray, last: FloatArray, blur: float
) -> None:
    _put_box(part, start, end, np.maximum(first, last) + blur)
    delta = end - start
    length = np.maximum(np.hypot(*delta.T), 1e-3)
    part["start"], part["along"] = start, delta / length[:, None]
    part["length"], part["per_length"] = length, 1 / length
    part["radius"], part["growth"] = first, last - first


def _put_hand(
    part: npt.NDArray[np.void], wrist: FloatArray, direction: FloatArray, length: FloatArray, width: FloatArray
) -> None:
    _put_box(part, wrist, wrist, 1.06 * np.hypot(length, width / 2))
    part["wrist"] = wrist
    per_length = (HAND_SPRITE[1] - 1) / (HAND_REACH[1] - HAND_REACH[0])
    part["along"] = direction * (per_length / length)[:, None]
    part["across"] = direction[:, ::-1] * (-1, 1) * ((HAND_SPRITE[0] - 1) / width)[:, None]


def _put_shadow(
    part: npt.NDArray[np.void], start: FloatArray, end: FloatArray, radius: FloatArray, depth: float
) -> None:
    blur = 2 * radius
    _put_box(part, start, end, radius + blur)
    delta = end - start
    part["start"], part["delta"] = start, delta
    part["along"] = delta / np.maximum((delta**2).sum(1, keepdims=True), 1e-3)
    part["slope"], part["most"] = -depth / blur, depth * (radius / blur + 0.5)


def _put_shift(part: npt.NDArray[np.void], shift: FloatArray) -> None:
    limit = MARGIN - 2
    seen = MARGIN - np.clip(shift, -limit, limit)
    whole = seen.astype(np.int32)
    part["place"] = whole[:, 1] * (SIDE + 2 * MARGIN) + whole[:, 0]
    part["part"] = seen - whole


def source() -> str:
    """Return the CUDA source."""
    return Path(__file__).with_name("film.cu").read_text(encoding="utf-8")


@functools.cache
def _launcher(device: str) -> Callable[[Packed, int], tuple[int, npt.NDArray[np.uint64]]]:
    """Return what films clips on a device: (clips, room for events) to (number of events, those for which was room).

    Raises:
        InputError: there is no such device, or it cannot be used.
        MissingDependencyError: CuPy is not installed.

    """
    check(device)
    import cupy

    try:
        there = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise _unusable(device, str(error)) from error
    index = int(device.partition(":")[2] or cupy.cuda.runtime.getDevice() if there else 0)
    if index >= there:
        raise _unusable(device, f"there are {there} CUDA devices")
    kernel = cupy.RawKernel(source(), "film", options=("-std=c++17",))  # compiled at its first launch

    def launch(packed: Packed, room: int) -> tuple[int, npt.NDArray[np.uint64]]:
        with cupy.cuda.Device(index):
            given = [_upload(cupy, array.view(np.uint8)) for array in packed]
            words, number = cupy.empty(room, dtype=np.uint64), cupy.empty(1, dtype=np.uint64)
            number.set(np.zeros(1, dtype=np.uint64))
            arguments = [array.data.ptr for array in (*given, words, number)]
            kernel((blocks(packed),), (THREADS,), (*arguments, room, 0))
            found = int(number.get()[0])
            sent = words[: min(found, room)]
            if found <= room:
                sent.sort()
            return found, sent.get()

    return launch


def blocks(packed: Packed) -> int:
    """Return how many blocks a launch has."""
    return len(packed.clips) * (SIDE * SIDE // THREADS)


def _upload(cupy: Any, array: npt.NDArray[np.uint8]) -> Any:
    there = cupy.empty(array.shape, dtype=array.dtype)
    there.set(array)
    return there


def _unusable(device: str, reason: str) -> InputError:
    return InputError(
        f"device={device!r} cannot be used ({reason}); expected 'cuda' or 'cuda:<number>' of an NVIDIA GPU, or leave "
        "`device` out to film on the CPU"
    )
