from __future__ import annotations

import numpy as np
import pytest
import torch

import rsnn
from rsnn.errors import InputError
from rsnn.evaluation import (
    DISTURBANCES,
    Disturbance,
    Evaluation,
    dropped,
    evaluate,
    evaluate_steps,
    hurried,
    robustness,
    wilson_interval,
    windows_of,
    with_noise,
)


class LabelInFrame(torch.nn.Module):
    """A classifier that reads the class off the first pixel, so that a test decides what it answers."""

    in_channels, num_classes = 2, 3

    def forward(self, features):
        return torch.nn.functional.one_hot(features[0, :, 0, 0, 0].long(), 3).float()


@pytest.fixture
def reader():
    return rsnn.RSNN(rsnn.nn.FramePool(2), LabelInFrame(), class_names=("a", "b", "c"))


def frames(answer):
    return np.full((4, 2, 5, 5), answer, dtype=np.float32)


def recording(n=1000, seed=0, size=(5, 5), duration_us=90_000):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(1000, 1000 + duration_us, n))
    x, y = rng.integers(size[0], size=n), rng.integers(size[1], size=n)
    return rsnn.Events(t=t, x=x, y=y, p=rng.integers(2, size=n), sensor_size=size)


def test_counts_by_hand(reader):
    # true a: answered a, a, b; true b: answered b; true c: answered a.
    samples = [(frames(0), 0), (frames(0), 0), (frames(1), 0), (frames(1), 1), (frames(0), 2)]
    result = evaluate(reader, iter(samples), batch_size=2)
    assert result.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert result.samples == 5
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.per_class == pytest.approx({"a": 2 / 3, "b": 1.0, "c": 0.0})


def test_progress_counts_every_recording_once(reader):
    seen = []
    evaluate(reader, [(frames(0), 0)] * 5, batch_size=2, on_progress=seen.append)
    assert seen == [2, 4, 5]


def test_wilson_interval_against_published_values():
    # Newcombe 1998, table I: 81 of 263 and 15 of 148, score method without continuity correction.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(0, 20)[1] == pytest.approx(0.1611, abs=5e-5)


def test_a_class_that_does_not_occur_has_no_accuracy():
    result = Evaluation(np.array([[3, 1], [0, 0]]), ("a", "b"))
    assert result.per_class == {"a": 0.75}


def test_nothing_to_evaluate_is_an_error(reader):
    with pytest.raises(rsnn.RSNNError, match="no recordings"):
        evaluate(reader, [])


class Named(list):
    """A data set that names its classes."""

    class_names = ("b", "a", "c")


def test_a_data_set_of_other_classes_is_refused(reader):
    samples = Named([(frames(0), 0)])
    for call in (evaluate, lambda model, samples: evaluate_steps(model, samples, [1])):
        with pytest.raises(
            InputError, match=r"the classes \('b', 'a', 'c'\), and the model \('a', 'b', 'c'\); expected"
        ):
            call(reader, samples)
    reader.class_names = Named.class_names
    assert evaluate(reader, samples).accuracy == 1
    reader.class_names = None
    assert evaluate(reader, samples).accuracy == 1


@pytest.mark.parametrize("samples", [[frames(0)], [recording()], [(frames(0), 0, "a")], [3], 3, None])
def test_samples_without_labels_are_refused(reader, samples):
    with pytest.raises(
        InputError, match=r"expected pairs \(recording, class index\), as in zip\(archive, archive.labels\)"
    ):
        evaluate(reader, samples)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_of_no_class_is_an_error(reader, label):
    with pytest.raises(rsnn.RSNNError, match=f"label {label}: expected a class index from 0 to 2"):
        evaluate(reader, [(frames(0), label)])


