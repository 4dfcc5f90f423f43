"""The pixel model: pixels worked by hand, another implementation, and what any DVS pixel must do."""

from __future__ import annotations

import numpy as np
import pytest
from films import LOG_EPS, frames_of, ideal, still
from hypothesis import given
from hypothesis import strategies as st
from slow_pixels import low_pass, pixel_events

from rsnn.data.simulate import PRESETS, DVSParameters, to_events


def seen(levels, times, **changes):
    """(t, p) of each event of one pixel."""
    events = to_events(frames_of(levels, times), ideal(**changes))
    return list(zip(events.t.tolist(), events.p.tolist(), strict=True))


def test_a_ramp_fires_at_each_threshold_and_keeps_the_rest():
    # 0.5 up in 1000 us: thresholds of 0.2 at 400 and 800 us, 0.1 is left; then 0.45 down: -0.2 after 0.3 of it.
    assert seen([-1.0, -0.5, -0.95], [0, 1000, 2000]) == [(400, 1), (800, 1), (1667, 0)]


def test_thresholds_differ_by_polarity():
    # Up 0.7 past 0.3 twice (429, 857), 0.1 left; down 0.5 past 0.15: at 0.25, 0.4 of 0.5 (the rest is 0.1).
    assert seen([-2.0, -1.3, -1.8], [0, 1000, 2000], pos_thres=0.3, neg_thres=0.15) == [
        (429, 1),
        (857, 1),
        (1500, 0),
        (1800, 0),
    ]


def test_what_is_left_carries_over_many_frames():
    # 0.07 a frame: the threshold of 0.2 is reached after 2.857 frames, and again after 5.714, 8.571.
    levels = [-2 + 0.07 * k for k in range(10)]
    assert [t for t, _ in seen(levels, [1000 * k for k in range(10)])] == [2857, 5714, 8571]


def test_the_refractory_period_takes_a_new_reference():
    # 1.0 in 1000 us and 100 us of rest: 200, 300 + 200, 600 + 200; the rest from 900 us on goes on: 1100.
    assert seen([-3.0, -2.0, -1.0], [0, 1000, 2000], refractory_period_s=1e-4)[:4] == [
        (200, 1),
        (500, 1),
        (800, 1),
        (1100, 1),
    ]


def test_the_refractory_period_runs_over_the_end_of_a_frame():
    # 350 us: 200, 550 + 200, and held from 750 to 1100, so 1300, then 1650 + 200.
    assert seen([-3.0, -2.0, -1.0], [0, 1000, 2000], refractory_period_s=3.5e-4) == [
        (200, 1),
        (750, 1),
        (1300, 1),
        (1850, 1),
    ]


def test_brightness_that_changes_while_a_pixel_is_held_is_not_seen():
    # One event at 500 us, then 0.5 s of rest: the way back and up again happens unseen.
    levels = [-2.0, -1.6, -3.0, -1.0, -1.0, -1.21]
    assert seen(levels, [0, 1000, 100_000, 400_000, 600_000, 601_000], refractory_period_s=0.5) == [
        (500, 1),
        (600_952, 0),
    ]


def test_a_pixel_sees_the_logarithm_of_intensity_with_its_dark_current():
    # From 0.1 to 0.5 with 0.02: ln(0.52 / 0.12) = 1.466, seven thresholds of 0.2. From 0 to 0.01: ln 1.5 = 0.405, two.
    frames = [(np.array([[0.1, 0.0]], dtype=np.float32), 0), (np.array([[0.5, 0.01]], dtype=np.float32), 1000)]
    events = to_events(frames, DVSParameters())
    assert np.bincount(events.x).tolist() == [7, 2]
    assert events.p.all()


def test_bytes_and_floats_are_the_same_light(rng):
    codes = rng.integers(0, 256, (20, 9, 7), dtype=np.uint8)
    times = range(0, 20_000, 1000)
    of_bytes = to_events(zip(codes, times, strict=True), "clean", seed=3)
    of_floats = to_events(zip((codes / 255).astype(np.float32), times, strict=True), "clean", seed=3)
    assert len(of_bytes) == len(of_floats) > 1000
    assert np.array_equal(of_bytes.x, of_floats.x)
    assert np.abs(of_bytes.t - of_floats.t).max() <= 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pos_thres": 0.13, "neg_thres": 0.29},
        {"refractory_period_s": 0.0007},
        {"refractory_period_s": 0.004},
        {"cutoff_hz": 80.0},
        {"cutoff_hz": 20.0, "refractory_period_s": 0.0015},
    ],
    ids=str,
)
def test_every_event_is_that_of_another_implementation(seed, changes):
    rng = np.random.default_rng((11, seed))
    F, H, W = 40, 4, 5
    levels = -3 + 3 * rng.random((F, H, W)).cumsum(0) % 2.9
    times = np.cumsum(rng.integers(300, 4000, F)).tolist()
    parameters = ideal(**changes)
    frames = frames_of(levels, times)
    events = to_events(frames, parameters)
    for y in range(H):
        for x in range(W):
            light = [float(frame[y, x]) for frame, _ in frames]
            level = np.log(np.array(light) + LOG_EPS).tolist()
            if parameters.cutoff_hz:
                level = low_pass(level, light, times, parameters.cutoff_hz)
            expected = pixel_events(
                level,
                times,
                on=parameters.pos_thres,
                off=parameters.neg_thres,
                refractory_us=parameters.refractory_period_s * 1e6,
            )
            mine = (events.y == y) & (events.x == x)
            assert events.p[mine].tolist() == [p for _, p in expected]
            assert np.abs(events.t[mine] - np.array([t for t, _ in expected])).max(initial=0) <= 2


