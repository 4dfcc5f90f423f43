"""The published networks learn: a toy problem that they cannot answer without their convolutions and their neurons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import rsnn
from rsnn.training import load_recipe, train

# with a learning rate for the problem below
NAMES = {"slayer-gesture": 3e-3, "stbp-gesture": 3e-3, "cnnsnn-gesture": 1e-3, "stbp-cifar10dvs": 5e-4}
T, SIZE = 4, (24, 24)


def moving_bars(samples):
    """Events along an upright or a level bar that wanders through the frame; the label says which."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 2
    frames = torch.zeros(T, samples, 2, *SIZE)
    starts = torch.randint(0, SIZE[0] - 2 * T, (samples,), generator=generator)
    for n, (label, start) in enumerate(zip(labels.tolist(), starts.tolist(), strict=True)):
        for t in range(T):
            place = slice(start + 2 * t, start + 2 * t + 4)
            frames[t, n, t % 2, place] = 1.0
        if label:
            frames[:, n] = frames[:, n].transpose(2, 3)
    return frames, labels


@pytest.mark.parametrize("name", NAMES)
def test_learns(name):
    torch.manual_seed(0)
    model = rsnn.create_model(name, frame_size=SIZE, num_frames=T, num_classes=2)
    for part in model.modules():
        if hasattr(part, "dropout"):
            part.dropout = 0.0  # sixteen samples are for learning by heart
    frames, labels = moving_bars(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=NAMES[name])
    first = None
    for _ in range(20):
        loss = F.cross_entropy(model.train()(frames), labels)
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits = model.eval()(frames)
    assert (logits.argmax(1) == labels).float().mean() >= 0.9
    assert F.cross_entropy(logits, labels) < 0.5 * first


def write_archive(path):
    """Write recordings of the bars as events, 24 x 24 pixels, a class a direction."""
    frames, labels = moving_bars(8)
    columns, offsets = {name: [] for name in "txyp"}, [0]
    for n in range(len(labels)):
        t, p, y, x = frames[:, n].nonzero().T.numpy()
        columns["t"].append(t * 1000)
        columns["x"].append(x)
        columns["y"].append(y)
        columns["p"].append(p)
        offsets.append(offsets[-1] + len(t))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    ids = np.array([f"bar{n}" for n in range(len(labels))])
    names = ("upright", "level")
    np.savez(path, **arrays, offsets=offsets, label=labels.numpy(), id=ids, class_names=names, sensor_size=SIZE)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_training_loop_takes_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path / "cache"))
    changes = [
        "data.kind=archive",
        f"data.size={list(SIZE)}",
        f"data.num_frames={T}",
        "validation.fraction=0.25",
        "validation.by=id",
        "loop.batch_size=3",
        "phases.classifier.epochs=1",
    ]
    metrics = train(load_recipe(name, changes), write_archive(tmp_path / "bars.npz"), tmp_path / "run")
    assert 0 <= metrics["last_accuracy"] <= 1
    model = rsnn.load(tmp_path / "run" / "model")
    assert type(model) is type(rsnn.create_model(name, frame_size=SIZE))
    assert model.class_names == ("upright", "level")


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_fires_with_fresh_weights_but_not_always(name):
    torch.manual_seed(0)
    model = rsnn.create_model(name, frame_size=(48, 48), num_frames=8).eval()
    rates = []
    for stage in [*model.classifier.stages, model.classifier.output]:
        if hasattr(stage, "neuron"):
            stage.neuron.register_forward_hook(lambda _, inputs, output: rates.append(output[0].mean().item()))
    with torch.no_grad():
        model(torch.poisson(torch.full((8, 4, 2, 48, 48), 0.05)))
    assert all(0.001 < rate < 0.95 for rate in rates), rates
