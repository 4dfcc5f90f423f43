"""The one loop: a phase of a recipe, on whatever Accelerate finds (a CPU, a GPU, several, several machines)."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from rsnn.errors import TrainingError
from rsnn.models import EventClassifier
from rsnn.training import losses, watch
from rsnn.training.batches import PHASES, FramesOf, Order, Plan, Share, frame_cache, loader
from rsnn.training.display import Display
from rsnn.training.interrupts import Interrupts
from rsnn.training.objective import Objective, autocast
from rsnn.training.recipe import Loop, Optimizer, Phase, Recipe, Schedule
from rsnn.training.sources import Part
from rsnn.training.state import Place, load_optimizer, load_state, optimizer_tensors, save_state

STATE_FILE = "state.safetensors"


class Stopped(Exception):  # noqa: N818  (the user asked for it: no error)
    """The user stopped the training, and where it is has been saved."""


@dataclass
class PhaseResult:
    """What came of a phase: its course, and the weights of the selected and of the last epoch."""

    place: Place
    selected: dict[str, Tensor]
    last: dict[str, Tensor]


def run_phase(
    model: EventClassifier,
    name: str,
    phase: Phase,
    recipe: Recipe,
    training: Part,
    validation: Part,
    folder: Path,
    accelerator: Accelerator,
    display: Display,
    interrupts: Interrupts,
) -> PhaseResult:
    """Train `model` through a phase, going on from the state in `folder` where there is one of this phase.

    Raises:
        TrainingError: the loss is no number, or the state cannot be read or written.
        Stopped: the user asked for it.

    """
    loop, rank, processes = recipe.loop, accelerator.process_index, accelerator.num_processes
    seed = (recipe.seed, PHASES[name])
    assert model.preprocessing is not None
    cache = frame_cache(recipe, training, model.preprocessing)
    shown = FramesOf(training, model.preprocessing, recipe.augment, seed, cache)
    measured = FramesOf(validation, model.preprocessing, cache=cache)
    plan = Plan.of(len(training), loop.batch_size, loop.accumulate, processes)

    if phase.freeze_encoder:
        model.freeze("encoder")
    else:
        model.unfreeze("encoder")
    model.to(accelerator.device)
    if processes > 1 and accelerator.device.type == "cuda":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    objective: Any = Objective(
        model, phase.loss, recipe.loss, precision=loop.precision, checkpoint_steps=loop.checkpoint_steps
    )
    optimizer = make_optimizer(model, recipe.optimizer, phase)
    schedule = make_schedule(optimizer, recipe.schedule, phase.epochs, plan.updates)

    place = Place(name)
    selected: dict[str, Tensor] = {}
    averaged: dict[str, Tensor] | None = None
    if (folder / STATE_FILE).is_file():
        found, groups = load_state(folder / STATE_FILE)
        if found.phase == name:
            place = found
            place.sums = found.sums if accelerator.is_main_process else {}
            model.load_state_dict(groups["model"])
            load_optimizer(optimizer, groups.get("optimizer", {}))
            selected, averaged = groups.get("selected", {}), groups.get("average")
            _replay(schedule, place.epoch * plan.updates + place.update)
            display.say(f"going on after epoch {place.epoch}, update {place.update}")
    average = Average(model, loop.ema, averaged) if loop.ema else None
    running = accelerator.prepare(torch.compile(objective) if loop.compile else objective)
    optimizer = accelerator.prepare(optimizer)

    def save() -> None:
        if accelerator.is_main_process:
            weights = model.state_dict()
            _check_finite(weights, place)
            groups = {"model": weights, "optimizer": optimizer_tensors(optimizer.optimizer), "selected": selected}
            if average is not None:
                groups["average"] = average.tensors
            save_state(folder / STATE_FILE, place, groups)

    display.begin(name, phase.epochs, plan.updates, place)
    while place.epoch < phase.epochs and not _patience_ended(place, recipe.validation.patience):
        epoch = place.epoch + 1
        model.train()
        sums = place.sums or {"loss": 0.0, "recordings": 0, "right": 0, "seconds": 0.0, "waited": 0.0}
        order = Order(plan, seed, epoch, rank, place.update)
        batches = iter(loader(shown, order, loop.workers, pin=accelerator.device.type == "cuda"))
        saved = time.perf_counter()
        for update in range(place.update, plan.updates):
            began = time.perf_counter()
            torch.manual_seed(_seed_of(*seed, epoch, update, rank))
            for _ in range(loop.accumulate):
                asked = time.perf_counter()
                frames, labels = next(batches)
                sums["waited"] += time.perf_counter() - asked
                frames, labels = frames.to(accelerator.device), labels.to(accelerator.device)
                wanted = losses.targets(labels, model.num_classes or 0, recipe.loss.label_smoothing)
                if recipe.loss.mixup:
                    frames, wanted = losses.mixed(frames, wanted, recipe.loss.mixup)
                with accelerator.accumulate(running):
                    loss, logits = running(frames, wanted)
                    accelerator.backward(loss)
                    if loop.clip_norm and accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), loop.clip_norm)
                    value = loss.item()
                    if not math.isfinite(value):
                        raise _not_finite(value, place, update, folder)
                    optimizer.step()
                    optimizer.zero_grad()
                sums["loss"] += value * len(labels)
                sums["right"] += int((logits.argmax(1) == labels).sum())
                sums["recordings"] += len(labels)
            schedule.step()
            if average is not None:
                average.update(model)
            sums["seconds"] += time.perf_counter() - began
            place.update, place.sums = update + 1, sums
            display.update(place)
            stop = interrupts.agreed(accelerator)
            if stop or time.perf_counter() - saved > 60 * loop.save_minutes:
                save()
                saved = time.perf_counter()
            if stop:
                raise Stopped(f"stopped in phase {name}, epoch {epoch}, after update {update + 1} of {plan.updates}")

        rate = optimizer.param_groups[-1]["lr"]
        with swapped(model, average):
            result = measure(model, measured, accelerator, loop)
            best = _better(result, place)
            if best:
                selected = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
        sums = reduced(sums, accelerator)
        place.history.append({"epoch": epoch, **_course(sums, processes), "lr": rate, **result})
        place.epoch, place.update, place.sums = epoch, 0, {}
        if best:
            place.selected_epoch = epoch
        said = [*watch.rate_warnings(result["rates"]), *watch.history_warnings(place.history, model.num_classes or 2)]
        display.epoch(place, said)
        save()
    display.end(place)
    with swapped(model, average):
        last = {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}
    accelerator.free_memory()
    return PhaseResult(place, selected, last)


@torch.no_grad()
def measure(model: EventClassifier, frames: FramesOf, accelerator: Accelerator, loop: Loop) -> dict[str, Any]:
    """Return accuracy, cross-entropy and firing rates; every recording counts once, over all processes."""
    share = Share(len(frames), loop.batch_size, accelerator.process_index, accelerator.num_processes)
    training = model.training
    model.eval()
    sums = {"right": 0.0, "entropy": 0.0, "recordings": 0.0, "batches": 0.0}
    with watch.firing_rates(model) as rates:
        for batch, labels in loader(frames, share, loop.workers):
            with autocast(accelerator.device.type, loop.precision):
                logits = model(batch.to(accelerator.device)).float().cpu()
            sums["right"] += float((logits.argmax(1) == labels).sum())
            sums["entropy"] += float(F.cross_entropy(logits, labels, reduction="sum"))
            sums["recordings"] += len(labels)
            sums["batches"] += 1
    model.train(training)
    sums.update({f"rate {name}": float(torch.stack(values).sum()) if values else 0.0 for name, values in rates.items()})
    sums = reduced(sums, accelerator)
    return {
        "accuracy": sums["right"] / sums["recordings"],
        "cross_entropy": sums["entropy"] / sums["recordings"],
        "rates": {name: sums[f"rate {name}"] / sums["batches"] for name in rates},
    }


def reduced(sums: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Add numbers up over all processes."""
    if accelerator.num_processes == 1:
        return sums
    double = torch.float64 if accelerator.device.type != "mps" else torch.float32
    values = torch.tensor(list(sums.values()), dtype=double, device=accelerator.device)
    total: Any = accelerator.reduce(values, "sum")
    return dict(zip(sums, total.tolist(), strict=True))


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
    """Return torch's schedule, to be stepped once an update."""
    schedules = torch.optim.lr_scheduler
    total = epochs * updates
    warm = round(settings.warmup * total)
    if settings.kind == "onecycle":
        highest = [group["lr"] for group in optimizer.param_groups]
        return schedules.OneCycleLR(
            optimizer, highest, total_steps=total + 1, pct_start=max(settings.warmup, 2 / (total + 1))
        )
    if settings.kind == "step":
        return schedules.StepLR(optimizer, settings.step_epochs * updates, settings.factor)
    if settings.kind == "constant":
        return schedules.ConstantLR(optimizer, 1.0)
    cosine = schedules.CosineAnnealingLR(optimizer, max(total - warm, 1))
    if not warm:
        return cosine
    rise = schedules.LinearLR(optimizer, 1 / (warm + 1), total_iters=warm)
    return schedules.SequentialLR(optimizer, [rise, cosine], [warm])


