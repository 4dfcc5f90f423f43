"""What `to_events` and its parameters take, and what they say to the rest."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch

from rsnn.data.simulate import PRESETS, DVSParameters, iter_events, moving_image, pixels, read_frames, to_events
from rsnn.errors import ConfigError, InputError, UnknownNameError

BLACK, WHITE = np.zeros((3, 4), dtype=np.uint8), np.full((3, 4), 255, dtype=np.uint8)


def test_images_alone_take_their_times_from_fps():
    events = to_events([BLACK, WHITE, BLACK], "clean", fps=30)
    assert 60_000 < events.t.max() <= 66_667
    assert events.p[events.t <= 33_333].all()
    assert not events.p[events.t > 33_333].any()
    stack = to_events(np.stack([BLACK, WHITE, BLACK]), "clean", fps=30)
    assert np.array_equal(stack.t, events.t)


def test_the_sensor_is_as_large_as_the_frames():
    assert to_events([(BLACK, 0), (WHITE, 10)]).sensor_size == (4, 3)


def test_one_frame_or_no_change_gives_no_events():
    assert len(to_events([(BLACK, 5)], "clean")) == 0
    assert len(to_events([(WHITE, 0), (WHITE, 10**6)], "clean")) == 0
    assert list(iter_events([(BLACK, 5)], "clean")) == []


def test_colours_are_seen_as_luma():
    colours = np.zeros((1, 3, 3), dtype=np.uint8)
    colours[0, [0, 1, 2], [0, 1, 2]] = 255
    grey = np.array([[0.299, 0.587, 0.114]], dtype=np.float32)
    for picture in (colours, (colours / 255).astype(np.float32)):
        events = to_events([(np.zeros_like(picture), 0), (picture, 1000)], "clean", seed=1)
        expected = to_events([(np.zeros_like(grey), 0), (grey, 1000)], "clean", seed=1)
        assert np.array_equal(events.x, expected.x)
        assert np.abs(events.t - expected.t).max() <= 1


def test_times_begin_where_the_film_does():
    events = to_events([(BLACK, 5_000_000), (WHITE, 5_001_000)], "clean")
    assert events.t.min() >= 5_000_000
    assert events.t.max() <= 5_001_000


def test_frames_may_be_larger_than_bytes_of_a_cache_and_of_any_shape(rng):
    frames = [(image, 1000 * k) for k, image in enumerate(rng.integers(0, 256, (3, 2, 1000), dtype=np.uint8))]
    events = to_events(frames, "clean")
    assert events.sensor_size == (1000, 2)
    assert set(events.y.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "there are no frames"),
        ([(BLACK, 0), (WHITE, 0)], "frame 1 is at 0 us and the one before at 0 us"),
        ([(BLACK, 0.5)], "the time of frame 0 is 0.5"),
        ([(BLACK, 0), (WHITE[:2], 10)], "frame 1 has shape (2, 4) and the first one (3, 4)"),
        ([(BLACK.astype(np.int64), 0)], "holds int64 values"),
        ([(WHITE.astype(np.float32), 0)], "values from 255.0 to 255.0"),
        ([(np.full((3, 4), np.nan), 0)], "values from nan"),
        ([(np.full((3, 4), -0.1), 0)], "values from -0.1"),
        ([(np.zeros(5, dtype=np.uint8), 0)], "has shape (5,)"),
        ([(np.zeros((3, 4, 4), dtype=np.uint8), 0)], "has shape (3, 4, 4)"),
        ([(np.zeros((0, 4), dtype=np.uint8), 0)], "has shape (0, 4)"),
        ([([[0.1, 0.2], [0.3]], 0)], "frame 0 is no array ("),
        ([(torch.zeros(3, 4, requires_grad=True), 0)], "frame 0 is no array ("),
        ([(BLACK, 2**62), (WHITE, 2**62 + 1)], "frame 0 is 4611686018427387904; expected microseconds between"),
        ([(BLACK, 0), (WHITE, 1_790_000_000_000_000)], "and the one before at 0 us, more than a day apart"),
    ],
)
def test_bad_frames_are_refused(frames, words):
    with pytest.raises(InputError) as error:
        to_events(frames)
    assert words in str(error.value)


def test_a_sensor_that_memory_cannot_hold_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(pixels, "memory_bytes", lambda: 1000)
    message = r"a sensor of 4 x 3 pixels takes 960 bytes"
    assert len(to_events([BLACK, WHITE], "clean", fps=10))
    monkeypatch.setattr(pixels, "memory_bytes", lambda: 900)
    with pytest.raises(InputError, match=message + r" or more .*this machine has 900; expected smaller frames: size="):
        to_events([BLACK, WHITE], "clean", fps=10)
    with pytest.raises(InputError, match=message):
        read_frames(tmp_path, size=(4, 3))
    with pytest.raises(InputError, match=r"a sensor of 4 x 3 pixels takes 2,880 bytes"):
        moving_image(WHITE, size=(4, 3))  # which keeps the 40 frames of a loop


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        ([BLACK, WHITE], None, "frame 0 is of type ndarray; expected a pair .* images alone with fps="),
        (np.stack([BLACK[:2], WHITE[:2]]), None, "frame 0 is of type ndarray"),  # of two rows each
        ([(BLACK, 0), (WHITE, 10)], 100, "frame 0 is a pair with a time of its own, and fps is given"),
        (None, None, "frames is None; expected a file or folder, pairs"),
        (5, 100, "frames is 5"),
    ],
)
def test_pairs_and_images_are_told_apart(frames, fps, words):
    with pytest.raises(InputError, match=words):
        to_events(frames, fps=fps)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, True, (0, -1)])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(InputError, match=r"seed is .*; expected a whole number of at least 0"):
        to_events([(BLACK, 0)], seed=seed)


def test_numbers_of_numpy_and_fractions_will_do():
    plain = to_events([BLACK, WHITE], DVSParameters(pos_thres=0.25), fps=50, seed=3)
    parameters = DVSParameters(pos_thres=np.float32(0.25), neg_thres=Fraction(1, 5))
    assert parameters == DVSParameters(pos_thres=0.25)
    for fps in (np.int64(50), np.float32(50), Fraction(50)):
        events = to_events([BLACK, WHITE], parameters, fps=fps, seed=np.int64(3))
        assert np.array_equal(events.t, plain.t)
    assert to_events([BLACK, WHITE], fps=Fraction(1, 2)).t.max() <= 2_000_000


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "30", True])
def test_bad_rates_are_refused(fps):
    with pytest.raises(InputError, match="fps is"):
        to_events([BLACK], fps=fps)


@pytest.mark.parametrize("piece_us", [0, -5, float("nan"), "1000"])
def test_bad_pieces_are_refused(piece_us):
    with pytest.raises(InputError, match="piece_us is"):
        iter_events([(BLACK, 0)], piece_us=piece_us)


def test_presets_are_known_by_name():
    with pytest.raises(UnknownNameError, match=r"no preset 'clear'.*Did you mean 'clean'"):
        to_events([(BLACK, 0)], "clear")
    with pytest.raises(ConfigError, match="parameters is a dict"):
        to_events([(BLACK, 0)], {"pos_thres": 0.2})
    assert set(PRESETS) == {"clean", "noisy", "dvs128"}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DVSParameters)])
def test_every_parameter_is_checked_and_does_something(field, rng):
    for value in (-0.001, float("nan"), float("inf"), "1", None, True, np.bool_(True)):
        with pytest.raises(ConfigError, match=field):
            DVSParameters(**{field: value})
    frames = [(image, 4000 * k) for k, image in enumerate(rng.random((30, 16, 16), dtype=np.float32))]
    base = dataclasses.replace(
        PRESETS["dvs128"], hot_pixel_fraction=0.02, row_jitter_s=1e-3, shot_noise_rate_hz=5.0, leak_rate_hz=5.0
    )
    changed = dataclasses.replace(base, **{field: {"log_eps": 0.1}.get(field, getattr(base, field) * 0.5)})
    one, other = (to_events(frames, parameters, seed=2) for parameters in (base, changed))
    assert len(one) != len(other) or not np.array_equal(one.t, other.t)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DVSParameters)])
def test_every_parameter_has_a_largest_value_and_can_have_it(field, rng):
    with pytest.raises(ConfigError, match=rf"{field} is 1e\+40; expected a number between .* and (\S+)$") as caught:
        DVSParameters(**{field: 1e40})
    largest = float(str(caught.value).split()[-1])
    base = DVSParameters(hot_pixel_rate_hz=5.0, shot_noise_rate_hz=5.0, leak_rate_hz=5.0)
    frames = [(image, 1000 * k) for k, image in enumerate(rng.random((3, 4, 4), dtype=np.float32))]
    to_events(frames, dataclasses.replace(base, **{field: largest}))  # without a warning


def test_shares_are_at_most_one():
    for field in ("hot_pixel_fraction", "row_crosstalk", "repeat_probability", "rebound_probability"):
        with pytest.raises(ConfigError, match=r"between 0.0 and 1.0"):
            DVSParameters(**{field: 1.01})