def test_windows_are_evenly_spaced_and_as_long_as_asked():
    events = recording()
    pieces = windows_of(events, 4, 30_000)
    first, last = int(events.t[0]), int(events.t[-1])
    starts = [first + (last - first - 30_000) * k // 3 for k in range(4)]
    assert [len(piece) for piece in pieces] == [
        int(((events.t >= start) & (events.t <= start + 30_000)).sum()) for start in starts
    ]
    assert pieces[-1].t[-1] == last
    assert windows_of(events, 4, 10**6) == [events]
    assert windows_of(events, 1, 1000) == [events]


class FirstStep(torch.nn.Module):
    """A classifier that says whether the first step has more events on the left (0) or on the right (1)."""

    in_channels, num_classes = 2, 2

    def forward(self, features):
        columns = features[0].sum((1, 2))
        return torch.stack((columns[:, :2].sum(1), columns[:, 2:].sum(1)), dim=1)


def sided(*sides):
    """A recording of pieces of 10 ms whose events lie on these sides of 4 x 4 pixels, 20 each."""
    t = np.arange(20 * len(sides)) * 500
    x = np.repeat([0 if side == "l" else 3 for side in sides], 20)
    return rsnn.Events(t=t, x=x, y=np.zeros_like(x), p=np.ones_like(x), sensor_size=(4, 4))


@pytest.fixture
def first_step():
    return rsnn.RSNN(
        rsnn.nn.FramePool(2), FirstStep(), preprocessing=rsnn.Preprocessing((4, 4), num_frames=1, window_ms=10)
    )


def test_windows_vote_with_their_probabilities(first_step):
    clip = sided("r", "l", "l", "l", "l")  # windows begin at 0, 10, 20, 30 and 40 ms
    assert evaluate(first_step, [(clip, 0)], windows=5).accuracy == 1.0
    clip = sided("r", "r", "r", "l", "l")
    assert evaluate(first_step, [(clip, 0)], windows=5, window_ms=9).accuracy == 0.0


def test_windows_of_unknown_length_are_refused(reader):
    with pytest.raises(rsnn.RSNNError, match="window_ms="):
        evaluate(reader, [(recording(), 0)], windows=2)
    with pytest.raises(rsnn.RSNNError, match="expected Events or a path"):
        evaluate(reader, [(frames(0), 0)], windows=2, window_ms=5)


def test_the_duration_of_a_window_is_refused_where_recordings_are_taken_whole(first_step):
    clip = sided("r", "l")
    for call in (evaluate, lambda model, samples, **options: robustness(model, lambda: samples, **options)):
        with pytest.raises(InputError, match=r"window_ms=9 with windows=1, .* expected windows of 2 or more, or no"):
            call(first_step, [(clip, 0)], window_ms=9)


class Half:
    """What an accelerator does, with another process that has counted the same."""

    num_processes, device = 2, "cpu"

    def reduce(self, counts, how):
        assert how == "sum"
        return 2 * counts


def test_counts_of_all_processes_are_added(reader):
    assert evaluate(reader, [(frames(0), 0), (frames(1), 0)], accelerator=Half()).confusion.tolist() == [
        [2, 2, 0], [0, 0, 0], [0, 0, 0],
    ]  # fmt: skip


def test_after_k_steps_is_what_the_first_k_frames_alone_give():
    torch.manual_seed(0)
    model = rsnn.create_model("rsnn-nmnist-cl", frame_size=(16, 16), num_frames=4, num_classes=3).eval()
    samples = [(recording(size=(16, 16), seed=seed), seed % 3) for seed in range(6)]
    results = evaluate_steps(model, samples, [1, 3, 4], batch_size=4)
    for k, result in results.items():
        whole = [(model.preprocessing.frames(events)[:k], label) for events, label in samples]
        assert (result.confusion == evaluate(model, whole).confusion).all()
    with pytest.raises(rsnn.RSNNError, match="from 1 to 4"):
        evaluate_steps(model, samples, [5])
    with pytest.raises(InputError, match=r"steps \[1\.5\]: expected whole numbers"):
        evaluate_steps(model, samples, [1.5])


def test_a_model_without_preprocessing_is_asked_after_as_many_steps_as_its_frames_have():
    model = rsnn.RSNN(rsnn.nn.FramePool(2), rsnn.nn.SCNN(2, 3, (8, 8), (2,)))
    samples = [(np.ones((30, 2, 8, 8), dtype=np.float32), 0)]
    assert set(evaluate_steps(model, samples, [1, 30])) == {1, 30}
    with pytest.raises(InputError, match="a recording has 30 time steps; expected at least the 31"):
        evaluate_steps(model, samples, [31])
    with pytest.raises(InputError, match="time steps of at least 1"):
        evaluate_steps(model, samples, [0])


def test_a_model_in_training_stays_in_training():
    model = rsnn.create_model("rsnn-nmnist-cl", frame_size=(16, 16), num_frames=2, num_classes=3).freeze("encoder")
    modes = [module.training for module in model.train().modules()]
    robustness(model, lambda: [(recording(size=(16, 16)), 0)])
    evaluate_steps(model, [(recording(size=(16, 16)), 0)], [1, 2])
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"windows": 0}, {"windows": 2, "window_ms": -5}])
def test_arguments_that_are_no_positive_numbers(reader, wrong):
    with pytest.raises(InputError, match="expected a whole number of at least 1"):
        evaluate(reader, [(recording(), 0)], **wrong)


