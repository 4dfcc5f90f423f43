"""Simulated recordings of the eleven gestures."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rsnn.checks import check_whole, is_number
from rsnn.data.datasets.gesture import CLASS_NAMES
from rsnn.data.events import Events
from rsnn.data.simulate.camera import to_events
from rsnn.data.simulate.gestures.body import draw_body
from rsnn.data.simulate.gestures.classes import perform
from rsnn.data.simulate.gestures.film import STEP_US, Film
from rsnn.data.simulate.gestures.film_cupy import CLIPS, Take, check, record
from rsnn.data.simulate.gestures.motion import Tempo
from rsnn.data.simulate.gestures.scene import draw_scene
from rsnn.data.simulate.parameters import PRESETS, DVSParameters, resolve_parameters
from rsnn.errors import InputError, UnknownNameError, shown, suggest

# Performers (first, number) of each part: no body occurs in two parts, whatever the seed.
SUBJECTS = {"train": (0, 100_000), "validation": (100_000, 10_000), "test": (110_000, 10_000)}

WARM_UP_US = 120_000  # simulated and cut off, so that no clip begins with all pixels at rest


class SimulatedGestures:
    """Clips of random performers who carry out the gestures of DVS128 Gesture before a simulated DVS128.

    A sequence of `(Events, label)`; clip i depends on `seed`, `split` and i alone and is computed when asked for.
    Labels are the indices of `class_names`, balanced: clip i has the label i % 11.

    Args:
        num_samples: number of clips.
        seed: of everything random.
        split: "train", "validation" or "test"; each has performers of its own (`SUBJECTS`).
        duration_s: shortest and longest clip in seconds; the logarithms of the lengths are uniform between them.
        parameters: of the pixels, or the name of a preset; by default drawn anew for each clip around the "dvs128"
            preset.
        device: "cpu", or "cuda" or "cuda:1" to film on a GPU through CuPy: the same clips with other noise. What is
            asked for at once, as a `DataLoader` asks for a batch, is filmed together.

    Raises:
        InputError: a number is out of its range, or `device` is none of these; when a clip is asked for, also if there
            is no such GPU.
        MissingDependencyError: a GPU is to film, and CuPy is not installed.
        UnknownNameError: there is no such split or preset.
        ConfigError: `parameters` is neither parameters nor a name.

    """

    class_names: ClassVar[list[str]] = list(CLASS_NAMES)
    sensor_size: ClassVar[tuple[int, int]] = (128, 128)

    def __init__(
        self,
        num_samples: int,
        seed: int = 0,
        *,
        split: str = "train",
        duration_s: tuple[float, float] = (0.5, 6.0),
        parameters: DVSParameters | str | None = None,
        device: str = "cpu",
    ) -> None:
        num_samples, seed = check_whole("num_samples", num_samples, 0), check_whole("seed", seed, 0)
        if not isinstance(split, str) or split not in SUBJECTS:
            raise UnknownNameError(
                f"there is no split {split!r}; expected one of {', '.join(SUBJECTS)}.{suggest(str(split), SUBJECTS)}"
            )
        pair = tuple(duration_s) if isinstance(duration_s, Iterable) else ()
        if len(pair) != 2 or not all(map(is_number, pair)) or not 0.1 <= pair[0] <= pair[1] <= 60:
            raise InputError(
                f"duration_s is {shown(duration_s)}; expected 0.1 <= shortest <= longest <= 60 seconds, as a pair"
            )
        if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise InputError(f"device is {device!r}; expected 'cpu', 'cuda' or 'cuda:<number>'")
        if device != "cpu":
            check(device)
        self.num_samples = num_samples
        self.seed = seed
        self.split = split
        self.duration_s = (float(pair[0]), float(pair[1]))
        self.parameters = None if parameters is None else resolve_parameters(parameters)
        self.device = device

    def __len__(self) -> int:
        return self.num_samples

    @property
    def name(self) -> str:
        """Name of the data set, for results."""
        return "simulated gestures"

    @property
    def files(self) -> list[Path]:
        """Files that the clips come from: none."""
        return []

    @property
    def fingerprint(self) -> str:
        """A text that is another one whenever an event may be: the settings; a cache adds the code's own digest."""
        on = "" if self.device == "cpu" else " cuda"
        return f"gestures {self.split} {self.seed} {self.num_samples} {self.duration_s} {self.parameters}{on}"

    @property
    def split_name(self) -> str:
        """How the parts are made: by performer."""
        return "by-performer"

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class index of every clip, shape (num_samples,)."""
        return np.arange(len(self)) % len(CLASS_NAMES)

    @property
    def ids(self) -> list[str]:
        """Name of every clip, which says how to have it made again."""
        return [f"{self.split}-seed{self.seed}-{index}" for index in range(len(self))]

    def subject(self, index: int) -> int:
        """Return the number of the performer of clip `index`.

        Raises:
            IndexError: there is no such clip.

        """
        first, number = SUBJECTS[self.split]
        return first + int(self._rng(self._place(index), 0).integers(number))

    def __getitem__(self, index: int) -> tuple[Events, int]:
        """Return clip `index` and its label; times start near 0.

        Raises:
            IndexError: there is no such clip.

        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Events, int]]:
        """Return several clips and their labels; a GPU films them together.

        Raises:
            IndexError: there is no such clip.

        """
        places = [self._place(index) for index in indices]
        clips: list[tuple[Events, int]] = []
        size = 1 if self.device == "cpu" else CLIPS
        for first in range(0, len(places), size):
            some = places[first : first + size]
            takes, durations = zip(*map(self._take, some), strict=True)
            for place, seen, duration_us in zip(some, self._record(takes), durations, strict=True):
                clip = seen.between(WARM_UP_US, WARM_UP_US + duration_us)
                clip = Events(clip.t - WARM_UP_US, clip.x, clip.y, clip.p, self.sensor_size)
                clips.append((clip, place % len(CLASS_NAMES)))
        return clips

    def _place(self, index: int) -> int:
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"clip {place} of {len(self)} simulated gestures")
        return place % len(self)

    def _take(self, place: int) -> tuple[Take, int]:
        """Return what is to be filmed for a clip, and how many microseconds of it are kept."""
        label = place % len(CLASS_NAMES)
        rng = self._rng(place, 1)
        body = draw_body(self.subject(place))
        duration_us = int(np.exp(rng.uniform(*np.log(self.duration_s))) * 1e6)
        ticks = (WARM_UP_US + duration_us) // STEP_US + 2
        tempo = Tempo(np.arange(ticks, dtype=np.float64) * (STEP_US * 1e-6), rng)
        scene = draw_scene(rng)
        film = Film(body, scene, perform(label, body, tempo), tempo, rng)
        parameters = self.parameters or draw_parameters(rng)
        return Take(film, parameters, (self.seed, list(SUBJECTS).index(self.split), place)), duration_us

    def _record(self, takes: Sequence[Take]) -> list[Events]:
        if self.device == "cpu":
            return [to_events(take.film.frames(), take.parameters, seed=take.seed) for take in takes]
        return record(takes, self.device)

    def events(self, index: int) -> Events:
        """Return clip `index` without its label."""
        return self[index][0]

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, list(SUBJECTS).index(self.split), index, purpose))


