"""The one loop: a phase of a recipe, on whatever Accelerate finds (a CPU, a GPU, several, several machines)."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.nn import functional as F

from rsnn import kernels
from rsnn.data.frames import memory_warning
from rsnn.errors import ConfigError, TrainingError
from rsnn.models import EventClassifier
from rsnn.training import losses, watch
from rsnn.training.batches import PHASES, FramesOf, Order, Plan, Share, frame_cache, loader
from rsnn.training.display import Display
from rsnn.training.interrupts import Interrupts
from rsnn.training.objective import Objective, autocast
from rsnn.training.optimizers import Average, make_optimizer, make_schedule, replay, swapped
from rsnn.training.recipe import Loop, Phase, Recipe
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


class PhaseLoop:
    """A phase of a training, gone on with from the state in its folder where there is one of this phase.

    Args:
        model: what is trained; it ends with the last epoch's weights.
        name: of the phase.
        recipe: of the training.
        training, validation: recordings.
        folder: of the run.
        accelerator: what it runs on.
        display: shows how it goes.
        interrupts: says when the user wants to stop.

    Raises:
        TrainingError: the state cannot be read.
        ConfigError: CUDA graphs are asked of several processes.

    """

    def __init__(
        self,
        model: EventClassifier,
        name: str,
        recipe: Recipe,
        training: Part,
        validation: Part,
        folder: Path,
        accelerator: Accelerator,
        display: Display,
        interrupts: Interrupts,
    ) -> None:
        self.model, self.recipe, self.folder = model, recipe, folder
        self.accelerator, self.display, self.interrupts = accelerator, display, interrupts
        self.phase: Phase = getattr(recipe.phases, name)
        self.seed = (recipe.seed, PHASES[name])
        assert model.preprocessing is not None
        cache = frame_cache(recipe, training, model.preprocessing)
        self.shown = FramesOf(training, model.preprocessing, recipe.augment, self.seed, cache)
        self.measured = FramesOf(validation, model.preprocessing, cache=cache)
        loop = recipe.loop
        if loop.graphs and accelerator.num_processes > 1:
            raise ConfigError(
                f"loop.graphs = true: CUDA graphs are of one process, and {accelerator.num_processes} train here; "
                "expected loop.graphs=false"
            )
        self.plan = Plan.of(len(training), loop.batch_size, loop.accumulate, accelerator.num_processes)
        frames = model.preprocessing
        if cache is None and (said := memory_warning(frames.num_frames, *frames.frame_size, self.plan.batch_size)):
            display.say(said)  # a cache has said it
        if self.plan.batch_size < loop.batch_size:
            display.say(
                f"batches of {self.plan.batch_size}: {len(training)} recordings are fewer than an update of "
                f"loop.batch_size = {loop.batch_size} takes"
            )

        if self.phase.freeze_encoder:
            model.freeze("encoder")
        else:
            model.unfreeze("encoder")
        model.to(accelerator.device)
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        objective: Any = Objective(
            model, self.phase.loss, recipe.loss, precision=loop.precision, checkpoint_steps=loop.checkpoint_steps
        )
        optimizer = make_optimizer(model, recipe.optimizer, self.phase)
        self.schedule = make_schedule(optimizer, recipe.schedule, self.phase.epochs, self.plan.updates)
        self.rate = self._rate_now(optimizer)
        self.place = Place(name)
        self.selected: dict[str, Tensor] = {}
        averaged = self._go_on(optimizer) if (folder / STATE_FILE).is_file() else None
        self.average = Average(model, loop.ema, averaged) if loop.ema else None
        self.prepared = accelerator.prepare(torch.compile(objective) if loop.compile else objective)
        self.running = kernels.graphed(self.prepared) if loop.graphs else self.prepared
        self.optimizer = accelerator.prepare(optimizer)

    def run(self) -> PhaseResult:
        """Train to the end of the phase.

        Raises:
            TrainingError: the loss is no number, the state cannot be written, or a process that prepares recordings
                ended.
            RSNNError: a recording cannot be read.
            Stopped: the user asked for it.

        """
        place = self.place
        self.display.begin(place.phase, self.phase.epochs, self.plan.updates, place)
        try:
            while place.epoch < self.phase.epochs and not self._patience_ended():
                self._train_epoch()
                self._end_epoch()
                if self.interrupts.agreed(self.accelerator):
                    raise Stopped(f"stopped in phase {place.phase}, after epoch {place.epoch}")
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise TrainingError(
                f"a process that prepares recordings ended ({error}), perhaps for want of memory; what was saved is "
                "intact: the same command goes on, with --set loop.workers=0 without such processes"
            ) from error
        self.display.end(place)
        with swapped(self.model, self.average):
            last = self._weights()
        self.accelerator.free_memory()
        return PhaseResult(place, self.selected, last)

    def _go_on(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor] | None:
        """Take up the state in the folder, where it is of this phase, and return its average of the weights."""
        found, groups = load_state(self.folder / STATE_FILE)
        if found.phase != self.place.phase:
            return None
        self.place = found
        if not self.accelerator.is_main_process:
            found.sums = {}
        self.model.load_state_dict(groups["model"])
        load_optimizer(optimizer, groups.get("optimizer", {}))
        self.selected = groups.get("selected", {})
        if done := found.epoch * self.plan.updates + found.update:
            replay(self.schedule, done - 1)
            self.rate = self._rate_now(optimizer)
            replay(self.schedule, 1)
        self.display.say(f"going on after epoch {found.epoch}, update {found.update}")
        return groups.get("average")

    def _train_epoch(self) -> None:
        """Do the updates of an epoch that are left."""
        place, loop, rank = self.place, self.recipe.loop, self.accelerator.process_index
        epoch = place.epoch + 1
        self.model.train()
        place.sums = place.sums or {"loss": 0.0, "recordings": 0, "right": 0, "seconds": 0.0, "waited": 0.0}
        order = Order(self.plan, self.seed, epoch, rank, place.update)
        batches = loader(self.shown, order, loop.workers, pin=self.accelerator.device.type == "cuda")
        saved = time.perf_counter()
        for update in range(place.update, self.plan.updates):
            began = time.perf_counter()
            torch.manual_seed(_seed_of(*self.seed, epoch, update, rank))
            for _ in range(loop.accumulate):
                asked = time.perf_counter()
                frames, labels = next(batches)
                place.sums["waited"] += time.perf_counter() - asked
                self._pass(frames, labels)
            self.rate = self._rate_now(self.optimizer)
            self.schedule.step()
            if self.average is not None:
                self.average.update(self.model, place.epoch * self.plan.updates + update)
            place.sums["seconds"] += time.perf_counter() - began
            place.update = update + 1
            self.display.update(place)
            stop = self.interrupts.agreed(self.accelerator)
            if stop or time.perf_counter() - saved > 60 * loop.save_minutes:
                self._save()
                saved = time.perf_counter()
            if stop:
                done = f"update {place.update} of {self.plan.updates}"
                raise Stopped(f"stopped in phase {place.phase}, epoch {epoch}, after {done}")

    def _pass(self, frames: Tensor, labels: Tensor) -> None:
        """Take a batch forward and backward, and the optimiser a step after the last pass of an update."""
        accelerator, recipe, sums = self.accelerator, self.recipe, self.place.sums
        frames, labels = frames.to(accelerator.device), labels.to(accelerator.device)
        wanted = losses.targets(labels, self.model.num_classes or 0, recipe.loss.label_smoothing)
        if recipe.loss.mixup:
            frames, wanted = losses.mixed(frames, wanted, recipe.loss.mixup)
        with accelerator.accumulate(self.prepared):
            loss, logits = self.running(frames, wanted)
            accelerator.backward(loss)
            if recipe.loop.clip_norm and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.model.parameters(), recipe.loop.clip_norm)
            value = loss.item()
            if not math.isfinite(value):
                raise _not_finite(value, self.place, self.folder)
            self.optimizer.step()
            self.optimizer.zero_grad()
        sums["loss"] += value * len(labels)
        sums["right"] += int((logits.argmax(1) == labels).sum())
        sums["recordings"] += len(labels)

    def _end_epoch(self) -> None:
        """Measure the validation part, keep the weights if they are the best so far, and save."""
        place, accelerator = self.place, self.accelerator
        with swapped(self.model, self.average):
            self._agree_on_buffers()
            result = measure(self.model, self.measured, accelerator, self.recipe.loop)
            best = _better(result, place)
            if best:
                self.selected = self._weights()
        sums = reduced(place.sums, accelerator)
        place.history.append(
            {"epoch": place.epoch + 1, **_course(sums, accelerator.num_processes), "lr": self.rate, **result}
        )
        place.epoch, place.update, place.sums = place.epoch + 1, 0, {}
        if best:
            place.selected_epoch = place.epoch
        guess = math.log(self.model.num_classes or 2) if self.phase.loss == "cross_entropy" else None
        said = [*watch.rate_warnings(result["rates"]), *watch.history_warnings(place.history, guess)]
        self._save()
        self.display.epoch(place, said)

    @torch.no_grad()
    def _agree_on_buffers(self) -> None:
        """Give all processes the buffers of the first, which are kept: BatchNorm's statistics are of each its own."""
        if self.accelerator.num_processes > 1:
            for buffer in self.model.buffers():
                buffer.copy_(broadcast(buffer))

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        weights = self.model.state_dict()
        _check_finite(weights, self.place)
        groups = {
            "model": weights,
            "optimizer": optimizer_tensors(self.optimizer.optimizer),
            "selected": self.selected,
        }
        if self.average is not None:
            groups["average"] = self.average.tensors
        save_state(self.folder / STATE_FILE, self.place, groups)

    @staticmethod
    def _rate_now(optimizer: Any) -> float:
        """Return the learning rate of the next update, of the classifier's weights."""
        rate: float = optimizer.param_groups[-1]["lr"]
        return rate

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _patience_ended(self) -> bool:
        patience = self.recipe.validation.patience
        return bool(patience) and self.place.epoch - self.place.selected_epoch >= patience