def test_recordings_of_mixed_lengths_against_a_plain_loop():
    torch.manual_seed(0)
    settings = {"frame_size": (16, 16), "num_frames": 4, "max_step_ms": 10, "num_classes": 3}
    model = rsnn.create_model("rsnn-nmnist-cl", **settings)
    durations = (20, 90, 39, 41, 100, 70, 30, 85)  # ms: 4, 12, 4, 8, 12, 8, 4, 12 steps
    samples = [
        (recording(size=(16, 16), seed=seed, duration_us=1000 * ms), seed % 3) for seed, ms in enumerate(durations)
    ]
    # The statistics of norms make fresh weights answer differently from recording to recording.
    model.train()(model.preprocessing.frames(samples[1][0])[:, None])
    seen = []
    result = evaluate(model, iter(samples), batch_size=2, on_progress=seen.append)
    assert model.training  # as it was
    assert seen[-1] == len(samples)
    by_steps = evaluate_steps(model, iter(samples), range(1, 5), batch_size=2)
    for k in range(1, 5):
        confusion = np.zeros((3, 3), dtype=int)
        for events, label in samples:
            frames = model.eval().preprocessing.frames(events)
            finer = len(frames) // 4
            with torch.no_grad():
                confusion[label, int(model(frames[: k * finer, None]).argmax())] += 1
        assert by_steps[k].confusion.tolist() == confusion.tolist()
    assert result.confusion.tolist() == confusion.tolist()


def rng():
    return np.random.default_rng(0)


def test_dropping_leaves_a_share_in_order():
    events = recording(10_000)
    left = dropped(events, 0.25, rng())
    assert len(left) == pytest.approx(7500, abs=200)
    assert len(dropped(events, 0.999999, rng())) >= 1


def test_noise_is_added_and_nothing_taken():
    events = recording()
    noisy = with_noise(events, 0.5, rng())
    assert len(noisy) == 1500
    rows = [tuple(row) for row in noisy.to_structured().tolist()]
    assert not set(map(tuple, events.to_structured().tolist())) - set(rows)
    assert (noisy.t[0], noisy.t[-1]) == (events.t[0], events.t[-1])


def test_hurrying_by_hand():
    events = rsnn.Events(t=[100, 120, 140, 160, 200], x=[0] * 5, y=[0] * 5, p=[0] * 5, sensor_size=(2, 2))
    # The first 50 us take 25, so what comes later comes 25 earlier.
    assert hurried(events, 2.0, rng()).t.tolist() == [100, 110, 120, 135, 175]
    assert hurried(events, 0.5, rng()).t.tolist() == [100, 140, 180, 210, 250]
    assert hurried(events, 1.0, rng()) == events


def test_robustness_has_every_level_and_is_the_same_each_time():
    torch.manual_seed(0)
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16), num_frames=3, num_classes=3)
    samples = [(recording(seed=seed, size=(16, 16)), seed % 3) for seed in range(3)]
    results = robustness(model, lambda: samples)
    assert {name: tuple(levels) for name, levels in results.items()} == {
        **{name: disturbance.levels for name, disturbance in DISTURBANCES.items()},
        "steps": (1.0, 2.0, 3.0),
    }
    assert all(result.samples == 3 for levels in results.values() for result in levels.values())
    again = robustness(model, lambda: samples)
    assert all((again[n][v].confusion == r.confusion).all() for n, levels in results.items() for v, r in levels.items())
    assert (results["steps"][3.0].confusion == evaluate(model, samples).confusion).all()


class Second:
    """An accelerator's view of the second of two processes, of which the first has counted nothing."""

    process_index, num_processes, device = 1, 2, "cpu"

    def reduce(self, counts, how):
        return counts


