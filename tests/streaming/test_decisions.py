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
    assert len(set(steps_of)) > 1


def test_after_so_many_steps():
    model = small_model()
    samples = labelled()
    rows = decision_curve(model, samples, thresholds=())
    assert [(row.until, row.steps, row.undecided) for row in rows] == [(None, k, 0.0) for k in range(1, T + 1)]
    for k, row in enumerate(rows, 1):
        with torch.no_grad():
            hits = [
                int(model(model.preprocessing.frames(events)[:k, None]).argmax()) == label for events, label in samples
            ]
        assert row.accuracy == pytest.approx(np.mean(hits))


def test_nothing_to_measure():
    with pytest.raises(InputError, match="at least one"):
        decision_curve(small_model(), [])
    bare = small_model()
    bare.preprocessing = None
    with pytest.raises(InputError, match="no preprocessing"):
        decision_curve(bare, labelled(1))


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
