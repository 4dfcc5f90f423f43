"""Accuracy against decision time is what `predict(until=)` gives, recording by recording."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_models import T, random_events, small_model

import rsnn
from rsnn.errors import InputError
from rsnn.evaluation import evaluate, evaluate_steps
from rsnn.streaming.decisions import decision_curve

SCRIPTS = Path(__file__).parents[2] / "scripts"


def labelled(n=12):
    return [(random_events(300, 40_000 + 5_000 * k, start_us=k, seed=k), k % 5) for k in range(n)]


@pytest.mark.parametrize("top", ["spiking", "mean"])
def test_a_threshold_is_predict_until_it(top):
    model = small_model(top)
    samples = labelled()
    thresholds = (0.25, 0.3, 0.4, 0.6)
    curve = decision_curve(model, iter(samples), thresholds=thresholds, batch_size=5)
    steps_of = []
    for until, row in zip(thresholds, curve, strict=False):
        alone = [model.predict(events, until=until) for events, _ in samples]
        steps = [prediction.steps for prediction in alone]
        steps_of.append(tuple(steps))
        assert row.until == until
        assert row.accuracy == pytest.approx(np.mean([p.index == y for p, (_, y) in zip(alone, samples, strict=True)]))
        assert row.steps == pytest.approx(np.mean(steps))
        times = [s / T * events.duration_us / 1e3 for s, (events, _) in zip(steps, samples, strict=True)]
        assert row.milliseconds == pytest.approx(np.mean(times), rel=1e-5)
        unsure = [float(p.probabilities.max()) < until for p in alone]
        assert row.undecided == pytest.approx(np.mean(unsure))
        sure = [p.index == y for p, (_, y), no in zip(alone, samples, unsure, strict=True) if not no]
        assert row.decided_accuracy == (pytest.approx(np.mean(sure)) if sure else None)
    assert len(set(steps_of)) > 1


@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-6), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)], ids=str
)
def test_weights_of_other_types_classify_recordings_in_every_way(dtype, near):
    """Counts become what the weights are; frames that a user hands to `forward` are not touched."""
    exact, model = small_model("mean"), small_model("mean").to(dtype)
    events, frames = labelled(1)[0][0], rsnn.to_frames(labelled(1)[0][0], T)
    wanted = exact.predict(events)
    stream, label = model.stream(window_us=60_000), wanted.index
    streamed = (stream.push(events) + stream.flush())[-1][1]
    for got in (model.predict(events), model.predict(frames), model.predict(events, until=1.0)):
        assert got.index == label
        torch.testing.assert_close(got.probabilities, wanted.probabilities, rtol=0, atol=near)
    assert streamed.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert evaluate(model, [(events, label)]).accuracy == decision_curve(model, [(events, label)])[-1].accuracy == 1
    assert evaluate_steps(model, [(frames, label)], [T])[T].accuracy == 1
    assert rsnn.energy_report(model, events).samples == 1
    with pytest.raises(InputError, match=f"got torch.float32; its weights are {dtype}"):
        model(torch.from_numpy(frames[:, None]).float())


def test_after_so_many_steps():
    model = small_model()
    samples = labelled()
    rows = decision_curve(model, samples, thresholds=())
    assert [(row.until, row.steps, row.undecided) for row in rows] == [(None, k, 0.0) for k in range(1, T + 1)]
    assert all(row.decided_accuracy == row.accuracy for row in rows)
    assert decision_curve(model, samples, thresholds=(1.1,))[0].decided_accuracy is None
    for k, row in enumerate(rows, 1):
        with torch.no_grad():
            hits = [
                int(model(model.preprocessing.frames(events)[:k, None]).argmax()) == label for events, label in samples
            ]
        assert row.accuracy == pytest.approx(np.mean(hits))


def test_recordings_of_mixed_lengths_against_a_plain_loop():
    # 6 steps of at most 8 ms: 6 of up to 48 ms, 12 of up to 96 ms.
    model = small_model(max_step_ms=8)
    samples = labelled()
    finer = [model.preprocessing.num_steps(events) // T for events, _ in samples]
    assert set(finer) == {1, 2}
    until, *after = decision_curve(model, iter(samples), thresholds=(0.3,), batch_size=5)

    def check(row, steps, predictions):
        shares = [s / (T * m) for s, m in zip(steps, finer, strict=True)]
        times = [share * events.duration_us / 1e3 for share, (events, _) in zip(shares, samples, strict=True)]
        assert row.milliseconds == pytest.approx(np.mean(times), rel=1e-5)
        assert row.steps == pytest.approx(T * np.mean(shares))
        assert row.accuracy == pytest.approx(np.mean([p == y for p, (_, y) in zip(predictions, samples, strict=True)]))

    early = [model.predict(events, until=0.3) for events, _ in samples]
    check(until, [p.steps for p in early], [p.index for p in early])
    assert len(after) == T
    for k, row in enumerate(after, 1):
        assert (row.until, row.steps) == (None, k)
        cut = [model.preprocessing.frames(events)[: k * m] for (events, _), m in zip(samples, finer, strict=True)]
        check(row, [len(frames) for frames in cut], [model.predict(frames).index for frames in cut])


def test_nothing_to_measure():
    with pytest.raises(InputError, match="at least one"):
        decision_curve(small_model(), [])
    bare = small_model()
    bare.preprocessing = None
    with pytest.raises(InputError, match="no preprocessing"):
        decision_curve(bare, labelled(1))
    other = small_model()
    other.encoder = rsnn.nn.ConvLSTMEncoder(3, (3, 4), pool=2)
    with pytest.raises(InputError, match="takes frames of 3 channels, and a recording becomes frames of 2"):
        decision_curve(other, labelled(1))


@pytest.mark.slow
def test_the_scripts_run(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "model")
    samples = labelled(6)
    columns = {name: np.concatenate([getattr(events, name) for events, _ in samples]) for name in "txyp"}
    offsets = np.cumsum([0, *(len(events) for events, _ in samples)])
    np.savez(
        tmp_path / "clips.npz",
        **columns,
        offsets=offsets,
        label=[y for _, y in samples],
        sensor_size=np.array([10, 12]),
    )
    for script, arguments, expected in (
        ("decision_time.py", [str(tmp_path / "clips.npz"), "--samples", "2:6"], "| at p >= 0.3 |"),
        ("stream_latency.py", ["--steps", "40"], "99th percentile"),
    ):
        result = subprocess.run(
            [sys.executable, SCRIPTS / script, str(tmp_path / "model"), *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert expected in result.stdout


def test_the_shipped_model_decides_early(samples):
    """Real N-MNIST: at p >= 0.7 the answer costs no accuracy worth speaking of and comes before half of the digit."""
    archive = rsnn.data.EventArchive(samples / "nmnist_1000.npz")
    chosen = range(900, 940)
    curve = decision_curve(
        rsnn.load("rsnn-nmnist-cl"), ((archive[i], int(archive.labels[i])) for i in chosen), thresholds=(0.7,)
    )
    early, whole = curve[0], curve[-1]
    assert early.accuracy >= whole.accuracy - 0.05
    assert early.steps < 12