def test_leak_is_a_reference_that_falls():
    # It starts at a random part of a threshold: the first event tells where, and the others follow from that.
    levels, times = [-1.0, -1.0, -1.3, -1.0], [0, 2_000_000, 3_000_000, 5_000_000]
    events = to_events(frames_of(levels, times), ideal(leak_rate_hz=2.0), seed=5)
    leak = 2.0 * 0.2 * 1e-6  # two thresholds a second
    start = 0.2 - leak * events.t[0]
    assert 0 <= start < 0.2
    rising = [level + leak * t for level, t in zip(levels, times, strict=True)]
    expected = pixel_events(rising, times, on=0.2, off=0.2, start=start)
    assert events.p.tolist() == [p for _, p in expected]
    assert events.t == pytest.approx([t for t, _ in expected], abs=5)
    assert len(events) >= 8


levels_of_films = st.lists(st.lists(st.floats(-5, 0), min_size=3, max_size=3), min_size=2, max_size=12)


@given(levels_of_films, st.floats(0.05, 0.6), st.floats(0.05, 0.6))
def test_events_retell_brightness_to_within_a_threshold(levels, on, off):
    film = np.array(levels)[:, None, :]
    times = [1000 * k for k in range(len(film))]
    events = to_events(frames_of(film, times), ideal(pos_thres=on, neg_thres=off))
    ons, offs = (np.bincount(events.x[events.p == p], minlength=3) for p in (1, 0))
    missing = film[-1, 0] - film[0, 0] - on * ons + off * offs
    assert (missing < on + 1e-3).all()
    assert (missing > -off - 1e-3).all()


@given(st.floats(0.1, 4.8), st.floats(0.03, 1.0), st.booleans())
def test_the_number_of_events_is_the_contrast_swing_in_thresholds(swing, threshold, up):
    levels = [-5.0, -5.0 + swing] if up else [-5.0 + swing, -5.0]
    events = to_events(frames_of(levels, [0, 10_000]), ideal(pos_thres=threshold, neg_thres=threshold))
    assert len(events) in {int(swing / threshold - 1e-3), int(swing / threshold + 1e-3)}
    assert (events.p == up).all()


def test_swings_there_and_back_give_events_in_proportion():
    # N cycles of a sine with a peak-to-peak swing S have close to 2 N S / threshold events.
    t = np.arange(0, 1_000_001, 500)
    for swing in (0.5, 1.0, 2.0):
        levels = -2 + swing / 2 * np.sin(2 * np.pi * 5 * t * 1e-6)
        events = to_events(frames_of(levels, t.tolist()), ideal(pos_thres=0.02, neg_thres=0.02))
        # Turning costs a threshold: an ON event is followed by an OFF event only two thresholds lower.
        assert len(events) == pytest.approx(2 * 5 * (swing / 0.02 - 1), rel=0.03)
        assert events.p.mean() == pytest.approx(0.5, abs=0.02)


def test_the_negative_of_a_film_gives_the_same_events_with_the_other_polarity(rng):
    levels = -4 + 3.5 * rng.random((30, 6, 8))
    times = list(range(0, 30_000, 1000))
    events, negative = (to_events(frames_of(film, times), ideal()) for film in (levels, -4.5 - levels))
    assert len(events) == len(negative) > 1000
    same = np.lexsort((events.y, events.x, events.t)), np.lexsort((negative.y, negative.x, negative.t))
    assert np.abs(events.t[same[0]] - negative.t[same[1]]).max() <= 1
    assert np.count_nonzero(events.p) == np.count_nonzero(negative.p == 0)


