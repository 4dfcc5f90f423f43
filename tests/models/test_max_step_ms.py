"""Long recordings get more time steps: how many, and that predictions of any mixture are those of each alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rsnn
from rsnn import nn
from rsnn.errors import InputError
from rsnn.models import cards, config

SIZE = (12, 12)


def recording(duration_us, n=400, seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, duration_us + 1, n))
    t[0], t[-1] = 0, duration_us
    height, width = size
    return rsnn.Events(
        t=1000 + t,
        x=rng.integers(width, size=n),
        y=rng.integers(height, size=n),
        p=rng.integers(2, size=n),
        sensor_size=(width, height),
    )


def small_model(max_step_ms=10, num_frames=4, **preprocessing):
    torch.manual_seed(0)
    head = nn.DecisionHead(nn.MeanFrames(), nn.ConvClassifier(3, 3, (3, 3), channels=(8,), pools=(1,), votes=2), 3)
    model = rsnn.ConvLSTMClassifier(
        nn.ConvLSTMEncoder(2, (2, 3)),
        head,
        preprocessing=rsnn.Preprocessing(SIZE, num_frames, max_step_ms=max_step_ms, **preprocessing),
        logit_scale=10.0,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)
    return model.eval()


# 4 steps of at most 10 ms: 4 of up to 40 ms, 8 of up to 80 ms, 12 of up to 120 ms.
DURATIONS = (30_000, 100_000, 40_000, 80_001, 41_000, 30_000, 119_000, 80_000, 20_000)
STEPS = (4, 12, 4, 12, 8, 4, 12, 8, 4)


def mixed():
    return [recording(duration, seed=seed) for seed, duration in enumerate(DURATIONS)]


# How many


@pytest.mark.parametrize(
    ("duration_us", "steps"),
    [(0, 20), (1, 20), (2_000_000, 20), (2_000_001, 40), (4_000_000, 40), (4_000_001, 60), (5_900_000, 60)],
)
def test_steps_by_hand(duration_us, steps):
    preprocessing = rsnn.Preprocessing(SIZE, 20, max_step_ms=100)
    events = recording(duration_us)
    assert preprocessing.num_steps(events) == preprocessing.steps_in(duration_us) == steps
    frames = preprocessing.frames(events)
    assert torch.equal(frames, torch.from_numpy(rsnn.to_frames(events, steps, dtype="float32")))
    assert rsnn.Preprocessing(SIZE, 20).num_steps(events) == 20


@pytest.mark.parametrize("number", [0, 1])
def test_hardly_any_events(number):
    preprocessing = rsnn.Preprocessing(SIZE, 20, max_step_ms=100)
    events = recording(5_900_000)[:number]
    assert preprocessing.num_steps(events) == 20
    assert preprocessing.frames(events).shape == (20, 2, *SIZE)


def test_what_the_crop_leaves_out_does_not_count():
    # The events at 0 and at 9 s lie beside the centred 12 x 12 of 20 x 12.
    events = rsnn.Events(t=[0, 10, 50_000, 9_000_000], x=[0, 5, 6, 19], y=[0] * 4, p=[1] * 4, sensor_size=(20, 12))
    preprocessing = rsnn.Preprocessing(SIZE, 4, max_step_ms=10)
    assert preprocessing.num_steps(events) == 8
    assert len(preprocessing.frames(events)) == 8


def test_a_recording_that_is_too_long_says_what_to_do():
    preprocessing = rsnn.Preprocessing((1000, 1000), 20, max_step_ms=100)  # 2**28 numbers: 134 frames, 6 x 20 of them
    assert preprocessing.steps_in(12_000_000) == 120
    for call in (preprocessing.num_steps, preprocessing.frames):
        with pytest.raises(InputError, match=r"12.1 s in .*max_step_ms=100 are 140 frames .* at most 12 s: .*between"):
            call(recording(12_100_000, size=(1000, 1000)))


@pytest.mark.parametrize("value", [0, -5, True, 100.0, "100"])
def test_bad_values(value):
    with pytest.raises(InputError, match=r"max_step_ms=.*whole number"):
        rsnn.Preprocessing(max_step_ms=value)


def test_steps_of_equal_numbers_have_no_duration():
    with pytest.raises(InputError, match="max_step_ms=100 with split_by='number': expected split_by='time'"):
        rsnn.Preprocessing(split_by="number", max_step_ms=100)


# Models


def test_a_head_of_a_fixed_number_of_frames_refuses_it():
    with pytest.raises(InputError, match="DecisionHead has room for 4 frames, but with max_step_ms=100 a long"):
        rsnn.create_model("convlstm-nmnist-cl-concat", num_frames=4, max_step_ms=100)
    assert rsnn.create_model("convlstm-nmnist-cl-lstm", max_step_ms=100).preprocessing.max_step_ms == 100


def test_it_travels_with_the_weights(tmp_path):
    small_model().save_pretrained(tmp_path)
    assert rsnn.load(tmp_path).preprocessing.max_step_ms == 10
    description = config.describe(small_model())
    del description["preprocessing"]["max_step_ms"]  # as in a checkpoint of before
    assert config.build_model(description).preprocessing.max_step_ms is None


def test_the_card_says_it():
    def text(model):
        return cards.plain_card({"model": config.describe(model), "library_version": "1"})

    assert "(one in which they would last more than 10 ms into 2, 3, ... times as many)" in text(small_model())
    assert "into 4 frames of equal duration, 12 x 12 pixels; the network sees" in text(small_model(None))


@pytest.mark.parametrize("normalize", ["counts", "per-sample"])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_mixed_list_is_predicted_as_one_by_one(batch_size, normalize):
    model = small_model(normalize=normalize)
    recordings = mixed()
    assert tuple(model.preprocessing.num_steps(events) for events in recordings) == STEPS
    together = model.predict(recordings, batch_size=batch_size)
    assert len({tuple(p.probabilities.tolist()) for p in together}) > 3
    for events, got in zip(recordings, together, strict=True):
        with torch.no_grad():
            alone = model(model.preprocessing.frames(events)[:, None]).softmax(1)[0]
        torch.testing.assert_close(got.probabilities, alone, rtol=0, atol=1e-6)
        assert got.index == int(alone.argmax())


def test_a_mixed_list_runs_in_full_batches():
    model, shapes = small_model(), []
    model.register_forward_pre_hook(lambda _module, arguments: shapes.append(tuple(arguments[0].shape[:2])))
    model.predict(mixed(), batch_size=2)
    assert sorted(shapes) == [(4, 2), (4, 2), (8, 2), (12, 1), (12, 2)]
    assert model.predict([]) == []


def test_an_early_decision_counts_the_steps_that_there_were():
    model = small_model()
    for events, steps, got in zip(mixed(), STEPS, model.predict(mixed(), until=1.0), strict=True):
        assert got.steps == steps
        torch.testing.assert_close(got.probabilities, model.predict(events).probabilities, rtol=0, atol=1e-6)


def test_energy_of_a_mixture_is_the_mean_of_each_alone():
    model, recordings = small_model(), mixed()
    report = rsnn.energy_report(model, recordings)
    alone = [rsnn.energy_report(model, events) for events in recordings]
    assert report.samples == len(recordings)
    assert report.total.joules == pytest.approx(np.mean([one.total.joules for one in alone]))
    assert report.total.mac == pytest.approx(np.mean([one.total.mac for one in alone]))
