from __future__ import annotations

import dataclasses
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import random_events, recordings
from torch.utils.data import DataLoader, Subset, default_collate

from rsnn.data import EventArchive, Events, FrameCache, fingerprint, to_frames
from rsnn.data import transforms as tf
from rsnn.data.datasets.gesture import CLASS_NAMES, MIRRORED_LABELS
from rsnn.errors import InputError, RecordingError

SIZE = (34, 30)
OF_EVENTS = [
    tf.Crop((12, 20)),
    tf.Crop((30, 34), centred=True),
    tf.Shift(0.5),
    tf.Flip(),
    tf.Flip(1.0, vertical=True),
    tf.TimeJitter(100.0),
    tf.TimeScale(0.5, 3.0),
    tf.RandomWindow(1000),
    tf.DropEvents(),
    tf.DropArea(),
    tf.DropTime(),
    tf.EventDrop(),
    tf.FlipPolarity(),
    tf.HotPixels(3, 50.0),
    tf.BackgroundNoise(0.001),
    tf.Refractory(30),
    tf.Denoise(1000),
    tf.Compose(tf.Flip(), tf.Shift(), tf.DropEvents(0.5)),
]
OF_FRAMES = [tf.ShiftFrames(0.5), tf.ScaleFrames(), tf.RotateFrames(180), tf.FlipFrames(), tf.Cutout(0.5, 3)]
KEEP_ORDER_AND_ADD_NOTHING = (tf.RandomWindow, tf.DropEvents, tf.DropArea, tf.DropTime, tf.EventDrop)


def rows(events):
    return [tuple(row) for row in events.to_structured().tolist()]


def rng(seed=0):
    return np.random.default_rng(seed)


def at(t, x=None, y=None, p=None, size=SIZE):
    n = len(t)
    return Events(t=t, x=x or [0] * n, y=y or [0] * n, p=p or [1] * n, sensor_size=size)


@pytest.mark.parametrize("transform", OF_EVENTS, ids=repr)
@settings(max_examples=15)
@given(recordings(sensor_size=SIZE, max_time=10**7, min_events=0), st.integers(0, 2**32))
def test_what_holds_for_every_transform_of_events(transform, events, seed):
    """Valid events come back (`Events` checks them), the seed decides, and what came in is as before."""
    before = rows(events)
    changed = transform(events, rng(seed))
    assert isinstance(changed, Events)
    assert rows(events) == before
    assert pickle.loads(pickle.dumps(transform)) == transform
    assert pickle.loads(pickle.dumps(transform))(events, rng(seed)) == changed
    assert transform.with_label(events, 3, rng(seed)) == (changed, 3)
    if isinstance(transform, KEEP_ORDER_AND_ADD_NOTHING):
        rest = iter(before)
        assert all(row in rest for row in rows(changed))
    if not isinstance(transform, tf.Crop):
        assert changed.sensor_size == SIZE
    if not len(events):
        assert not len(changed)


@settings(max_examples=30)
@given(recordings(sensor_size=SIZE), st.integers(0, 2**32))
def test_crops_by_definition(events, seed):
    for transform in (tf.Crop((7, 9)), tf.Crop((7, 9), centred=True)):
        cropped = transform(events, rng(seed))
        assert cropped.sensor_size == (9, 7)
        if transform.centred:
            left, top = (34 - 9) // 2, (30 - 7) // 2
        else:
            again = rng(seed)
            left, top = again.integers(34 - 9 + 1), again.integers(30 - 7 + 1)
        wanted = [(t, x - left, y - top, p) for t, x, y, p in rows(events)]
        assert rows(cropped) == [row for row in wanted if 0 <= row[1] < 9 and 0 <= row[2] < 7]
    with pytest.raises(InputError, match=r"Crop: size is \(31, 5\); expected at most the sensor's \(30, 34\)"):
        tf.Crop((31, 5))(events, rng())


def test_crops_and_shifts_reach_every_place():
    events = at([0], [17], [15])
    places = {rows(tf.Crop((30, 33))(events, rng(seed)))[0][1] for seed in range(20)}
    assert places == {17, 16}
    moved = {rows(tf.Shift(0.1)(events, rng(seed)))[0][1:3] for seed in range(400)}
    assert moved == {(x, y) for x in range(14, 21) for y in range(12, 19)}  # 3 = int(0.1 * 34) = int(0.1 * 30)
    assert len(tf.Shift(1.0)(at([0], [33], [29]), rng(3))) in (0, 1)


