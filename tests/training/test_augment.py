from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rsnn
from rsnn.errors import ConfigError
from rsnn.training.augment import Augment


def events(n=400, size=(20, 10), seed=0):
    rng = np.random.default_rng(seed)
    return rsnn.Events(
        t=np.sort(rng.integers(1000, 51_000, n)),
        x=rng.integers(size[0], size=n),
        y=rng.integers(size[1], size=n),
        p=rng.integers(2, size=n),
        sensor_size=size,
    )


def rng(seed=0):
    return np.random.default_rng(seed)


def test_nothing_asked_for_changes_nothing():
    assert Augment()(events(), rng()) == events()


@given(st.integers(0, 50), st.floats(0, 90), st.floats(0, 0.5), st.floats(0, 0.4), st.floats(0, 0.9))
def test_what_is_left_are_events_of_the_same_sensor_in_order(seed, degrees, scale, cut, drop):
    changed = Augment(rotate_degrees=degrees, scale=scale, shift=0.2, cut=cut, drop=drop)(events(), rng(seed))
    assert changed.sensor_size == (20, 10)
    assert set(changed.t.tolist()) <= set(events().t.tolist())


def test_a_flip_is_the_mirror_image():
    mirrored = Augment(flip=1.0)(events(), rng())
    np.testing.assert_array_equal(mirrored.x, 19 - events().x)
    np.testing.assert_array_equal(mirrored.y, events().y)


def test_inverting_swaps_the_polarities_and_nothing_else():
    inverted = Augment(invert=1.0)(events(), rng())
    np.testing.assert_array_equal(inverted.p, 1 - events().p)
    np.testing.assert_array_equal(inverted.x, events().x)


def test_a_shift_moves_all_events_alike_and_drops_those_that_leave():
    one = rsnn.Events(t=[0, 1, 2], x=[9, 10, 11], y=[5, 5, 5], p=[1, 1, 1], sensor_size=(20, 10))
    for seed in range(20):
        moved = Augment(shift=0.2)(one, rng(seed))
        assert np.diff(moved.x).tolist() == [1, 1]
        assert abs(int(moved.x[0]) - 9) <= 4
        assert abs(int(moved.y[0]) - 5) <= 2


def test_cut_and_drop_take_at_most_their_share():
    for seed in range(10):
        cut = Augment(cut=0.1)(events(), rng(seed))
        assert cut.duration_us >= 0.79 * events().duration_us
        assert len(Augment(drop=0.3)(events(), rng(seed))) >= 0.6 * len(events())


def test_the_draw_decides():
    augment = Augment(rotate_degrees=20, drop=0.3)
    assert augment(events(), rng(1)) == augment(events(), rng(1))
    assert augment(events(), rng(1)) != augment(events(), rng(2))


@pytest.mark.parametrize("field", [{"flip": 1.1}, {"cut": 0.5}, {"drop": -0.1}, {"rotate_degrees": 181.0}])
def test_values_out_of_range_are_refused(field):
    with pytest.raises(ConfigError, match=f"augment.{next(iter(field))}"):
        Augment(**field)