@torch.no_grad()
def measure(model: EventClassifier, frames: FramesOf, accelerator: Accelerator, loop: Loop) -> dict[str, Any]:
    """Return accuracy, cross-entropy and firing rates; every recording counts once, over all processes."""
    share = Share(len(frames), loop.batch_size, accelerator.process_index, accelerator.num_processes)
    training = model.training
    model.eval()
    sums = {"right": 0.0, "entropy": 0.0, "recordings": 0.0}
    with watch.firing(model) as layers:
        for batch, labels in loader(frames, share, loop.workers):
            with autocast(accelerator.device.type, loop.precision):
                logits = model(batch.to(accelerator.device)).float().cpu()
            sums["right"] += float((logits.argmax(1) == labels).sum())
            sums["entropy"] += float(F.cross_entropy(logits, labels, reduction="sum"))
            sums["recordings"] += len(labels)
    model.train(training)
    for name, layer in layers.items():
        sums |= {f"{name} fired": layer.fired, f"{name} chances": layer.chances}
    sums = reduced(sums, accelerator)
    return {
        "accuracy": sums["right"] / sums["recordings"],
        "cross_entropy": sums["entropy"] / sums["recordings"],
        "rates": {name: sums[f"{name} fired"] / max(sums[f"{name} chances"], 1) for name in layers},
    }


