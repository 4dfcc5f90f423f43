"""Deciding early: the first step at which a class is probable enough."""

from __future__ import annotations

import pytest
import torch
from stream_models import T, random_events, small_model

from rsnn.errors import InputError

MODEL = small_model("mean")


def running(events):
    """Probabilities after 1 to T steps, each by a call of its own."""
    frames = MODEL.preprocessing.frames(events)
    with torch.no_grad():
        return [MODEL(frames[: k + 1, None]).softmax(1)[0] for k in range(T)]


@pytest.mark.parametrize("seed", range(4))
def test_it_stops_at_the_first_step_that_is_sure(seed):
    events = random_events(200, 60_000, seed=seed)
    rows = running(events)
    confidence = [float(row.max()) for row in rows]
    for step in range(T):
        until = confidence[step] - 1e-6
        wanted = next(k for k, sure in enumerate(confidence) if sure >= until)
        got = MODEL.predict(events, until=until)
        assert got.steps == wanted + 1
        torch.testing.assert_close(got.probabilities, rows[wanted], rtol=0, atol=1e-6)
        assert got.index == int(rows[wanted].argmax())


def test_never_sure_is_the_whole_recording():
    events = random_events(200, 60_000)
    got, whole = MODEL.predict(events, until=1.0), MODEL.predict(events)
    assert got.steps == T
    assert whole.steps is None
    torch.testing.assert_close(got.probabilities, whole.probabilities, rtol=0, atol=1e-6)


def test_lists_and_frames_and_modes():
    recordings = [random_events(200, 60_000, seed=seed) for seed in range(3)]
    model = small_model("mean").train()
    got = model.predict(recordings, until=0.3)
    assert model.training
    assert [p.steps for p in got] == [MODEL.predict(events, until=0.3).steps for events in recordings]
    frames = MODEL.preprocessing.frames(recordings[0])
    assert MODEL.predict(frames, until=0.3).steps == got[0].steps


@pytest.mark.parametrize("until", [0, -0.5, 1.5, True, "sure"])
def test_bad_values(until):
    with pytest.raises(InputError, match="expected a probability"):
        MODEL.predict(random_events(20, 60_000), until=until)


def test_a_model_of_whole_recordings_does_not_decide_early():
    """Its first step alone would be normalised by itself."""
    with pytest.raises(InputError, match=r"normalize='per-sample'.*without a state or until="):
        small_model("mean", normalize="per-sample").predict(random_events(20, 60_000), until=1e-6)


def test_no_frames():
    with pytest.raises(InputError, match="at least one step"):
        MODEL.predict(torch.zeros(0, 2, 12, 10), until=0.9)