def test_motion_run_backwards_swaps_the_polarities():
    # A bright bar, one pixel soft, crosses 64 pixels; the film run backwards is a bar that moves the other way.
    place, middle = np.arange(64), np.linspace(-10, 74, 200)
    levels = -3 + 2 / (1 + np.exp(2 * (np.abs(place - middle[:, None]) - 5)))[:, None, :]
    times = list(range(0, 200_000, 1000))
    there = to_events(frames_of(levels, times), ideal(pos_thres=0.15, neg_thres=0.15))
    back = to_events(frames_of(levels[::-1], times), ideal(pos_thres=0.15, neg_thres=0.15))
    for p in (0, 1):
        per_pixel = [np.bincount(e.x[e.p == q], minlength=64) for e, q in ((there, p), (back, 1 - p))]
        # The rest of a threshold at the turn decides the last event.
        assert np.abs(per_pixel[0] - per_pixel[1]).max() <= 1
        assert per_pixel[0].sum() == pytest.approx(per_pixel[1].sum(), rel=0.03)
    # The front of the bar is bright going there; the time of each event mirrors, but for a threshold of hysteresis.
    first_on = there.t[(there.x == 32) & (there.p == 1)].mean()
    last_off = back.t[(back.x == 32) & (back.p == 0)].mean()
    assert first_on == pytest.approx(199_000 - last_off, abs=3000)


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.0), (0.5, 0.55), (0.0, 0.02)])
def test_bandwidth_is_one_pole_that_follows_intensity(low, high):
    # After a step the level follows 1 - exp(-t / tau), with tau = 1 / (2 pi cutoff (0.1 + 0.9 intensity)).
    cutoff_hz, step_us, log_eps = 20.0, 20, 0.02
    tau_us = 1e6 / (2 * np.pi * cutoff_hz * (0.1 + 0.9 * high))
    size = np.log((high + log_eps) / (low + log_eps))
    parameters = DVSParameters(pos_thres=size / 8.3, log_eps=log_eps, cutoff_hz=cutoff_hz)
    frames = [(np.full((1, 1), low, dtype=np.float32), 0)]
    frames += [(np.full((1, 1), high, dtype=np.float32), k * step_us) for k in range(1, int(5 * tau_us / step_us))]
    events = to_events(frames, parameters)
    assert len(events) == 8
    assert events.t == pytest.approx(-tau_us * np.log(1 - np.arange(1, 9) / 8.3), rel=0.02, abs=2 * step_us)


def test_at_the_cutoff_the_amplitude_falls_by_3_db():
    t = np.arange(0, 1_000_001, 200)
    for hz, gain in ((2.0, 1 / np.sqrt(1 + 0.01)), (20.0, 1 / np.sqrt(2)), (60.0, 1 / np.sqrt(10))):
        levels = np.log(0.5) + 0.1 * np.sin(2 * np.pi * hz * t * 1e-6)
        cutoff_hz = 20.0 / 0.55  # the pole at half intensity
        events = to_events(frames_of(levels, t.tolist()), ideal(pos_thres=0.01, neg_thres=0.01, cutoff_hz=cutoff_hz))
        cycles = hz
        amplitude = (len(events) / cycles / 2 + 1) * 0.01 / 2
        assert amplitude == pytest.approx(0.1 * gain, abs=0.007)


def test_thresholds_differ_from_pixel_to_pixel_and_stay_for_a_recording():
    levels = np.repeat([[-6.0], [-0.1], [-6.0], [-0.1]], 2500, axis=1).reshape(4, 50, 50)
    events = to_events(frames_of(levels, [0, 10_000, 20_000, 30_000]), ideal(sigma_thres=0.02), seed=1)
    number = events.y * 50 + events.x
    ups = [np.bincount(number[(events.t > 20_000 * k) & (events.t <= 10_000 + 20_000 * k)]) for k in (0, 1)]
    assert np.abs(ups[0] - ups[1]).max() <= 2  # the rest of one swing is part of the next
    thresholds = 5.9 / (ups[0] + 0.5)
    assert thresholds.mean() == pytest.approx(0.2, abs=0.002)
    assert thresholds.std() == pytest.approx(0.02, rel=0.1)


def test_shot_noise_has_its_rate_in_the_dark_and_a_quarter_in_full_light():
    for value, share in ((0.0, 1.0), (1.0, 0.25), (0.5, 0.625)):
        events = to_events(still(value, (60, 60), 2.0), ideal(shot_noise_rate_hz=5.0), seed=2)
        expected = 5.0 * share * 3600 * 2
        assert len(events) == pytest.approx(expected, abs=4.5 * np.sqrt(expected))
        assert events.p.mean() == pytest.approx(0.5, abs=2.5 / np.sqrt(expected))
        per_pixel = np.bincount(events.y * 60 + events.x, minlength=3600)
        assert per_pixel.var() == pytest.approx(per_pixel.mean(), rel=0.15)  # Poisson
        assert np.histogram(events.t, bins=4, range=(0, 2e6))[0] == pytest.approx(expected / 4, rel=0.08)