def test_mirror_images_by_hand():
    events = at([0, 1], [0, 30], [4, 5])
    assert rows(tf.Flip(1.0)(events, rng())) == [(0, 33, 4, 1), (1, 3, 5, 1)]
    assert rows(tf.Flip(1.0, vertical=True)(events, rng())) == [(0, 0, 25, 1), (1, 30, 24, 1)]
    assert tf.Flip(0.0)(events, rng()) is events
    assert 400 < sum(tf.Flip(0.5)(events, rng(seed)) != events for seed in range(1000)) < 600


def test_mirrored_gestures():
    """Left and right, clockwise and counter-clockwise change places, in events and in frames alike."""
    names = dict(enumerate(CLASS_NAMES))
    mirrored = {
        "hand_clap": "hand_clap",
        "right_hand_wave": "left_hand_wave",
        "left_hand_wave": "right_hand_wave",
        "right_arm_cw": "left_arm_ccw",
        "right_arm_ccw": "left_arm_cw",
        "left_arm_cw": "right_arm_ccw",
        "left_arm_ccw": "right_arm_cw",
        "arm_roll": "arm_roll",
        "air_drums": "air_drums",
        "air_guitar": "air_guitar",
        "other_gestures": "other_gestures",
    }
    events, frames = at([0]), torch.zeros(1, 2, 2, 2)
    for label, name in names.items():
        for flip, data in ((tf.Flip, events), (tf.FlipFrames, frames)):
            assert names[flip(1.0, MIRRORED_LABELS).with_label(data, label, rng())[1]] == mirrored[name]
            assert flip(0.0, MIRRORED_LABELS).with_label(data, label, rng())[1] == label
    with pytest.raises(InputError, match=r"Flip: labels is \{1: 2\}; expected each class in it"):
        tf.Flip(labels={1: 2})


def test_jitter_keeps_each_event_and_moves_it_as_far_as_it_says():
    events = random_events(rng(1), 20_000, SIZE, last_us=10**9)
    jittered = tf.TimeJitter(50.0)(events, rng(2))
    moved = jittered.t[np.lexsort((jittered.t, jittered.y, jittered.x, jittered.p))]
    still = events.t[np.lexsort((events.t, events.y, events.x, events.p))]
    assert abs(np.std(moved - still) - 50) < 1.5
    assert sorted(zip(jittered.x, jittered.y, jittered.p, strict=True)) == sorted(
        zip(events.x, events.y, events.p, strict=True)
    )
    assert tf.TimeJitter(0.0)(events, rng()) == events


def test_time_scale():
    events = at([1000, 1400, 3000])
    assert tf.TimeScale(2.0, 2.0)(events, rng()).t.tolist() == [1000, 1800, 5000]
    factors = [tf.TimeScale(0.5, 2.0)(events, rng(seed)).duration_us / 2000 for seed in range(300)]
    assert 0.5 <= min(factors) < 0.55
    assert 1.9 < max(factors) <= 2.0
    assert abs(np.mean(np.log(factors))) < 0.1
    with pytest.raises(InputError, match=r"TimeScale: highest is 0.5; expected a number from 0.8 to 1000"):
        tf.TimeScale(0.8, 0.5)


def test_windows():
    events = at(list(range(100, 201)))
    windows = [tf.RandomWindow(10)(events, rng(seed)) for seed in range(500)]
    assert all(len(window) == 10 and window.duration_us == 9 for window in windows)
    assert {int(window.t[0]) for window in windows} == set(range(100, 192))
    assert tf.RandomWindow(101)(events, rng()) == events
    assert tf.RandomWindow(1000)(events, rng()) == events


