"""What is timed: a network that works, on recordings; or one with fresh weights that is made to fire.

Shapes: T steps, N batch, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rsnn import zoo
from rsnn.checks import is_number
from rsnn.data import read_events, samples
from rsnn.data.simulate import SimulatedGestures
from rsnn.errors import InputError, shown
from rsnn.models import RSNN
from rsnn.nn import SCNN
from rsnn.nn.stages import SpikingConv


def subject(name: str, batch: int, density: float | None = None) -> tuple[RSNN, Tensor, str, int]:
    """Return a model, frames (T, batch, 2, H, W), its weights in words, and the number of recordings.

    The name is one of the zoo, or another that `rsnn.load` takes. The weights are its own, and fresh ones where the zoo
    has none or `density` is given: then the share `density` (0.1 by default) of what a spiking stage hands on is not
    zero. The frames are those of the N-MNIST recording that ships with the package, `batch` times, for a model of its
    size, else of `batch` simulated gestures.

    Raises:
        InputError: the model is no RSNN, or takes no recordings.

    """
    if density is not None and not (is_number(density) and 0 <= density <= 1):
        raise InputError(f"density={shown(density)}: expected a share from 0 to 1, or None for a model's own weights")
    named = zoo.list_models()
    trained = density is None and name not in {*named} - {*zoo.list_models(pretrained=True)}
    model = zoo.create_model(name, pretrained=trained).eval()
    if not isinstance(model, RSNN):
        raise InputError(f"{name} is no RSNN; the plain way is written for those, such as 'rsnn-gesture-cl'")
    if model.preprocessing is None:
        raise InputError(f"{name} has no preprocessing, so it takes no recordings; expected a model that has one")
    digit = read_events(samples.path())
    if digit.sensor_size == model.preprocessing.frame_size[::-1]:
        recordings, different = [digit] * batch, 1
    else:
        gestures = SimulatedGestures(batch, duration_s=(1.5, 1.5))
        recordings, different = [gestures.events(index) for index in range(batch)], batch
    one_length = replace(model.preprocessing, max_step_ms=None)
    frames = torch.stack([one_length.frames(events) for events in recordings], dim=1)
    if trained:
        return model, frames, "published weights" if name.partition(".")[0] in named else "its own weights", different
    share = 0.1 if density is None else density
    make_lively(model, frames[:, :1], share)
    weights = f"fresh weights under which {share:.0%} of what a spiking stage hands on is not zero"
    return model, frames, weights, different


@torch.no_grad()
def firing(model: nn.Module, frames: Tensor) -> float:
    """Return the share of what the spiking stages hand on that is not zero."""
    seen: list[Tensor] = []
    stages = [module for module in model.modules() if isinstance(module, SpikingConv)]
    hooks = [stage.register_forward_hook(lambda *call: seen.append(call[2][0])) for stage in stages]
    model(frames)
    for hook in hooks:
        hook.remove()
    return float(sum(x.count_nonzero() for x in seen)) / sum(x.numel() for x in seen)


@torch.no_grad()
def make_lively(model: RSNN, frames: Tensor, density: float) -> None:
    """Set the normalizations so that the share `density` of what each stage hands on is not zero on these frames.

    Fresh weights leave most neurons silent, and silence is cheaper here than in the plain way.
    """
    assert isinstance(model.classifier, SCNN)
    x = model.forward_features(frames)
    for stage in model.classifier.convs:
        assert isinstance(stage, SpikingConv)
        norm = stage.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        current = stage.conv(x.flatten(0, 1))
        norm.running_mean.copy_(current.mean((0, 2, 3)))
        norm.running_var.copy_(current.var((0, 2, 3)))
        low, high = -10.0, 10.0
        for _ in range(10):
            middle = (low + high) / 2
            norm.bias.fill_(middle)
            spikes, _ = stage(x, None)
            low, high = (middle, high) if spikes.count_nonzero() < density * spikes.numel() else (low, middle)
        x = spikes
    for linear in (model.classifier.hidden, model.classifier.output):
        linear.linear.weight.normal_(std=6 / linear.linear.in_features**0.5)