class Average:
    """Exponential moving average of a model's weights; what is no floating number is taken as it is."""

    def __init__(self, model: EventClassifier, decay: float, tensors: dict[str, Tensor] | None = None) -> None:
        self.decay = decay
        device = next(model.parameters()).device
        start = model.state_dict() if tensors is None else tensors
        self.tensors = {name: tensor.detach().to(device).clone() for name, tensor in start.items()}

    @torch.no_grad()
    def update(self, model: EventClassifier) -> None:
        """Move the average towards the model's weights: a <- decay a + (1 - decay) w."""
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - self.decay)
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


def _replay(schedule: Any, steps: int) -> None:
    """Bring a fresh schedule to where it was: the same operations give the same rates, to the last bit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimiser's steps were done by the process before this one
        for _ in range(steps):
            schedule.step()


def _seed_of(*place: int) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, place)).encode()).digest()[:8]) >> 1


def _better(result: dict[str, Any], place: Place) -> bool:
    """Tell whether a result beats those before it: by accuracy, then by cross-entropy."""
    if not place.selected_epoch:
        return True
    best = place.history[place.selected_epoch - 1]
    return bool((result["accuracy"], -result["cross_entropy"]) > (best["accuracy"], -best["cross_entropy"]))


def _patience_ended(place: Place, patience: int) -> bool:
    return bool(patience) and place.epoch - place.selected_epoch >= patience


def _course(sums: dict[str, float], processes: int) -> dict[str, float]:
    seconds = sums["seconds"] / processes
    return {
        "loss": sums["loss"] / sums["recordings"],
        "train_accuracy": sums["right"] / sums["recordings"],
        "samples_per_second": sums["recordings"] / seconds,
        "seconds": seconds,
        "waited": sums["waited"] / processes,
    }


def _not_finite(value: float, place: Place, update: int, folder: Path) -> TrainingError:
    kept = f"the last good checkpoint is of epoch {place.epoch}" if place.epoch else "nothing good has been saved yet"
    return TrainingError(
        f"the loss became {value} in phase {place.phase}, epoch {place.epoch + 1}, update {update + 1}; {kept}, "
        f"in {folder}. Try a smaller optimizer.lr, loop.clip_norm=1, or loop.precision=float32, with another --output"
    )


def _check_finite(weights: dict[str, Tensor], place: Place) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"the weights {name!r} are not finite after epoch {place.epoch} of phase {place.phase}, so they were "
                "not saved; what was saved before is intact. Try a smaller optimizer.lr or loop.clip_norm=1"
            )
