from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsnn.data import FrameCache
from rsnn.errors import ConfigError, RecordingError
from rsnn.models import Preprocessing
from rsnn.training.augment import Augment
from rsnn.training.batches import FramesOf, Order, Plan, Share, loader
from rsnn.training.sources import open_part

counts = st.tuples(st.integers(8, 60), st.integers(1, 9), st.integers(1, 2), st.integers(1, 3))


@given(counts, st.integers(0, 3))
def test_two_processes_take_together_what_one_takes_with_the_doubled_batch(numbers, epoch):
    recordings, size, _, _ = numbers
    size = min(size, recordings // 2)
    one = list(Order(Plan(recordings, 2 * size), (0, 1), epoch))
    two = [list(Order(Plan(recordings, size, processes=2), (0, 1), epoch, rank)) for rank in (0, 1)]
    assert one == [a + b for a, b in zip(*two, strict=True)]


@given(counts, st.data())
def test_an_epoch_goes_on_where_it_was_interrupted(numbers, data):
    plan = Plan.of(*numbers)
    update = data.draw(st.integers(0, plan.updates))
    whole, rest = (list(Order(plan, (3,), 1, 0, first)) for first in (0, update))
    assert rest == whole[update * plan.accumulate :]
    assert len(Order(plan, (3,), 1, 0, update)) == len(rest)


@given(counts)
def test_no_recording_comes_twice_in_an_epoch_and_no_batch_is_short(numbers):
    plan = Plan.of(*numbers)
    batches = [b for rank in range(plan.processes) for b in Order(plan, (0,), 1, rank)]
    shown = [recording for batch in batches for _, recording in batch]
    assert len(shown) == len(set(shown))
    assert {len(batch) for batch in batches} == {plan.batch_size}
    assert plan.updates >= 1


def test_epochs_have_different_orders():
    plan = Plan(40, 8)
    assert list(Order(plan, (0,), 1)) != [[(1, i) for _, i in batch] for batch in Order(plan, (0,), 2)]


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 4))
def test_every_recording_is_measured_once_over_all_processes(recordings, size, processes):
    shares = [Share(recordings, size, rank, processes) for rank in range(processes)]
    assert sorted(i for share in shares for batch in share for _, i in batch) == list(range(recordings))
    assert all(len(share) == len(list(share)) for share in shares)


def test_too_few_recordings_for_the_processes():
    with pytest.raises(ConfigError, match="3 recordings to train on for 4 processes"):
        Plan.of(3, 16, 1, 4)


def test_a_recording_without_events_is_refused_with_a_cache_and_without(archive, tmp_path):
    arrays = dict(np.load(archive))
    more = {"offsets": arrays["offsets"][-1], "label": 0, "id": "nothing"}
    np.savez(tmp_path / "empty.npz", **{**arrays, **{name: np.append(arrays[name], one) for name, one in more.items()}})
    part = open_part(tmp_path / "empty.npz")
    said = r"recording nothing of empty: it has no events within the frames; expected at least one"
    preprocessing = Preprocessing((16, 16), num_frames=4)
    with pytest.raises(RecordingError, match=said):
        FrameCache(part.source, 4, size=(16, 16), root=tmp_path)
    for augment in (None, Augment()):
        frames = FramesOf(part, preprocessing, augment)
        assert frames[0, 2][0].any()
        with pytest.raises(RecordingError, match=said):
            frames[0, 24]
    for workers in (0, 1):  # what another process raises has no traceback for a message
        batches = loader(frames, Share(25, 5), workers)
        assert [len(labels) for _, (_, labels) in zip(range(4), batches, strict=False)] == [5] * 4
        with pytest.raises(RecordingError, match=f"^{said}$"):
            list(loader(frames, Share(25, 5), workers))
    cropped = Preprocessing((16, 4), num_frames=4)  # every event of a recording on the left lies outside
    with pytest.raises(RecordingError, match=r"recording user01_led:0 of train: it has no events within the frames"):
        FramesOf(open_part(archive), cropped)[0, 0]


def test_a_recording_that_is_changed_until_nothing_is_in_the_frames_stays_as_it_is(archive):
    part, cropped = open_part(archive), Preprocessing((16, 4), num_frames=4)
    changed = FramesOf(part, cropped, lambda _events, _rng: part.read(0))  # on the left, and so outside
    assert changed[0, 2][0].equal(FramesOf(part, cropped)[0, 2][0])