def test_shares_that_are_dropped():
    events = random_events(rng(1), 20_000, (100, 100))
    shares = [1 - len(tf.DropEvents(0.9)(events, rng(seed))) / 20_000 for seed in range(200)]
    assert min(shares) < 0.05
    assert 0.85 < max(shares) < 0.92
    assert abs(np.mean(shares) - 0.45) < 0.05
    times = [1 - len(tf.DropTime(0.9)(events, rng(seed))) / 20_000 for seed in range(200)]
    assert max(times) < 0.92
    assert abs(np.mean(times) - 0.45) < 0.05
    areas = [1 - len(tf.DropArea(0.3)(events, rng(seed))) / 20_000 for seed in range(200)]
    assert max(areas) < 0.1  # 0.3 * 0.3
    assert abs(np.mean(areas) - 0.03) < 0.01
    nothing = sum(tf.EventDrop()(events, rng(seed)) == events for seed in range(400))
    assert 70 < nothing < 130
    assert len(tf.DropEvents(0.0)(events, rng())) == 20_000


def test_an_area_is_one_rectangle_and_a_time_one_stretch():
    y, x = (axis.ravel() for axis in np.mgrid[:30, :34])
    events = at(list(range(1020)), x.tolist(), y.tolist())
    for seed in range(50):
        gone = np.ones((30, 34), dtype=bool)
        kept = tf.DropArea(0.9)(events, rng(seed))
        gone[kept.y, kept.x] = False
        rectangle = np.outer(gone.any(1), gone.any(0))
        assert np.array_equal(gone, rectangle)
        assert all(np.diff(np.flatnonzero(side)).max(initial=1) == 1 for side in (gone.any(0), gone.any(1)))
        missing = np.setdiff1d(events.t, tf.DropTime(0.9)(events, rng(seed)).t)
        assert np.diff(missing).max(initial=1) == 1


def test_noise_rates():
    events = at([0, 10_000_000], size=(40, 20))
    noisy = tf.BackgroundNoise(2.0)(events, rng(1))
    assert abs(len(noisy) - 16_000) < 600  # 800 pixels, 10 s, 2 Hz: a standard deviation of 126
    counts = np.bincount(noisy.y * 40 + noisy.x, minlength=800)
    assert abs(counts.mean() - 20) < 1
    assert counts.max() < 50
    assert abs(noisy.p[1:-1].mean() - 0.5) < 0.03
    hot = tf.HotPixels(3, 100.0)(events, rng(1))
    pixels, counts = np.unique((hot.y * 40 + hot.x)[1:-1], return_counts=True)
    assert len(pixels) == 3
    assert np.abs(counts - 1000).max() < 150
    for pixel in pixels:
        assert np.ptp(hot.p[1:-1][(hot.y * 40 + hot.x)[1:-1] == pixel]) == 0


def slow_refractory(events, period):
    last, kept = {}, []
    for t, x, y, p in rows(events):
        if (x, y) not in last or t - last[x, y] >= period:
            kept.append((t, x, y, p))
            last[x, y] = t
    return kept


@settings(max_examples=40)
@given(recordings(sensor_size=(3, 2), max_time=2**40), st.sampled_from([0, 1, 2, 5, 20, 10**6, 2**45]))
def test_refractory_against_a_slow_loop(events, period):
    assert rows(tf.Refractory(period)(events, rng())) == slow_refractory(events, period)


def slow_denoise(events, window):
    kept = []
    for t, x, y, p in rows(events):
        for other_t, other_x, other_y, _ in rows(events):
            near = max(abs(x - other_x), abs(y - other_y)) == 1
            if near and 0 <= t - other_t <= window:
                kept.append((t, x, y, p))
                break
    return kept


@settings(max_examples=40)
@given(recordings(sensor_size=(6, 4), max_time=2**40), st.sampled_from([0, 1, 2, 5, 20, 10**6, 2**45]))
def test_denoise_against_a_slow_loop(events, window):
    assert rows(tf.Denoise(window)(events, rng())) == slow_denoise(events, window)


