"""Simulated gestures: who performs, which way arms turn in the image, and what a clip is made of."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import rsnn
from rsnn.data import FrameCache
from rsnn.data.datasets import gesture
from rsnn.data.simulate import DVSParameters, SimulatedGestures
from rsnn.data.simulate.gestures import SUBJECTS, others
from rsnn.data.simulate.gestures.arms import LEFT, RIGHT, Arm, Performance
from rsnn.data.simulate.gestures.body import draw_body
from rsnn.data.simulate.gestures.classes import perform
from rsnn.data.simulate.gestures.draw import draw_shadow
from rsnn.data.simulate.gestures.film import STEP_US, track_arms
from rsnn.data.simulate.gestures.motion import Tempo, reach
from rsnn.data.simulate.gestures.others import INVENTIONS, perform_invention
from rsnn.data.simulate.gestures.scene import draw_scene
from rsnn.zoo.names import DATA


def tracks_of(name, seed, seconds=3.0):
    """Both arms of a performance in the image, [performer's right, left]."""
    rng = np.random.default_rng(seed)
    body, scene = draw_body(seed), draw_scene(rng)
    tempo = Tempo(np.arange(int(seconds * 1e6 / STEP_US)) * STEP_US * 1e-6, rng)
    performance = perform(gesture.CLASS_NAMES.index(name), body, tempo)
    return track_arms(performance, body, scene, np.zeros((tempo.t.size, 2))), scene


def turned(track):
    """Turns of the wrist about the middle of its path, clockwise in the image (x right, y down) above zero."""
    x, y = (track.joints[:, 2] - (track.joints[:, 2].max(0) + track.joints[:, 2].min(0)) / 2).T
    return np.unwrap(np.arctan2(y, x))[[0, -1]] @ [-1, 1] / (2 * np.pi)


def travelled(track):
    return np.abs(np.diff(track.joints[:, 2], axis=0)).sum()


# `right_arm_cw` of the data set runs top, left, bottom, right in the image: against the clock of whoever looks at it.
@pytest.mark.parametrize(
    ("name", "side", "sense"),
    [
        ("right_arm_cw", RIGHT, -1),
        ("right_arm_ccw", RIGHT, 1),
        ("left_arm_cw", LEFT, -1),
        ("left_arm_ccw", LEFT, 1),
    ],
)
def test_arms_turn_the_way_their_names_say_and_the_other_one_rests(name, side, sense):
    for seed in range(25):
        tracks, _ = tracks_of(name, seed)
        assert sense * turned(tracks[side]) > 0.5, seed
        assert travelled(tracks[side]) > 2 * travelled(tracks[1 - side]), seed


@pytest.mark.parametrize(("name", "side"), [("right_hand_wave", RIGHT), ("left_hand_wave", LEFT)])
def test_the_waving_hand_is_raised_on_its_own_side_of_the_image(name, side):
    for seed in range(25):
        tracks, scene = tracks_of(name, seed)
        shoulder, wrist = tracks[side].joints[:, 0].mean(0), tracks[side].joints[:, 2].mean(0)
        assert wrist[1] < shoulder[1] + 0.2 * scene.scale, seed
        assert (wrist[0] < scene.neck[0]) == (side == RIGHT), seed
        assert travelled(tracks[side]) > 2 * travelled(tracks[1 - side]), seed


def test_the_ten_gestures_of_two_hands_move_both():
    for name in ("hand_clap", "arm_roll", "air_drums"):
        for seed in range(15):
            right, left = tracks_of(name, seed)[0]
            assert 0.1 < travelled(right) / travelled(left) < 10, (name, seed)


@pytest.mark.parametrize(("name", "side"), [("right_hand_wave", RIGHT), ("left_hand_wave", LEFT)])
def test_waving_hands_go_back_and_forth(name, side):
    for seed in range(25):
        x = tracks_of(name, seed, seconds=6.0)[0][side].joints[:, 3, 0]
        turns = np.count_nonzero(np.diff(np.sign(np.diff(x[::10]))))
        assert turns >= 5, seed


def test_a_guitar_is_strummed_by_one_hand_and_held_by_the_other():
    for seed in range(25):
        tracks, scene = tracks_of("air_guitar", seed)
        ways = np.array([np.abs(np.diff(track.joints[:, 3], axis=0)).sum() for track in tracks])
        strumming, holding = tracks[ways.argmax()], tracks[ways.argmin()]
        assert ways.max() > 2 * ways.min(), seed
        assert strumming.joints[:, 2, 1].mean() > scene.neck[1] + 0.15 * scene.scale, seed  # before the belly
        middle = np.abs([track.joints[:, 2, 0].mean() - scene.neck[0] for track in (strumming, holding)])
        assert middle[0] < middle[1] + 0.1 * scene.scale, seed


@pytest.mark.parametrize("invention", INVENTIONS, ids=lambda invention: invention.__name__[1:])
def test_inventions_are_kept_up_for_the_whole_clip(invention):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        body, tempo = draw_body(seed), Tempo(np.arange(0, 8, STEP_US * 1e-6), rng)
        performance = perform_invention(invention, body, tempo)
        assert np.ptp(performance.twist) < 1.2
        for moved in (performance.trunk, performance.head):  # their pictures have a margin of so much
            assert np.abs(moved).max() < 0.1
        torso = np.zeros((tempo.t.size, 2)) + performance.trunk
        tracks = track_arms(performance, body, draw_scene(rng), torso)
        places = np.concatenate([*(track.joints[:, 2] for track in tracks), 100 * (torso + performance.head)], axis=1)
        for part in np.split(places, 2):
            assert np.ptp(part, axis=0).max() > 4, seed  # pixels
    assert invention.__doc__


def test_every_invention_is_drawn_and_none_often(monkeypatch):
    monkeypatch.setattr(others, "perform_invention", lambda kind, body, tempo: kind)
    tempo = Tempo(np.zeros(1), np.random.default_rng(0))
    drawn = Counter(perform(gesture.CLASS_NAMES.index("other_gestures"), draw_body(0), tempo) for _ in range(1000))
    assert 25 <= len(INVENTIONS) == len(set(INVENTIONS)) <= 40
    assert set(drawn) == set(INVENTIONS)
    assert max(drawn.values()) < 60


def test_movements_hurry_and_rest_but_go_on():
    for seed in range(60):
        tempo = Tempo(np.arange(0, 10, 0.002), np.random.default_rng(seed))
        phase = tempo.phase(2.0)
        assert np.all(np.diff(phase) > 0), seed
        assert 8 < (phase[-1] - phase[0]) / (2 * np.pi) < 40, seed
    assert all(1 <= Tempo(np.zeros(1), np.random.default_rng(seed)).between(1, 3) <= 3 for seed in range(20))


def test_a_bent_hand_and_a_turned_trunk_show_in_the_image():
    body, scene = draw_body(5), draw_scene(np.random.default_rng(5))
    wrist = np.tile([0.1, -0.1, 0.05], (2, 1))
    rest = Arm(np.tile([0.1, 0.5, 0.0], (2, 1)))

    def tracks(flex=0.0, twist=0.0):
        performance = Performance([Arm(wrist, flex=flex), rest], twist=twist)
        return track_arms(performance, body, scene, np.zeros((2, 2)))

    plain, bent, turned_right = tracks()[RIGHT], tracks(flex=1.2)[RIGHT], tracks(twist=0.5)
    assert bent.hand[0, 0] < 0.75 * plain.hand[0, 0]
    assert np.allclose(bent.joints[:, :3], plain.joints[:, :3])
    assert turned_right[RIGHT].near[0] > plain.near[0] > tracks(twist=-0.5)[RIGHT].near[0]
    assert turned_right[LEFT].near[0] < tracks()[LEFT].near[0]


def test_shadows_darken_what_they_fall_on_and_nothing_else():
    image = np.full((128, 128), 0.5, dtype=np.float32)
    draw_shadow(image, (40.0, 40.0), (80.0, 40.0), 4.0, 8.0, 0.3)
    assert image[40, 60] == pytest.approx(0.5 * 0.7)
    assert image[40, 40] == pytest.approx(0.5 * 0.7)
    assert image[44, 60] == pytest.approx(0.5 * 0.85)  # at its edge half of that
    assert np.all(image[60:] == 0.5)
    assert np.all(image[:, 95:] == 0.5)
    draw_shadow(image, (300.0, 300.0), (310.0, 300.0), 4.0, 8.0, 0.3)  # outside: nothing to do


def test_arms_keep_their_length_and_reach_what_is_near():
    body = draw_body(3)
    wanted = np.array([[0.1, 0.2, 0.25], [0.3, -0.2, 0.1], [2.0, 0.0, 0.0]])
    elbow, wrist = reach(wanted, body, np.array([0.5, 1.0, -0.3]))
    assert np.allclose(np.linalg.norm(elbow, axis=1), body.upper_arm)
    assert np.allclose(np.linalg.norm(wrist - elbow, axis=1), body.forearm)
    assert np.allclose(wrist[:2], wanted[:2], atol=1e-6)
    assert np.linalg.norm(wrist[2]) < body.upper_arm + body.forearm  # too far away: stretched, not torn off


def test_a_clip_depends_on_its_seed_split_and_number_alone():
    clips = SimulatedGestures(30, seed=4, duration_s=(0.3, 0.5))
    events, label = clips[12]
    again, _ = SimulatedGestures(500, seed=4, duration_s=(0.3, 0.5))[12]
    assert label == clips.labels[12] == 12 % 11
    assert clips.ids[12] == "train-seed4-12"
    assert all(np.array_equal(getattr(events, field), getattr(again, field)) for field in "txyp")
    others = (SimulatedGestures(30, seed=5, duration_s=(0.3, 0.5))[12][0], clips[23][0])
    others += (SimulatedGestures(30, seed=4, split="test", duration_s=(0.3, 0.5))[12][0],)
    assert all(not np.array_equal(events.t, other.t) for other in others)


def test_performers_of_the_parts_are_different_people():
    people = {
        split: {SimulatedGestures(300, seed=seed, split=split).subject(i) for seed in (0, 9) for i in range(300)}
        for split in SUBJECTS
    }
    assert len(people["train"]) > 590
    assert not people["train"] & people["validation"]
    assert not people["train"] & people["test"]
    assert not people["validation"] & people["test"]


def test_clips_look_like_recordings_of_the_sensor():
    clips = SimulatedGestures(11, seed=1, duration_s=(0.8, 0.8))
    assert clips.labels.tolist() == list(range(11))
    for events, _ in clips:
        assert events.sensor_size == (128, 128)
        assert 0 <= events.t[0] < 100_000
        assert events.t[-1] <= 800_000
        assert 4_000 < len(events) / 0.8 < 2_000_000
        assert 0.3 < events.p.mean() < 0.8


def test_class_names_are_those_of_the_models():
    assert tuple(SimulatedGestures.class_names) == gesture.CLASS_NAMES == DATA["gesture"].class_names


def test_an_ideal_sensor_can_be_asked_for():
    noisy, _ = SimulatedGestures(1, duration_s=(0.3, 0.3))[0]
    clean, _ = SimulatedGestures(1, duration_s=(0.3, 0.3), parameters=DVSParameters(pos_thres=0.3, neg_thres=0.3))[0]
    assert 0 < len(clean) != len(noisy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": -1}, "num_samples is -1"),
        ({"num_samples": 2.5}, "num_samples is 2.5"),
        ({"num_samples": 1, "seed": -3}, "seed is -3"),
        ({"num_samples": 1, "split": "tset"}, "no split 'tset'.*test"),
        ({"num_samples": 1, "duration_s": (2, 1)}, r"duration_s is \(2, 1\)"),
        ({"num_samples": 1, "duration_s": 1.5}, "duration_s is 1.5; expected .* pair"),
        ({"num_samples": 1, "duration_s": [1.5]}, r"duration_s is \[1.5\]"),
        ({"num_samples": 1, "parameters": "claen"}, "no preset 'claen'.*Did you mean 'clean'"),
        ({"num_samples": 1, "parameters": {}}, "parameters is a dict"),
        ({"num_samples": True}, "num_samples is True"),
        ({"num_samples": 1, "duration_s": (0.01, 1)}, "expected 0.1 <= shortest"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(rsnn.RSNNError, match=message):
        SimulatedGestures(**arguments)


def test_numbers_beyond_the_end_are_an_index_error():
    with pytest.raises(IndexError, match="clip 3 of 3"):
        SimulatedGestures(3)[3]
    with pytest.raises(IndexError, match="clip 3 of 3"):
        SimulatedGestures(3).subject(3)
    assert SimulatedGestures(3).subject(-1) == SimulatedGestures(3).subject(2)


def test_frames_of_clips_can_be_cached(tmp_path):
    clips = SimulatedGestures(2, seed=3, duration_s=(0.3, 0.4))
    cache = FrameCache(clips, num_frames=4, root=tmp_path, workers=0)
    frames, label = cache[1]
    expected = rsnn.to_frames(clips.events(1), num_frames=4)
    assert label == 1
    assert np.array_equal(np.asarray(frames), expected)
    assert SimulatedGestures(2, seed=4).fingerprint != clips.fingerprint