def test_noise_rates_are_spread_in_decades_about_their_mean():
    events = to_events(
        still(0.0, (40, 40), 20.0, 10_000), ideal(shot_noise_rate_hz=20.0, noise_rate_cov_decades=0.3), seed=4
    )
    rates = np.bincount(events.y * 40 + events.x, minlength=1600) / 20
    assert rates.mean() == pytest.approx(20.0, rel=0.08)
    assert np.log10(rates[rates > 0]).std() == pytest.approx(0.3, rel=0.08)


def test_leak_has_its_rate_from_the_first_second_on():
    for seconds in (0.5, 4.0):
        events = to_events(still(0.3, (50, 50), seconds), ideal(leak_rate_hz=0.5, noise_rate_cov_decades=0.2), seed=3)
        expected = 0.5 * 2500 * seconds
        assert len(events) == pytest.approx(expected, abs=4.5 * np.sqrt(expected))
        assert events.p.all()


def test_hot_pixels_are_few_and_fire_on_events_at_their_rate():
    parameters = ideal(hot_pixel_fraction=0.01, hot_pixel_rate_hz=50.0)
    events = to_events(still(1.0, (100, 100), 2.0), parameters, seed=6)
    per_pixel = np.bincount(events.y * 100 + events.x, minlength=10_000)
    hot = per_pixel[per_pixel > 0]
    assert 60 <= hot.size <= 140
    assert hot.mean() == pytest.approx(100, rel=0.06)
    assert events.p.all()


def test_a_noise_event_is_followed_by_the_refractory_period():
    parameters = ideal(shot_noise_rate_hz=200.0, refractory_period_s=0.02)
    events = to_events(still(0.0, (10, 10), 2.0, 1000), parameters, seed=8)
    order = np.lexsort((events.t, events.y * 10 + events.x))
    gaps = np.diff(events.t[order])[np.diff((events.y * 10 + events.x)[order]) == 0]
    assert gaps.min() >= 19_000  # a frame is 1 ms
    # Dead time n: rate / (1 + rate n), 200 / (1 + 4) = 40 Hz.
    assert len(events) == pytest.approx(40 * 100 * 2, rel=0.08)


@pytest.mark.parametrize("refractory_us", [0, 100, 700, 2500])
def test_a_noise_event_takes_a_new_reference(refractory_us):
    # It gets darker all the time, and the noise of hot pixels is all ON: which events are noise is known.
    rng = np.random.default_rng(17)
    F, H, W = 60, 6, 7
    times = np.cumsum(rng.integers(600, 1600, F)).tolist()
    levels = -0.5 - rng.uniform(0.01, 0.04, (F, H, W)).cumsum(0)
    parameters = ideal(hot_pixel_fraction=1.0, hot_pixel_rate_hz=60.0, refractory_period_s=refractory_us * 1e-6)
    frames = frames_of(levels, times)
    events = to_events(frames, parameters, seed=4)
    light = np.log(np.array([frame for frame, _ in frames]) + LOG_EPS)
    assert 60 < events.p.sum() < 200
    after_noise = 0
    for y in range(H):
        for x in range(W):
            mine = (events.y == y) & (events.x == x)
            noise = events.t[mine & (events.p == 1)]
            expected = pixel_events(
                light[:, y, x].tolist(), times, on=0.2, off=0.2, refractory_us=refractory_us, noise=noise.tolist()
            )
            dark = events.t[mine & (events.p == 0)]
            assert (
                np.abs(dark - np.array([t for t, _ in expected])).max(initial=0) <= 5
            )  # noise came at whole microseconds
            after_noise += len(dark) if noise.size else 0
    assert after_noise > 100


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_fixes_everything(preset, rng):
    frames = [(image, 2000 * k) for k, image in enumerate(rng.random((30, 12, 10), dtype=np.float32))]
    one, again, other = (to_events(frames, preset, seed=seed) for seed in (7, 7, 8))
    for column in "txyp":
        assert np.array_equal(getattr(one, column), getattr(again, column))
    assert not np.array_equal(one.t, other.t)


def test_presets_are_those_of_v2e():
    clean, noisy = PRESETS["clean"], PRESETS["noisy"]
    assert (clean.pos_thres, clean.neg_thres, clean.sigma_thres) == (0.2, 0.2, 0.02)
    assert (clean.cutoff_hz, clean.leak_rate_hz, clean.shot_noise_rate_hz, clean.refractory_period_s) == (0, 0, 0, 0)
    assert (noisy.pos_thres, noisy.neg_thres, noisy.sigma_thres) == (0.2, 0.2, 0.05)
    assert (noisy.cutoff_hz, noisy.leak_rate_hz, noisy.shot_noise_rate_hz) == (30.0, 0.1, 5.0)