def test_a_recording_is_disturbed_alike_on_however_many_processes(monkeypatch):
    seen = []

    def kept(events, level, rng):
        seen.append((level, rng.integers(2**60)))
        return events

    monkeypatch.setattr(rsnn.evaluation, "DISTURBANCES", {"a": Disturbance("", (1.0, 2.0), kept)})
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16), num_frames=2, num_classes=3)
    samples = [(recording(seed=seed, size=(16, 16)), seed % 3) for seed in range(4)]
    robustness(model, lambda: samples)
    alone = seen.copy()
    assert len({*alone}) == 8
    robustness(model, lambda: samples[1::2], accelerator=Second())
    assert seen[8:] == alone[1::2]


def test_robustness_over_windows_is_of_windows(first_step):
    t = np.concatenate((np.zeros(200, dtype=int), np.arange(20, 101) * 500))  # most events at once, on the right
    x = np.where(t == 0, 3, 0)
    clip = rsnn.Events(t=t, x=x, y=np.zeros_like(x), p=np.ones_like(x), sensor_size=(4, 4))
    assert evaluate(first_step, [(clip, 0)]).accuracy == 0.0
    results = robustness(first_step, lambda: [(clip, 0)], windows=5)
    assert set(results) == set(DISTURBANCES)
    assert results["drop"][0.1].accuracy == 1.0


def test_a_model_that_needs_the_whole_recording_is_not_asked_after_each_step():
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16), num_frames=2, num_classes=3, normalize="per-sample")
    done = []
    results = robustness(model, lambda: [(recording(size=(16, 16)), 0)], on_progress=done.append)
    assert set(results) == set(DISTURBANCES)
    assert done[-1] == 1 + sum(len(disturbance.levels) for disturbance in DISTURBANCES.values())


@pytest.mark.parametrize("settings", [{}, {"windows": 2, "window_ms": 10}])
def test_an_error_names_the_recording_it_is_about(settings):
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16), num_frames=2, num_classes=3)
    samples = [(recording(size=(16, 16)), 0), (recording(size=(8, 8)), 1)]
    with pytest.raises(InputError, match=r"^recording b/2\.npz: the recording's sensor is 8 x 8"):
        evaluate(model, samples, ids=["a/1.npz", "b/2.npz"], **settings)
    with pytest.raises(InputError, match=r"^the recording's sensor is 8 x 8"):
        evaluate(model, samples, **settings)


def test_labels_of_any_whole_kind(reader):
    for label in (True, np.bool_(True), np.int8(1), torch.tensor(1)):
        result = evaluate(reader, [(frames(2), label)])
        assert result.confusion.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert evaluate(reader, [(frames(0), False)]).accuracy == 1
    for label in ("a", None, 0.5, 3, -1):
        with pytest.raises(InputError, match=r"label .*: expected a class index from 0 to 2"):
            evaluate(reader, [(frames(0), label)])


def test_an_interval_holds_its_share():
    for samples in range(1, 60):
        assert wilson_interval(samples, samples)[1] == 1.0
        assert wilson_interval(0, samples)[0] == 0.0


def test_recordings_of_too_few_steps():
    model = rsnn.create_model("rsnn-nmnist-cl")
    T = model.preprocessing.num_frames
    short = torch.zeros(T - 1, 2, *model.preprocessing.frame_size)
    with pytest.raises(InputError, match=f"a recording has {T - 1} time steps; expected at least the {T}"):
        evaluate_steps(model, [(short, 0)], [1, T])


def test_a_classifier_without_state_is_not_cut_short():
    size = (8, 8)

    class Summed(torch.nn.Module):
        in_channels, num_classes = 2, 3

        def forward(self, features):
            return features.sum((0, 3, 4)) @ torch.ones(2, 3)

    model = rsnn.RSNN(rsnn.nn.FramePool(2), Summed(), preprocessing=rsnn.Preprocessing(size, 4))
    events = rsnn.Events(t=range(50), x=[3] * 50, y=[1] * 50, p=[1] * 50, sensor_size=size)
    model.anchor = torch.nn.Parameter(torch.zeros(1))
    assert set(robustness(model, lambda: [(events, 0)])) == set(DISTURBANCES)


def test_results_can_be_compared(reader):
    one, other = (evaluate(reader, [(frames(0), 0)]) for _ in range(2))
    assert one == one
    assert one != other
    first, second = (reader.predict(torch.zeros(4, 2, 5, 5)) for _ in range(2))
    assert first in [second, first]
    assert len({first, second}) == 2
