"""The model as the loop runs it: one forward call from frames to loss, which is what gets compiled and distributed."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from rsnn.errors import ConfigError
from rsnn.models import EventClassifier
from rsnn.training import losses, memory
from rsnn.training.recipe import Loss, LossKind


class Objective(nn.Module):
    """A model under its loss.

    Args:
        model: what is trained.
        kind: of the loss.
        settings: of all losses.
        precision: `"float32"` or `"bfloat16"` autocast.
        checkpoint_steps: as in [`Loop`][rsnn.training.recipe.Loop].

    Raises:
        ConfigError: the loss is of spiking classifiers, which this model has none of.

    """

    def __init__(
        self,
        model: EventClassifier,
        kind: LossKind = "cross_entropy",
        settings: Loss = Loss(),  # noqa: B008  (frozen)
        *,
        precision: str = "float32",
        checkpoint_steps: int = 0,
    ) -> None:
        super().__init__()
        if kind != "cross_entropy" and not hasattr(model.classifier, "step_votes"):
            raise ConfigError(
                f'loss = "{kind}" is of spiking classifiers, whose outputs are rates; {type(model).__name__} has a '
                f'{type(model.classifier).__name__}: use loss = "cross_entropy"'
            )
        self.model = model
        self.kind = kind
        self.settings = settings
        self.precision = precision
        self.checkpoint_steps = checkpoint_steps

    def forward(self, frames: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits (N, K) of frames of counts (T, N, C, H, W) for targets (N, K)."""
        with autocast(frames.device.type, self.precision):
            output = self._output(frames)
        if self.kind == "cross_entropy":
            return losses.cross_entropy(output, wanted), output.detach().float()
        logits = self.model.logit_scale * output.detach().float().mean(0)
        if self.kind == "rate_mse":
            return losses.rate_mse(output, wanted), logits
        s = self.settings
        loss = losses.tet(output, wanted, scale=self.model.logit_scale, weight=s.tet_weight, level=s.tet_level)
        return loss, logits

    def _output(self, frames: Tensor) -> Tensor:
        """Return logits (N, K), or the votes of every step (T, N, K) where the loss asks for them."""
        model, steps = self.model, self.checkpoint_steps
        if not steps and self.kind == "cross_entropy":
            return model(frames)
        classifier: Any = model.classifier
        features = memory.encoded(model, model._input(frames), steps) if steps else model.forward_features(frames)
        context = memory.layers_recomputed(classifier) if steps else contextlib.nullcontext()
        with context:
            if self.kind != "cross_entropy":
                votes: Tensor = classifier.step_votes(features)[0]
                return votes
            output = classifier(features)
        return model.logit_scale * (output[0] if isinstance(output, tuple) else output)


def autocast(device_type: str, precision: str) -> Any:
    """Return the context in which a model of this precision runs."""
    return torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16")
