"""Stills in repeated closed-loop smooth movement."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from rsnn.data.simulate import DVSParameters, moving_image, to_events
from rsnn.errors import InputError


def ramp(axis, side=40):
    """A picture that brightens along one axis by 0.01 a cell, from 0.3 on."""
    values = 0.3 + 0.01 * np.arange(side)
    return np.broadcast_to(values if axis == 1 else values[:, None], (side, side)).astype(np.float32).copy()


def test_the_picture_goes_round_a_diamond_and_comes_back():
    # As many cells as sensor pixels and margin: a cell is a pixel, so that a shift of s lowers a ramp by 0.01 s.
    seen = {}
    for axis in (0, 1):
        frames = list(moving_image(ramp(axis, 36), size=(32, 32), distance=2, loop_us=80_000, loops=2, gamma=1))
        middle = [float(frame[16, 16]) for frame, _ in frames]
        seen[axis] = [(0.3 + 0.01 * 18 - value) / 0.01 for value in middle]
        times = [t for _, t in frames]
    assert len(times) == 2 * 4 * 8 + 1  # a quarter of a pixel a frame
    assert times[-1] == 160_000
    assert set(np.diff(times).tolist()) == {2500}
    corners = [(-2, 0), (0, -2), (2, 0), (0, 2)]  # left, up, right, down, as the picture moves
    for number, (right, down) in enumerate(corners * 2 + corners[:1]):
        assert seen[1][8 * number] == pytest.approx(right, abs=1e-3)
        assert seen[0][8 * number] == pytest.approx(down, abs=1e-3)
    steps = np.hypot(np.diff(seen[1]), np.diff(seen[0]))
    assert steps == pytest.approx(np.sqrt(2) / 4, abs=1e-3)  # smooth: always the same speed


def test_a_loop_gives_the_movement_of_cifar10_dvs_by_default():
    frames = list(moving_image(np.zeros((32, 32, 3), dtype=np.uint8)))
    assert frames[-1][1] == 1_200_000
    assert len(frames) == 6 * 40 + 1
    assert frames[0][0].shape == (128, 128)


def test_a_closed_loop_brings_as_many_events_up_as_down(rng):
    picture = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    events = to_events(moving_image(np.asarray(picture), size=(48, 48), loops=4), DVSParameters())
    assert len(events) > 20_000
    ups, downs = (np.bincount(events.y[events.p == p] * 48 + events.x[events.p == p], minlength=2304) for p in (1, 0))
    assert np.abs(ups - downs).max() <= 2  # but for a threshold, every pixel ends where it began
    # The first loop begins at rest; the others are alike.
    loops = [np.count_nonzero((events.t > k * 200_000) & (events.t <= (k + 1) * 200_000)) for k in range(4)]
    assert loops[1:] == pytest.approx([loops[1]] * 3, rel=0.01)


def test_the_sides_of_the_diamond_show_other_edges():
    # A vertical edge is seen on all four ways, each time from the side that the way comes from.
    edge = np.zeros((40, 40), dtype=np.uint8)
    edge[:, 20:] = 200
    events = to_events(moving_image(edge, size=(32, 32), loops=1), "clean", seed=1)
    ways = [events.p[(events.t > k * 50_000) & (events.t <= (k + 1) * 50_000)].mean() for k in range(4)]
    assert ways == [0.0, 0.0, 1.0, 1.0]  # to the right, dark covers bright


def test_files_arrays_and_shapes(tmp_path, rng):
    array = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "still.png")
    from_array, from_file = ([f for f, _ in moving_image(s, size=(40, 20))] for s in (array, tmp_path / "still.png"))
    assert np.array_equal(from_array[7], from_file[7])
    assert from_array[0].shape == (20, 40)
    with (tmp_path / "still.png").open("rb") as file:
        assert np.array_equal(next(moving_image(file, size=(40, 20)))[0], from_file[0])


def test_large_pictures_are_reduced_without_aliasing():
    # A chequerboard of single cells, far finer than the sensor, is an even grey.
    fine = (np.indices((800, 800)).sum(0) % 2 * 255).astype(np.uint8)
    frame, _ = next(moving_image(fine, size=(50, 50), gamma=1))
    assert frame == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shape", [(320, 320), (320, 320, 3)])
def test_large_pictures_of_floats_may_overshoot_when_they_are_reduced(shape):
    chequers = np.kron(np.indices((10, 10)).sum(0) % 2, np.ones((32, 32)))
    picture = np.broadcast_to(chequers[..., None], shape) if len(shape) == 3 else chequers
    frame, _ = next(moving_image(picture, gamma=1))
    assert (frame.min(), frame.max()) == (0, 1)


def test_images_of_pillow_and_photos_lying_on_their_side(tmp_path):
    upright = np.zeros((60, 40), dtype=np.uint8)
    upright[:30] = 255
    expected, _ = next(moving_image(upright, size=(20, 30)))
    assert np.array_equal(next(moving_image(Image.fromarray(upright), size=(20, 30)))[0], expected)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn the picture right by a quarter
    Image.fromarray(np.rot90(upright)).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(next(moving_image(tmp_path / "photo.png", size=(20, 30)))[0], expected)


def test_numbers_of_numpy_and_fractions_will_do():
    plain = list(moving_image(ramp(0), distance=2.5, loop_us=100_000, loops=2, gamma=2))
    other = list(
        moving_image(
            ramp(0), distance=Fraction(5, 2), loop_us=np.int64(100_000), loops=np.uint8(2), gamma=np.float32(2)
        )
    )
    assert [t for _, t in other] == [t for _, t in plain]
    assert all(np.array_equal(one, two) for (one, _), (two, _) in zip(plain, other, strict=True))


def test_frames_cannot_be_changed_since_they_come_again():
    frame, _ = next(moving_image(ramp(0)))
    with pytest.raises(ValueError, match="read-only"):
        frame[0, 0] = 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": (0, 4)}, "sides between"),
        ({"distance": True}, "distance is True"),
        ({"loops": True}, "loops is True"),
        ({"distance": 0}, "distance is 0"),
        ({"distance": 200}, "distance is 200"),
        ({"distance": float("nan")}, "distance is nan"),
        ({"loop_us": 2.5}, "loop_us is 2.5"),
        ({"loop_us": 3}, "loop_us is 3; expected at least 40"),
        ({"loops": 0}, "loops is 0"),
        ({"gamma": -1}, "gamma is -1"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, words):
    with pytest.raises(InputError, match=words):
        moving_image(ramp(0), **arguments)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 2), dtype=np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((4, 4), dtype=np.int32), "holds int32"),
        (np.full((4, 4), 2.0), "values from 2.0 to 2.0"),
        (np.full((4, 4), np.nan), "values from nan"),
        ("missing.png", "missing.png"),
        (None, "image is None; expected a file, an image of Pillow or a NumPy array"),
    ],
)
def test_bad_pictures_are_refused_at_once(image, words):
    with pytest.raises(InputError, match=words):
        moving_image(image)