def draw_parameters(rng: np.random.Generator) -> DVSParameters:
    """Return a sensor as the DVS128 may be biased and lit: the "dvs128" preset, spread out."""
    base = PRESETS["dvs128"]
    threshold = base.pos_thres * rng.lognormal(-0.2, 0.3)
    return DVSParameters(
        pos_thres=threshold * rng.lognormal(0, 0.06),
        neg_thres=threshold * rng.lognormal(0, 0.06),
        sigma_thres=threshold * rng.uniform(0.05, 0.3),
        log_eps=rng.uniform(0.005, 0.04),
        refractory_period_s=base.refractory_period_s * rng.lognormal(0, 0.5),
        cutoff_hz=base.cutoff_hz * rng.lognormal(0, 0.6),
        leak_rate_hz=base.leak_rate_hz * rng.lognormal(0, 0.7),
        shot_noise_rate_hz=base.shot_noise_rate_hz * rng.lognormal(-0.8, 0.7),
        noise_rate_cov_decades=rng.uniform(0.1, 0.6),
        hot_pixel_fraction=rng.choice([0.0, rng.uniform(0, 0.001)]),
        hot_pixel_rate_hz=rng.uniform(3, 60),
        readout_rate_hz=base.readout_rate_hz,
        row_crosstalk=rng.uniform(0.0, 0.12),
        repeat_probability=rng.uniform(0.05, 0.35),
        rebound_probability=rng.uniform(0.05, 0.45),
    )
