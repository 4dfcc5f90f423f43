"""The published networks learn: a toy problem that they cannot answer without their convolutions and their neurons."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import rsnn

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