def test_filters_on_real_noise():
    """Of an edge with noise, the edge stays and most of the noise goes."""
    edge = Events(
        t=np.repeat(np.arange(60) * 1000, 60), x=np.repeat(np.arange(60), 60), y=np.tile(np.arange(60), 60),
        p=np.ones(3600, dtype=int), sensor_size=(60, 60),
    )  # fmt: skip
    noisy = tf.BackgroundNoise(5.0)(edge, rng(1))
    clean = tf.Denoise(100)(noisy, rng())
    assert len(noisy) - 3600 > 800
    assert 3600 <= len(clean) < 3600 + (len(noisy) - 3600) * 0.5
    with pytest.raises(InputError, match="too long to filter at once"):
        tf.Denoise(1)(at([0, 2**50], [0, 60_000], size=(1 << 16, 1 << 16)), rng())


# ---------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("transform", OF_FRAMES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.float32])
def test_what_holds_for_every_transform_of_frames(transform, dtype):
    frames = torch.from_numpy(rng(1).integers(0, 200, (3, 2, 9, 12))).to(dtype)
    before = frames.clone()
    for seed in range(20):
        changed = transform(frames, rng(seed))
        assert changed.dtype == dtype
        assert changed.shape == frames.shape
        assert torch.equal(frames, before)
        assert torch.equal(pickle.loads(pickle.dumps(transform))(frames, rng(seed)), changed)
        assert torch.equal(transform.with_label(frames, 3, rng(seed))[0], changed)
        assert set(changed.to(torch.int64).flatten().tolist()) <= {0, *frames.to(torch.int64).flatten().tolist()}
    for wrong in (frames[0], frames[:, :1], frames.numpy()):
        with pytest.raises(InputError, match=r"expected a tensor of frames \(T, 2, H, W\)"):
            transform(wrong, rng())


def test_all_frames_and_both_channels_move_alike():
    frames = torch.zeros(3, 2, 21, 21)
    frames[..., 12, 13] = 1
    for transform in OF_FRAMES[:4]:
        for seed in range(10):
            moved = transform(frames, rng(seed))
            assert bool((moved == moved[:1, :1]).all())


def test_shift_of_frames_by_definition():
    frames = torch.arange(2 * 5 * 7).view(1, 2, 5, 7) + 1
    seen = set()
    for seed in range(300):
        again = rng(seed)
        dy, dx = int(again.integers(-2, 3)), int(again.integers(-3, 4))
        seen.add((dy, dx))
        moved = tf.ShiftFrames(0.5)(frames, rng(seed))
        for y in range(5):
            for x in range(7):
                old_y, old_x = y - dy, x - dx
                inside = 0 <= old_y < 5 and 0 <= old_x < 7
                assert moved[0, 1, y, x] == (frames[0, 1, old_y, old_x] if inside else 0)
    assert len(seen) == 35


def test_turns_by_hand():
    """A quarter turn is exact; no turn and no zoom change nothing."""
    frames = torch.from_numpy(rng(1).integers(0, 9, (2, 2, 8, 8)))
    quarter = tf.frames.resampled(None, frames, np.array([[0.0, 1.0], [-1.0, 0.0]]))
    assert torch.equal(quarter, torch.rot90(frames, 1, (-2, -1)))
    assert torch.equal(tf.RotateFrames(0)(frames, rng()), frames)
    assert torch.equal(tf.ScaleFrames(1, 1)(frames, rng()), frames)
    assert torch.equal(tf.FlipFrames(1.0)(frames, rng()), frames.flip(-1))
    doubled = tf.ScaleFrames(2, 2)(frames, rng())
    assert torch.equal(doubled[..., ::2, ::2], frames[..., 2:6, 2:6])
    assert torch.equal(doubled[..., 1::2, 1::2], frames[..., 2:6, 2:6])
    halved = tf.ScaleFrames(0.5, 0.5)(frames, rng())
    assert halved[..., :2, :].sum() == halved[..., 6:, :].sum() == halved[..., :2].sum() == halved[..., 6:].sum() == 0


def test_turns_go_both_ways_and_as_far_as_they_say():
    frames = torch.zeros(1, 2, 101, 101)
    frames[..., 49:52, 89:92] = 1
    angles = []
    for seed in range(200):
        y, x = (float(axis.double().mean()) for axis in tf.RotateFrames(30)(frames, rng(seed))[0, 0].nonzero().T)
        angles.append(math.degrees(math.atan2(y - 50, x - 50)))
    assert -31.5 < min(angles) < -27
    assert 27 < max(angles) < 31.5


