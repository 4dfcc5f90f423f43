"""An array of DVS pixels: log intensity in, events out.

Each pixel compares the logarithm of its intensity with the level at its last event and sends ON or OFF when the
difference reaches a threshold; between two frames brightness is taken as a straight line, which fixes the time of
every crossing (ESIM). The pixel's departures from this ideal are those of v2e. Sources: `parameters.py`.

Letters: H height, W width, n events. State arrays are flat, (H * W,), float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsnn.data.frames import memory_bytes
from rsnn.data.simulate.parameters import DVSParameters
from rsnn.errors import InputError

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]

DARKEST_CUTOFF = 0.1  # of cutoff_hz at zero intensity, v2e's lowest pole
BRIGHT_SHOT_NOISE = 0.25  # of shot_noise_rate_hz at full intensity, v2e's SHOT_NOISE_INTEN_FACTOR
PIXEL_BYTES = 80  # that a simulated pixel takes at least, its frame included
SMALLEST_THRESHOLD = 0.01  # of log intensity; mismatch cannot take a pixel below it (as in v2e)


class PixelEvents(NamedTuple):
    """Events of one interval in no particular order: times in microseconds, flat pixel index, 1 = brighter."""

    t: npt.NDArray[np.float64]
    pixel: IndexArray
    p: npt.NDArray[np.uint8]

    def take(self, which: slice | IndexArray) -> PixelEvents:
        """Return the events at these places."""
        return PixelEvents(self.t[which], self.pixel[which], self.p[which])


class DVSPixels:
    """H x W pixels and what they remember from frame to frame.

    Args:
        shape: (H, W).
        parameters: of the pixel model; the readout's are not used here.
        rng: of the mismatch between pixels and of the noise.

    Attributes:
        positive, negative: thresholds of every pixel, in log intensity.
        leak_per_us: how fast its reference sinks.
        excess: level minus the level at the last event.
        noise_until: noise events a microsecond of all pixels up to this one.
        noise_lost: share of the noise that is not there in full light.
        noise_on: probability that a noise event is ON. It is that in the dark: in full light, where shot noise is a
            quarter and what a hot pixel adds is all there, slightly more of a hot pixel's events should be ON.

    """

    def __init__(self, shape: tuple[int, int], parameters: DVSParameters, rng: np.random.Generator) -> None:
        self.parameters = parameters
        self.shape = shape
        self._rng = rng
        size = shape[0] * shape[1]
        self.positive = _thresholds(parameters.pos_thres, parameters.sigma_thres, size, rng)
        self.negative = _thresholds(parameters.neg_thres, parameters.sigma_thres, size, rng)
        self._minus_negative = -self.negative
        spread = _spread(parameters.noise_rate_cov_decades, size, rng)
        # Leak moves the reference down by leak_rate_hz thresholds a second (v2e's subtract_leak_current).
        self.leak_per_us = (parameters.leak_rate_hz * 1e-6 * spread * self.positive).astype(np.float32)
        shot = parameters.shot_noise_rate_hz * 1e-6 * _spread(parameters.noise_rate_cov_decades, size, rng)
        hot = np.where(rng.random(size) < parameters.hot_pixel_fraction, parameters.hot_pixel_rate_hz * 1e-6, 0.0)
        self.noise_until = np.cumsum(shot + hot)
        self._noisy = bool(self.noise_until[-1] > 0)
        hot_share = np.divide(hot, shot + hot, out=np.zeros(size), where=hot > 0)
        self.noise_lost = (1 - BRIGHT_SHOT_NOISE) * (1 - hot_share)
        self.noise_on = (1 + hot_share) / 2
        self._codes = np.log(np.arange(256, dtype=np.float32) / np.float32(255) + np.float32(parameters.log_eps))
        self._level: FloatArray | None = None  # filtered log intensity at the last frame
        self._time_us = 0
        self.excess = np.zeros(size, dtype=np.float32)
        if parameters.leak_rate_hz:
            # As if the sensor had been on for long (as in v2e): else none would leak an event before 1 / leak_rate_hz.
            self.excess += self.positive * rng.spawn(1)[0].random(size, dtype=np.float32)
        self._held = np.zeros(0, dtype=np.int64)  # pixels in their refractory period,
        self._release_us = np.zeros(0)  # and when it ends
        self._change = np.empty(size, dtype=np.float32)
        self._scratch = np.empty(size, dtype=np.float32)
        self._on = np.empty(size, dtype=bool)
        self._busy = np.empty(size, dtype=bool)  # beyond a threshold, or held

    def advance(self, frame: npt.NDArray[Any], time_us: int) -> list[PixelEvents]:
        """Return the events between the last frame and this one; the first frame only sets the pixels' memory.

        Args:
            frame: intensity, uint8 (0 to 255) or float (0 to 1), shape (H, W).
            time_us: its time, later than the last frame's.

        """
        flat = frame.reshape(-1)
        target = self._look_up(flat) if flat.dtype == np.uint8 else self._log(flat)
        if self._level is None:
            self._level, self._time_us = target.copy(), time_us
            return []
        start_us, span_us = self._time_us, float(time_us - self._time_us)
        self._time_us = time_us
        change = self._step_towards(target, flat, span_us)
        if self.parameters.leak_rate_hz:
            np.multiply(self.leak_per_us, np.float32(span_us), out=self._scratch)
            change += self._scratch
        self.excess += change
        if self._held.size:
            self._release(start_us, span_us)
        np.greater_equal(self.excess, self.positive, out=self._on)
        np.less_equal(self.excess, self._minus_negative, out=self._busy)
        np.logical_or(self._on, self._busy, out=self._busy)
        crossing = self._busy.nonzero()[0]
        parts = [self._fire(crossing, start_us, span_us)] if crossing.size else []
        number = self._rng.poisson(self.noise_until[-1] * span_us) if self._noisy else 0
        if number:
            parts.append(self._make_noise(number, flat, start_us, span_us))
        return parts

    def _look_up(self, codes: npt.NDArray[np.uint8]) -> FloatArray:
        # The mode spares a check: a byte cannot lie outside the table.
        return np.take(self._codes, codes, out=self._scratch, mode="clip")

    def _log(self, intensity: npt.NDArray[Any]) -> FloatArray:
        out = self._scratch
        np.add(intensity, np.float32(self.parameters.log_eps), out=out, casting="same_kind")
        return np.log(out, out=out)

    def _step_towards(self, target: FloatArray, frame: npt.NDArray[Any], span_us: float) -> FloatArray:
        """Move the level to the target, through the photoreceptor's low-pass if there is one; return the change.

        One pole at f = cutoff_hz (0.1 + 0.9 I), stepped implicitly (stable at any frame rate):
        change = a (target - level), a = k / (1 + k), k = 2 pi f span.
        """
        change, level = self._change, self._level
        assert level is not None
        np.subtract(target, level, out=change)
        if self.parameters.cutoff_hz:
            k = np.float32(2 * np.pi * self.parameters.cutoff_hz * span_us * 1e-6)
            full_scale = 255 if frame.dtype == np.uint8 else 1
            share = self._scratch
            np.multiply(frame, np.float32((1 - DARKEST_CUTOFF) / full_scale) * k, out=share, casting="same_kind")
            share += np.float32(DARKEST_CUTOFF) * k
            change *= share
            share += np.float32(1)
            change /= share
        level += change
        return change

    def _release(self, start_us: int, span_us: float) -> None:
        """Let pixels whose refractory period ended take the brightness at that moment as their reference."""
        after = (self._release_us - start_us) / span_us
        self.excess[self._held] = np.where(after < 1, self._change[self._held] * (1 - after), 0)
        still = after >= 1
        self._held, self._release_us = self._held[still], self._release_us[still]

    def _hold(self, pixel: IndexArray, release: FloatArray, start_us: int, span_us: float) -> None:
        """Let pixels take the brightness at a fraction of this interval as their reference, or hold them till then."""
        self.excess[pixel] = self._change[pixel] * (1 - np.minimum(release, 1))
        later = release >= 1
        self._held = np.concatenate((self._held, pixel[later]))
        self._release_us = np.concatenate((self._release_us, start_us + release[later] * span_us))

    def _fire(self, pixel: IndexArray, start_us: int, span_us: float) -> PixelEvents:
        """Return the events of the pixels that crossed a threshold, and reset these pixels.

        A pixel whose excess runs from a to a + r (times its sign) over the interval crosses its threshold h at
        the fraction (h - a) / r of it, and again every h / r + refractory period / span.
        """
        up = self._on.take(pixel)
        down = ~up
        excess = np.abs(self.excess.take(pixel)).astype(np.float64)
        rate = self._change.take(pixel).astype(np.float64)
        np.negative(rate, out=rate, where=down)
        np.maximum(rate, 1e-9, out=rate)
        threshold = np.where(up, self.positive.take(pixel), self.negative.take(pixel)).astype(np.float64)
        left = excess - threshold
        left /= rate  # of the interval, after the first crossing
        np.maximum(left, 0, out=left)
        np.minimum(left, 1, out=left)
        first = 1 - left
        pause = self.parameters.refractory_period_s * 1e6 / span_us
        period = threshold / rate
        highest = threshold * 0.999999
        if pause:
            period += pause
            # The guard keeps a crossing on the very end of the interval in it, whatever the rounding.
            left /= period
            left += 1 + 1e-9
            count = left.astype(np.int64)
            release = (count - 1) * period
            release += first
            release += pause
            rest = np.minimum(rate * (1 - release), highest)
            held = release >= 1
            rest[held] = 0
            self._held = np.concatenate((self._held, pixel[held]))
            self._release_us = np.concatenate((self._release_us, start_us + release[held] * span_us))
        else:
            count = np.maximum(excess / threshold + 1e-6, 1).astype(np.int64)
            rest = np.minimum(excess - count * threshold, highest)
        np.negative(rest, out=rest, where=down)
        self.excess[pixel] = rest
        p = up.view(np.uint8)
        again = (count > 1).nonzero()[0]
        if again.size:
            more = count.take(again) - 1
            which = np.repeat(again, more)
            turn = np.arange(1, which.size + 1) - np.repeat(np.cumsum(more) - more, more)
            later = np.minimum(first.take(which) + turn * period.take(which), 1)
            first = np.concatenate((first, later))
            pixel = np.concatenate((pixel, pixel.take(which)))
            p = np.concatenate((p, p.take(which)))
        first *= span_us
        first += start_us
        return PixelEvents(first, pixel, p)

    def _make_noise(self, number: int, frame: npt.NDArray[Any], start_us: int, span_us: float) -> PixelEvents:
        """Return noise events of pixels that are neither firing nor held, and reset these pixels."""
        place = self._rng.random(number)
        place *= self.noise_until[-1]
        place.sort()
        pixel = self.noise_until.searchsorted(place, side="right")
        np.minimum(pixel, self.noise_until.size - 1, out=pixel)
        chance, side, when = self._rng.random((3, number))
        lost = frame.take(pixel) * self.noise_lost.take(pixel)
        if frame.dtype == np.uint8:
            lost /= 255
        keep = chance >= lost
        self._busy[self._held] = True
        keep &= ~self._busy.take(pixel)
        pause = self.parameters.refractory_period_s * 1e6 / span_us
        again = (pixel[1:] == pixel[:-1]).nonzero()[0] + 1  # not the first noise event of its pixel
        if again.size:
            when = when[np.lexsort((when, pixel))]
            keep[again] &= when[again] - when[again - 1] >= pause
        p = (side < self.noise_on.take(pixel))[keep].view(np.uint8)
        pixel, when = pixel[keep], when[keep]
        self._hold(pixel, when + pause, start_us, span_us)
        t = start_us + when * span_us
        return PixelEvents(t, pixel, p)


def check_memory(shape: tuple[int, int], image_bytes: int = 0) -> None:
    """Check that this machine has the memory for H x W pixels, and for images of so many bytes a pixel besides.

    Raises:
        InputError: it has less: a system that promises more ends the process that uses it.

    """
    H, W = shape
    needed, there = H * W * (PIXEL_BYTES + image_bytes), memory_bytes()
    if there is not None and needed > there:
        raise InputError(
            f"a sensor of {W} x {H} pixels takes {needed:,} bytes or more to simulate, and this machine has {there:,}; "
            "expected smaller frames: size=(width, height) in read_frames and moving_image (rsnn simulate --size)"
        )


def _thresholds(nominal: float, sigma: float, size: int, rng: np.random.Generator) -> FloatArray:
    return np.maximum(rng.normal(nominal, sigma, size), SMALLEST_THRESHOLD).astype(np.float32)


def _spread(decades: float, size: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return log-normal factors of mean 1, so that a rate stays the mean over the pixels."""
    factors: npt.NDArray[np.float64] = 10 ** rng.normal(0, decades, size)
    return factors / np.exp((decades * np.log(10)) ** 2 / 2)


def join(parts: Sequence[PixelEvents]) -> PixelEvents:
    """Return the events of all parts, in their order."""
    if not parts:
        return PixelEvents(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8))
    return PixelEvents(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
