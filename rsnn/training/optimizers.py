"""What moves the weights: torch's optimisers and schedules, and an average of the weights beside them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from rsnn.models import EventClassifier
from rsnn.training.recipe import Optimizer, Phase, Schedule


def make_optimizer(model: EventClassifier, settings: Optimizer, phase: Phase) -> torch.optim.Optimizer:
    """Return torch's optimiser over the trainable parameters, with the phase's rates for encoder and classifier."""
    rate = phase.lr or settings.lr
    groups = model.parameter_groups(
        weight_decay=settings.weight_decay, encoder_lr=phase.encoder_lr or rate, classifier_lr=rate
    )
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
    return (torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam)(groups, lr=rate)


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: Schedule, epochs: int, updates: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return torch's schedule, to be stepped once an update.

    One-cycle leaves SGD the momentum that a recipe gives it; of Adam and AdamW, whose beta_1 no recipe gives, it takes
    that from 0.95 to 0.85 while the rate rises, and back, as torch's own does.
    """
    schedules = torch.optim.lr_scheduler
    total = epochs * updates
    warm = round(settings.warmup * total)
    if settings.kind == "onecycle":
        highest = [group["lr"] for group in optimizer.param_groups]
        return schedules.OneCycleLR(
            optimizer,
            highest,
            total_steps=total + 1,
            pct_start=max(settings.warmup, 2 / (total + 1)),
            cycle_momentum="momentum" not in optimizer.defaults,
        )
    after: torch.optim.lr_scheduler.LRScheduler
    if settings.kind == "step":
        after = schedules.StepLR(optimizer, settings.step_epochs * updates, settings.factor)
    elif settings.kind == "constant":
        after = schedules.ConstantLR(optimizer, 1.0)
    else:
        after = schedules.CosineAnnealingLR(optimizer, max(total - warm, 1))
    if not warm:
        return after
    rise = schedules.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
    if settings.kind == "cosine":  # it begins where the rise ends
        return schedules.SequentialLR(optimizer, [rise, after], [warm])
    return schedules.ChainedScheduler([rise, after])


class Average:
    """Exponential moving average of a model's weights; what is no floating number is taken as it is.

    At first it forgets faster, so that it is not made of the weights that the training began with: after n updates it
    keeps at most (1 + n) / (10 + n) of what it was.
    """

    def __init__(self, model: EventClassifier, decay: float, tensors: dict[str, Tensor] | None = None) -> None:
        self.decay = decay
        device = next(model.parameters()).device
        start = model.state_dict() if tensors is None else tensors
        self.tensors = {name: tensor.detach().to(device).clone() for name, tensor in start.items()}

    @torch.no_grad()
    def update(self, model: EventClassifier, updates: int) -> None:
        """Move the average, after so many updates, towards the model's weights: a <- decay a + (1 - decay) w."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)


class swapped:  # noqa: N801  (used as a function: `with swapped(model, average):`)
    """Give the model the average's weights for the time of a block, where there is an average."""

    def __init__(self, model: EventClassifier, average: Average | None) -> None:
        self.model = model
        self.average = average
        self.own: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.average is not None:
            self.own = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.model.load_state_dict(self.average.tensors)

    def __exit__(self, *exception: object) -> None:
        if self.average is not None:
            self.model.load_state_dict(self.own)


def replay(schedule: Any, steps: int) -> None:
    """Bring a fresh schedule to where it was: the same operations give the same rates, to the last bit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimiser's steps were done by the process before this one
        for _ in range(steps):
            schedule.step()