def test_cutout():
    frames = torch.ones(2, 2, 20, 30)
    shares = []
    for seed in range(200):
        gone = tf.Cutout(0.5)(frames, rng(seed))[0, 0].numpy() == 0
        assert np.array_equal(gone, np.outer(gone.any(1), gone.any(0)))
        shares.append(gone.mean())
    assert max(shares) <= 0.25
    assert abs(np.mean(shares) - 0.0625) < 0.02
    assert torch.equal(tf.Cutout(0.0)(frames, rng()), frames)
    assert torch.equal(tf.Cutout(1.0, 0)(frames, rng()), frames)


def batch():
    frames = torch.from_numpy(rng(5).integers(0, 9, (6, 4, 2, 8, 10)).astype(np.uint8))
    return frames, torch.tensor([0, 1, 2, 0, 1, 2])


def test_mixup_by_definition():
    frames, labels = batch()
    mixed, targets = tf.MixUp(0.4)(frames, labels, 3, rng(1))
    again = rng(1)
    partner, share = again.permutation(6), again.beta(0.4, 0.4, 6)
    for n in range(6):
        wanted = share[n] * frames[n].double() + (1 - share[n]) * frames[partner[n]].double()
        assert torch.allclose(mixed[n].double(), wanted, atol=1e-5)
        weights = np.eye(3)[labels[n]] * share[n] + np.eye(3)[labels[partner[n]]] * (1 - share[n])
        assert np.allclose(targets[n], weights, atol=1e-6)


def test_cutmix_counts_events():
    """Every pixel is of one of the two, those of the partner form a box, and classes are weighed by events."""
    frames = torch.zeros(2, 4, 2, 8, 10, dtype=torch.uint8)
    frames[0], frames[1] = 1, 3
    labels = torch.tensor([0, 1])
    seen = 0
    for seed in range(60):
        mixed, targets = tf.CutMix()(frames, labels, 2, rng(seed))
        assert mixed.dtype == torch.uint8
        if rng(seed).permutation(2).tolist() == [0, 1]:
            assert torch.equal(mixed, frames)
            continue
        seen += 1
        for n, own in ((0, 1), (1, 3)):
            foreign = (mixed[n] != own).numpy()
            box = [foreign.any(tuple(set(range(4)) - {axis})) for axis in range(4)]
            assert np.array_equal(foreign, np.einsum("t,c,h,w->tchw", *box))
            total = int(mixed[n].sum())
            theirs = int(foreign.sum()) * (4 - own)
            assert targets[n].tolist() == pytest.approx([1 - theirs / total, theirs / total][:: 1 - 2 * n], abs=1e-6)
    assert seen > 10
    empty = torch.zeros_like(frames)
    assert torch.equal(tf.CutMix()(empty, labels, 2, rng())[1], torch.eye(2))


@pytest.mark.parametrize("mix", [tf.MixUp(), tf.CutMix()], ids=repr)
def test_mixing(mix):
    frames, labels = batch()
    mixed, targets = mix(frames, labels, 4, rng(3))
    assert mixed.shape == frames.shape
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert bool((targets >= 0).all())
    assert torch.equal(mixed, pickle.loads(pickle.dumps(mix))(frames, labels, 4, rng(3))[0])
    with pytest.raises(InputError, match="labels run from 0 to 2; expected 0 to 1"):
        mix(frames, labels, 2, rng())
    with pytest.raises(InputError, match=r"expected \(N, T, 2, H, W\) and \(N,\)"):
        mix(frames[0], labels, 3, rng())


# ---------------------------------------------------------------------------------------------------- data sets


class Recorded:
    """A data set in memory."""

    name, split, split_name, class_names, sensor_size = "made", "all", "none", ("a", "b"), SIZE
    labels, ids = np.array([0, 1, 0]), ["x", "y", "z"]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return random_events(np.random.default_rng(index), 500, SIZE), int(self.labels[index])


CHAIN = tf.Compose(tf.Flip(0.5, {0: 1, 1: 0}), tf.EventDrop(), tf.ToFrames(4, size=(15, 17)), tf.ShiftFrames(0.2))