def reduced(sums: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Add numbers up over all processes."""
    if accelerator.num_processes == 1:
        return sums
    double = torch.float64 if accelerator.device.type != "mps" else torch.float32
    values = torch.tensor(list(sums.values()), dtype=double, device=accelerator.device)
    total: Any = accelerator.reduce(values, "sum")
    return dict(zip(sums, total.tolist(), strict=True))


def _seed_of(*place: int) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, place)).encode()).digest()[:8]) >> 1


def _better(result: dict[str, Any], place: Place) -> bool:
    """Tell whether a result beats those before it: by accuracy, then by cross-entropy."""
    if not place.selected_epoch:
        return True
    best = place.history[place.selected_epoch - 1]
    return bool((result["accuracy"], -result["cross_entropy"]) > (best["accuracy"], -best["cross_entropy"]))


def _course(sums: dict[str, float], processes: int) -> dict[str, float]:
    seconds = sums["seconds"] / processes
    return {
        "loss": sums["loss"] / sums["recordings"],
        "train_accuracy": sums["right"] / sums["recordings"],
        "samples_per_second": sums["recordings"] / seconds,
        "seconds": seconds,
        "waited": sums["waited"] / processes,
    }


def _not_finite(value: float, place: Place, folder: Path) -> TrainingError:
    if place.epoch:
        kept = f"the last good checkpoint is of epoch {place.epoch}, in {folder}"
    elif (folder / STATE_FILE).is_file():
        kept = f"what was saved before in {folder} is intact"
    else:
        kept = "nothing has been saved yet"
    return TrainingError(
        f"the loss became {value} in phase {place.phase}, epoch {place.epoch + 1}, update {place.update + 1}; {kept}. "
        "Try a smaller optimizer.lr, loop.clip_norm=1, or loop.precision=float32, with another --output"
    )


def _check_finite(weights: dict[str, Tensor], place: Place) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"the weights {name!r} are not finite after epoch {place.epoch} of phase {place.phase}, so they were "
                "not saved; what was saved before is intact. Try a smaller optimizer.lr or loop.clip_norm=1"
            )
