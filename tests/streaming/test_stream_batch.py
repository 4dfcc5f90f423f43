"""Streams side by side say what each says alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_models import TOPS, flat, random_events, small_model

import rsnn
from rsnn.errors import InputError
from rsnn.streaming import StreamBatch

WINDOW_US = 60_000


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("overlap", [1, 2])
def test_together_as_alone(top, overlap):
    model = small_model(top)
    options = {"window_us": WINDOW_US, "overlap": overlap, "decay": 0.2}
    recordings = [random_events(n, 150_000, start_us=s, seed=s) for n, s in ((300, 0), (500, 40_000), (90, 7), (1, 3))]
    batch = StreamBatch(model, len(recordings), **options)
    got = [[] for _ in recordings]
    for k in range(0, 500, 60):
        for outputs, new in zip(got, batch.push([events[k : k + 60] for events in recordings]), strict=True):
            outputs += new
    for outputs, new in zip(got, batch.flush(), strict=True):
        outputs += new
    for events, outputs in zip(recordings, got, strict=True):
        alone = model.stream(**options)
        wanted = alone.push(events) + alone.flush()
        assert [(t, p.index) for t, p in outputs] == [(t, p.index) for t, p in wanted]
        for (_, a), (_, b) in zip(outputs, wanted, strict=True):
            # A batch of two may add up in another order than a batch of one.
            assert (a.probabilities - b.probabilities).abs().max() < 1e-5


MODEL = small_model()


@settings(max_examples=15)
@given(order=st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_streams_fed_in_any_turn_are_independent(order):
    recordings = [random_events(200, 130_000, start_us=100 * s, seed=s) for s in range(3)]
    batch = StreamBatch(MODEL, 3, window_us=WINDOW_US)
    got, place = [[], [], []], [0, 0, 0]
    for i in order:
        chunks: list = [None, None, None]
        chunks[i] = recordings[i][place[i] : place[i] + 20]
        place[i] += 20
        for outputs, new in zip(got, batch.push(chunks), strict=True):
            outputs += new
    for events, end, outputs in zip(recordings, place, got, strict=True):
        assert flat(outputs) == flat(MODEL.stream(window_us=WINDOW_US).push(events[:end]))


def test_the_network_runs_once_for_streams_in_step():
    """Counted from outside: eight streams fed alike cost as many calls of a module that is watched as one."""
    events = random_events(400, 119_000)
    batch = StreamBatch(MODEL, 8, window_us=WINDOW_US)
    calls: list[int] = []
    hook = MODEL.classifier.register_forward_hook(lambda _m, args, _out: calls.append(args[0].shape[1]))
    batch.push([events.between(0, 61_000)] * 8)  # learns how the model's state is made, too
    calls.clear()
    batch.push([events.between(61_000, 119_000)] * 8)
    hook.remove()
    assert calls == [8] * 6  # steps 5 to 10


def test_advance_reset_and_snapshot_of_one_stream():
    events = random_events(100, 30_000)
    batch = StreamBatch(MODEL, 2, window_us=WINDOW_US)
    batch.push([events, events])
    first, second = batch.advance_to([None, 61_000])
    assert first == []
    assert len(second) == 4
    kept = batch.snapshot()
    batch.reset(0)
    assert batch.advance_to(200_000)[0] == []
    batch.restore(kept)
    assert len(batch.advance_to(61_000)[0]) == 4
    assert batch.late == [0, 0]


def test_bad_numbers():
    with pytest.raises(InputError, match="streams=0"):
        StreamBatch(MODEL, 0)
    batch = StreamBatch(MODEL, 2)
    with pytest.raises(InputError, match="got 1 chunks for 2 streams"):
        batch.push([rsnn.Events.empty((10, 12))])
    for events in (rsnn.Events.empty((10, 12)), rsnn.Events.empty((10, 12)).to_structured()):
        with pytest.raises(InputError, match="expected a list of them, one for each of the 2 streams"):
            batch.push(events)
    with pytest.raises(InputError, match="got 3 times for 2 streams"):
        batch.advance_to([1, 2, 3])
    with pytest.raises(InputError, match=r"t_us=1\.5: expected a whole number of microseconds"):
        batch.advance_to(1.5)
    with pytest.raises(InputError, match=r"t_us=1\.5"):
        batch.advance_to([None, 1.5])
    with pytest.raises(InputError, match=r"t_us='1'"):
        MODEL.stream().advance_to(["1"])
    for stream in (2, -3, 1.0, True, "0"):
        with pytest.raises(InputError, match="expected the place of one of the 2 streams"):
            batch.reset(stream)
    with pytest.raises(InputError, match="expected a whole number of microseconds"):
        batch.advance_to(np.array(1.5))


@pytest.mark.parametrize("as_time", [np.array, torch.tensor, np.int64])
def test_a_time_may_be_an_array_of_one_number(as_time):
    batch = StreamBatch(MODEL, 2, window_us=310_000)
    batch.push([rsnn.Events(t=[0], x=[1], y=[1], p=[1], sensor_size=(10, 12))] * 2)
    found = batch.advance_to(as_time(61_000))
    assert [len(timed) for timed in found] == [61_000 // batch.timing.start_us(1)] * 2


def test_other_classes_in_a_window_are_an_error_that_names_the_streams():
    model = small_model()
    batch = StreamBatch(model, 3, window_us=WINDOW_US)
    events = random_events(300, 2 * WINDOW_US)
    batch.push([events[:50], None, events[:50]])
    model.reset_classifier(3)
    with pytest.raises(InputError, match=r"changed while stream 0 ran.*reset\(\), which begins anew"):
        batch.push([events[50:100], events[:50], None])
    batch.reset(0)
    (_, prediction), *_ = batch.push([events[:50], None, None])[0]
    assert len(prediction.probabilities) == 3


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_other_classes_between_two_windows(decay):
    """What decay keeps of the predictions before is of the former classes."""
    model = small_model()
    stream = model.stream(window_us=WINDOW_US, decay=decay)
    events = random_events(300, 2 * WINDOW_US)
    first = events.between(int(events.t[0]), int(events.t[0]) + WINDOW_US)
    stream.push(first)
    stream.advance_to(int(events.t[0]) + WINDOW_US)
    model.reset_classifier(3)
    if decay:
        with pytest.raises(InputError, match=r"the stream ran.*logits of 3 classes, and of 5 before"):
            stream.push(events[len(first) :])
        stream.reset()
    for _, prediction in (predictions := stream.push(events[len(first) :])):
        assert len(prediction.probabilities) == 3
    assert predictions


def test_a_changed_model_at_the_end_of_a_recording():
    model = small_model("mean")
    stream = model.stream(window_us=WINDOW_US, hop_us=WINDOW_US // 2, decay=0.5)
    events = random_events(300, WINDOW_US)
    stream.push(events[:200])
    model.reset_classifier(3)
    with pytest.raises(InputError, match="the stream ran"):
        stream.flush()