def test_data_sets_through_a_transform():
    """Neither the order nor the number of processes changes an item; the seed and the pass do."""
    data = tf.Transformed(Recorded(), CHAIN, seed=3)
    assert len(data) == 3
    items = list(data)
    assert [label in (0, 1) for _, label in items] == [True] * 3
    assert torch.equal(data[-1][0], items[2][0])
    assert torch.equal(pickle.loads(pickle.dumps(data))[1][0], items[1][0])
    for workers in (0, 2):
        frames, labels = next(iter(DataLoader(data, batch_size=3, num_workers=workers)))
        assert torch.equal(frames, torch.stack([frames for frames, _ in items]))
        assert labels.tolist() == [label for _, label in items]
    data.epoch = 1
    assert not all(torch.equal(data[i][0], items[i][0]) for i in range(3))
    other = tf.Transformed(Recorded(), CHAIN, seed=4)
    assert not all(torch.equal(other[i][0], items[i][0]) for i in range(3))
    with pytest.raises(IndexError, match="recording 3 of made; it has 3"):
        data[3]


def test_frames_of_events():
    events = random_events(rng(1), 500, SIZE)
    frames = tf.ToFrames(4, "number", (15, 17))(events, rng())
    assert frames.dtype == torch.uint16
    assert np.array_equal(frames, to_frames(events, 4, "number", size=(15, 17)))
    many = tf.ToFrames(1)(at([0] * 300), rng())
    assert int(many.view(torch.int16)[0, 1, 0, 0]) == 300
    assert default_collate([tf.ToFrames(1)(at([0]), rng()), many]).shape == (2, 1, 2, 30, 34)
    assert tf.ToFrames(1, dtype="uint8")(at([0] * 255), rng()).dtype == torch.uint8
    with pytest.raises(InputError, match="300 events"):
        tf.ToFrames(1, dtype="uint8")(at([0] * 300), rng())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.Shift(1.5), "Shift: most is 1.5; expected a number from 0 to 1"),
        (lambda: tf.TimeJitter(-1), "TimeJitter: sigma_us is -1; expected a number from 0 to 1e"),
        (lambda: tf.DropEvents("a"), "DropEvents: most is 'a'"),
        (lambda: tf.RandomWindow(0), "RandomWindow: duration_us is 0"),
        (lambda: tf.Flip(True), "Flip: probability is True"),
        (lambda: tf.ToFrames(0), "num_frames is 0"),
        (lambda: tf.Crop((0, 4)), r"Crop: size is \(0, 4\); expected a \(height, width\)"),
        (lambda: tf.Crop(20), "Crop: size is 20"),
        (lambda: tf.Crop((20, 20, 2)), r"Crop: size is \(20, 20, 2\)"),
        (lambda: tf.ToFrames(4, size=20), "ToFrames: size is 20"),
        (lambda: tf.ToFrames(4, size=(0, 0)), r"ToFrames: size is \(0, 0\)"),
        (lambda: tf.ToFrames(4, dtype="uint7"), "dtype is 'uint7'"),
        (lambda: tf.Denoise(math.inf), "Denoise: window_us is inf"),
        (lambda: tf.TimeJitter(1e19), "TimeJitter: sigma_us is 1e"),
        (lambda: tf.Compose(tf.Flip), "transform is <class"),
        (lambda: tf.MixUp(0), "MixUp: alpha is 0"),
        (lambda: tf.Cutout(math.nan), "Cutout: most is nan"),
    ],
)
def test_wrong_parameters(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_parameters_and_lists_of_numpy():
    assert tf.Denoise(np.int64(1000)) == tf.Denoise(1000)
    assert tf.Flip(np.float32(0.5)) == tf.Flip(0.5)
    assert tf.Crop((np.int64(4), 5))(random_events(rng(1), 50, SIZE), rng()).sensor_size == (5, 4)
    assert tf.Compose([tf.Flip(), tf.Shift()]) == tf.Compose(tf.Flip(), tf.Shift())


def test_transforms_within_each_other_draw_their_own_numbers(tmp_path):
    """Two mirrors that always agree would undo each other."""
    twice = tf.Transformed(tf.Transformed(Recorded(), tf.Flip(0.5)), tf.Flip(0.5))
    plain, mirrored = Recorded(), 0
    for epoch in range(20):
        twice.epoch = epoch
        assert twice.dataset.epoch == epoch
        mirrored += sum(not np.array_equal(twice[i][0].x, plain[i][0].x) for i in range(3))
    assert 15 < mirrored < 45
    data = labelled(tmp_path / "a.npz")
    mirrored = 0
    for epoch in range(10):
        inner = tf.Transformed(data, tf.Flip(0.5))
        inner.epoch = epoch
        outer = tf.Transformed(FrameCache(inner, 2, root=tmp_path / "cache"), tf.FlipFrames(0.5))
        outer.epoch = epoch
        frames = [torch.from_numpy(to_frames(data[i], 2)).int() for i in range(3)]
        mirrored += sum(not torch.equal(outer[i][0].int(), frames[i]) for i in range(3))
    assert 5 < mirrored < 25


@dataclasses.dataclass(frozen=True)
class Masked(tf.Transform):
    mask: np.ndarray

    def __call__(self, events, rng):
        kept = self.mask[events.y, events.x]
        return Events(events.t[kept], events.x[kept], events.y[kept], events.p[kept], events.sensor_size)


def test_a_cache_tells_arrays_apart(tmp_path):
    """Their repr leaves out the middle."""
    masks = [np.ones((SIZE[1], SIZE[0]), dtype=bool) for _ in range(2)]
    masks[1][SIZE[1] // 2] = False
    data = labelled(tmp_path / "a.npz")
    made = [FrameCache(tf.Transformed(data, Masked(mask)), 4, root=tmp_path / "cache") for mask in masks]
    assert made[0].folder != made[1].folder
    assert made[0].frames.sum() > made[1].frames.sum()


def test_what_is_no_data_set_of_recordings(tmp_path):
    part = Subset(Recorded(), [0])
    with pytest.raises(InputError, match=r"Transformed got a Subset, which has no 'labels'.*Subset of all"):
        tf.Transformed(part, tf.Flip())
    np.savez(tmp_path / "a.npz", t=[1], x=[1], y=[1], p=[1], offsets=[0, 1], label=["wave"], sensor_size=SIZE)
    with pytest.raises(InputError, match="expected a whole number, the index of its class"):
        tf.Transformed(EventArchive(tmp_path / "a.npz"), tf.Flip())


def test_archives_and_filters_before_the_cache(tmp_path):
    recordings = [random_events(np.random.default_rng(n), 300, SIZE) for n in range(3)]
    columns = {name: np.concatenate([getattr(events, name) for events in recordings]) for name in "txyp"}
    np.savez(tmp_path / "a.npz", **columns, offsets=range(0, 901, 300), label=[1, 0, 1], sensor_size=SIZE)
    data = tf.Transformed(EventArchive(tmp_path / "a.npz"), tf.Denoise(100_000))
    assert [label for _, label in data] == [1, 0, 1]
    clean = [tf.Denoise(100_000)(events, rng()) for events in recordings]
    assert [events for events, _ in data] == clean
    cached = FrameCache(data, 4, root=tmp_path / "cache")
    assert np.array_equal(cached.frames, np.stack([to_frames(events, 4) for events in clean]))
    other = FrameCache(tf.Transformed(data.dataset, tf.Denoise(90_000)), 4, root=tmp_path / "cache")
    assert other.folder != cached.folder
    np.savez(tmp_path / "b.npz", **columns, offsets=range(0, 901, 300))
    with pytest.raises(InputError, match="b has no labels; expected a class for each recording"):
        tf.Transformed(EventArchive(tmp_path / "b.npz"), tf.Denoise(1))


def labelled(path):
    """An archive of three recordings of the classes 1, 0 and 1."""
    recordings = [random_events(np.random.default_rng(n), 300, SIZE) for n in range(3)]
    columns = {name: np.concatenate([getattr(events, name) for events in recordings]) for name in "txyp"}
    np.savez(path, **columns, offsets=range(0, 901, 300), label=[1, 0, 1], sensor_size=SIZE)
    return EventArchive(path)


def test_a_cache_of_a_transform_that_changes_classes(tmp_path):
    """The frames would be of one class and the label of another."""
    data = tf.Transformed(labelled(tmp_path / "a.npz"), tf.Flip(1.0, labels={0: 1, 1: 0}))
    assert [label for _, label in data] == [0, 1, 0]
    with pytest.raises(RecordingError, match=r"Flip\(.* makes class 0 of class 1, .*Transformed\(FrameCache\("):
        FrameCache(data, 4, root=tmp_path / "cache")
    after = tf.Transformed(FrameCache(data.dataset, 4, root=tmp_path / "cache"), tf.FlipFrames(1.0, {0: 1, 1: 0}))
    assert [label for _, label in after] == [0, 1, 0]


class First(tf.Transform):
    """A transform of a user's, with the repr of any object: one that is gone may have had the same."""

    def __init__(self, number):
        self.number = number

    def __call__(self, events, rng):
        return events[: self.number]


@pytest.mark.parametrize("make", [First, lambda n: tf.Compose(tf.Denoise(9), First(n))])
def test_a_cache_of_a_transform_that_does_not_say_its_parameters(tmp_path, make):
    data = tf.Transformed(labelled(tmp_path / "a.npz"), make(10))
    with pytest.raises(InputError, match=r"holds <.*First object at 0x\w+>, .*a frozen dataclass"):
        FrameCache(data, 4, root=tmp_path / "cache")


def test_the_code_of_filters_names_the_cache(monkeypatch):
    monkeypatch.setattr(fingerprint.Path, "read_bytes", lambda path: seen.append(path.as_posix()) or b"")
    seen = []
    fingerprint.code_digest.__wrapped__()
    assert any(path.endswith("rsnn/data/transforms/filters.py") for path in seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": None}, r"transform is None; expected a Transform, such as those of rsnn\.data\.transforms"),
        ({"transform": [tf.Denoise(9)]}, "which Compose puts together"),
        ({"transform": CHAIN, "seed": -1}, "seed is -1; expected a whole number of at least 0"),
        ({"transform": CHAIN, "seed": 0.5}, r"seed is 0\.5"),
    ],
)
def test_what_is_no_transform_and_no_seed(arguments, message):
    with pytest.raises(InputError, match=message):
        tf.Transformed(Recorded(), **arguments)


def test_draws_depend_on_the_seed_alone():
    """Not on how a number is written, nor on what a set says first, nor on a transform that says nothing."""
    data = Recorded()

    def drawn(transform):
        return [tuple(item[0].x[:20]) for item in tf.Transformed(data, transform, seed=5)]

    assert drawn(tf.Flip(0.5)) == drawn(tf.Flip(np.float32(0.5))) == drawn(tf.Compose(tf.Flip(0.5)))
    inner = tf.Transformed(data, tf.Flip())
    inner.epoch = 5
    assert tf.Transformed(inner, tf.Flip()).epoch == 5


@dataclasses.dataclass(frozen=True)
class Holding(tf.Transform):
    what: object

    def __call__(self, events, rng):
        return events


def countdown(n):
    def again(k):
        return n and again(k - 1)

    return again


def looped():
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "what",
    [
        countdown(3), looped(), torch.zeros(3, dtype=torch.bfloat16), torch.eye(3).to_sparse(),
        torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64).conj(), "a...b", frozenset("abc"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_a_transform_may_hold(tmp_path, what):
    data = tf.Transformed(labelled(tmp_path / "a.npz"), Holding(what))
    assert len(list(data)) == 3
    assert isinstance(fingerprint.told(data.transform), str)
    if not isinstance(what, torch.Tensor) or (what.layout == torch.strided and not what.is_meta):
        assert len(FrameCache(data, 2, root=tmp_path / "cache")) == 3


def test_a_file_stays_open(tmp_path):
    with (tmp_path / "a.txt").open("w") as file:
        assert len(tf.Transformed(labelled(tmp_path / "a.npz"), Holding(file))) == 3
        fingerprint.told(Holding(file))
        file.write("still")


def test_texts_of_functions_and_sets_are_the_same_in_every_process():
    script = (
        "from rsnn.data.fingerprint import told\n"
        "print(told((frozenset('abcdef'), {'x', 'yy', 'zzz'}, lambda a: a in {'p', 'q', 'r'})))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(texts) == 1
