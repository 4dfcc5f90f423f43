"""Recipes: everything that decides how a model is trained, as plain data with every default visible."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rsnn.errors import ConfigError
from rsnn.hub.resolution import is_written_as_path
from rsnn.models.preprocessing import Normalize, Preprocessing, SplitBy
from rsnn.training.augment import Augment

DataKind = Literal["auto", "gesture", "cifar10dvs", "nmnist", "sign", "folder", "archive", "simulated"]
LossKind = Literal["cross_entropy", "rate_mse", "tet"]


@dataclass(frozen=True)
class Data:
    """Which recordings, and how they become frames.

    What is left open about frames is the model's own: that of `start` where there is one, else of the first phase's
    name in the zoo. A run stores its recipe with those values filled in. All recordings of a training have the same
    number of frames: the `max_step_ms` of a model to go on from is dropped, and what comes of the training has none.

    Attributes:
        kind: the data set's class; `"auto"` goes by what `--data` is.
        samples: of kind `"simulated"`, without `--data`: recordings that train and validate; a tenth as many test.
        size: (height, width) of the frames; () leaves it open.
        num_frames, split_by, normalize: as in `rsnn.Preprocessing`; 0 and "" leave them open.
        clip_at: the largest count that the network sees, of `normalize = "clip"`; 0 otherwise.
        cache: keep all frames in a file (`rsnn.data.FrameCache`) where `augment` changes nothing.

    """

    kind: DataKind = "auto"
    samples: int = 5_500
    size: tuple[int, ...] = ()
    num_frames: int = 0
    split_by: Literal["", SplitBy] = ""
    normalize: Literal["", Normalize] = ""
    clip_at: int = 0
    cache: bool = True

    def given(self) -> dict[str, Any]:
        """Return what is not left open, as arguments of `rsnn.Preprocessing`."""
        frames: dict[str, Any] = {
            "frame_size": self.size,
            "num_frames": self.num_frames,
            "split_by": self.split_by,
            "normalize": self.normalize,
        }
        given = {name: value for name, value in frames.items() if value}
        return given | ({"clip_at": self.clip_at or None} if self.normalize else {})

    def filled(self, own: Preprocessing) -> Data:
        """Return the same with what is left open as a model's own preprocessing has it."""
        whole = dataclasses.replace(own, max_step_ms=None, **self.given())
        return dataclasses.replace(
            self,
            size=whole.frame_size,
            num_frames=whole.num_frames,
            split_by=whole.split_by,
            normalize=whole.normalize,
            clip_at=whole.clip_at or 0,
        )


@dataclass(frozen=True)
class Validation:
    """The part of the training recordings that selects the epoch.

    Attributes:
        fraction: its share.
        by: what is never in both parts: a recording (`"id"`), or a person (`"subject"`).
        seed: of the choice; the same for every seed of the training, so that runs can be compared.
        patience: epochs without a better one after which a phase ends early; 0 for never.

    """

    fraction: float = 0.1
    by: Literal["id", "subject"] = "id"
    seed: int = 0
    patience: int = 0


@dataclass(frozen=True)
class Phase:
    """One phase of the training.

    Attributes:
        model: the zoo's name of what is trained; empty for the model of the phase before.
        epochs: 0 leaves the phase out.
        lr: learning rate of the classifier; 0 for `optimizer.lr`.
        encoder_lr: of the encoder; 0 for the same.
        freeze_encoder: leave the encoder as the phase before made it.
        loss: `"cross_entropy"` of the voted mean, `"rate_mse"` (mean squared error of the rates, Fang et al. 2021),
            `"tet"` (cross-entropy at every step, Deng et al. 2022). The last two are of spiking classifiers.

    """

    model: str = ""
    epochs: int = 0
    lr: float = 0.0
    encoder_lr: float = 0.0
    freeze_encoder: bool = False
    loss: LossKind = "cross_entropy"


@dataclass(frozen=True)
class Phases:
    """The paper's order: the encoder under a decision head, the classifier over that encoder, both together."""

    encoder: Phase = field(default_factory=Phase)
    classifier: Phase = field(default_factory=Phase)
    joint: Phase = field(default_factory=Phase)

    def __iter__(self) -> Iterator[tuple[str, Phase]]:
        """Go through the phases that are to be run."""
        return ((f.name, phase) for f in dataclasses.fields(self) if (phase := getattr(self, f.name)).epochs)


@dataclass(frozen=True)
class Loss:
    """What all losses share.

    Attributes:
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of the Beta distribution that recordings and labels of a batch are mixed with; 0 for none.
        tet_weight: share of TET's second term, which holds every output near `tet_level`.
        tet_level: that level, as a rate.

    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    tet_weight: float = 0.05
    tet_level: float = 1.0


@dataclass(frozen=True)
class Optimizer:
    """The optimiser (torch's own).

    Attributes:
        kind: `"adamw"`, `"adam"` or `"sgd"`.
        lr: learning rate where a phase does not give one.
        weight_decay: of weights; biases and norms have none.
        momentum: of SGD, all the time; Adam's and AdamW's beta_1 is 0.9, and goes from 0.95 to 0.85 and back under
            `schedule.kind = "onecycle"`.

    """

    kind: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9


@dataclass(frozen=True)
class Schedule:
    """How the learning rate goes (torch's own schedules).

    Attributes:
        kind: `"cosine"` to zero, `"onecycle"` from a 25th up to the rate and down, `"step"` by `factor` every
            `step_epochs`, or `"constant"`.
        warmup: share of the phase in which the rate rises to what the kind says, at its beginning.
        step_epochs, factor: of `"step"`, counted from the beginning of the phase.

    """

    kind: Literal["cosine", "onecycle", "step", "constant"] = "cosine"
    warmup: float = 0.0
    step_epochs: int = 64
    factor: float = 0.1


@dataclass(frozen=True)
class Loop:
    """How the loop runs.

    Attributes:
        batch_size: recordings of one process in one pass; fewer where there are not enough of them for one update.
        accumulate: passes whose gradients are added before each update.
        clip_norm: largest norm of the gradient; 0 for no limit.
        ema: decay of the exponential moving average of the weights that is then evaluated and kept; 0 for none. In the
            first updates of a phase the decay is smaller.
        precision: `"float32"`, or `"bfloat16"` autocast (membrane potentials and cells stay float32).
        compile: run the model through `torch.compile`.
        graphs: on a GPU, run forward and backward as CUDA graphs ([`rsnn.kernels.graphed`][]); one process only.
        checkpoint_steps: time steps of the encoder whose activations are kept at once, the others being computed again
            in backward; 0 keeps all.
        workers: processes that prepare recordings; 0 prepares them in the training process.
        save_minutes: time between checkpoints within an epoch; one follows every epoch in any case.
        cpu: stay on the CPU even where there is a GPU.

    """

    batch_size: int = 16
    accumulate: int = 1
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    graphs: bool = False
    checkpoint_steps: int = 0
    workers: int = 0
    save_minutes: float = 10.0
    cpu: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model is trained.

    Attributes:
        name: of the recipe.
        start: what the first phase starts from: a zoo name, a folder or a Hub repository; empty for fresh weights.
        seed: of weights, order, augmentation and dropout.
        source: where its numbers are from, in a sentence.

    """

    name: str = "custom"
    start: str = ""
    seed: int = 0
    source: str = ""
    data: Data = field(default_factory=Data)
    validation: Validation = field(default_factory=Validation)
    augment: Augment = field(default_factory=Augment)
    phases: Phases = field(default_factory=Phases)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    loop: Loop = field(default_factory=Loop)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, which `recipe_from` takes back."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def for_others(self) -> Recipe:
        """Return it as a checkpoint keeps it: of a folder to start from the name, and not where it lies."""
        if not is_written_as_path(self.start):
            return self
        folder = Path(self.start).expanduser()
        name = folder.name if folder.name not in ("", "..") else folder.resolve().name
        return dataclasses.replace(self, start=f"./{name}")


def check(recipe: Recipe) -> None:
    """Raise ConfigError where a field is out of range or two contradict each other."""
    loop, loss, data, phases = recipe.loop, recipe.loss, recipe.data, list(recipe.phases)
    rules = (
        ("loop.batch_size", loop.batch_size, loop.batch_size >= 1, "at least 1"),
        ("loop.accumulate", loop.accumulate, loop.accumulate >= 1, "at least 1"),
        ("loop.clip_norm", loop.clip_norm, loop.clip_norm >= 0, "at least 0"),
        ("loop.ema", loop.ema, 0 <= loop.ema < 1, "from 0 to below 1"),
        ("loop.checkpoint_steps", loop.checkpoint_steps, loop.checkpoint_steps >= 0, "at least 0"),
        ("loop.graphs", loop.graphs, not (loop.graphs and loop.checkpoint_steps),
         "false where loop.checkpoint_steps is set, for a graph keeps the activations of all steps"),
        ("loop.graphs", loop.graphs, not (loop.graphs and loop.compile), "false where loop.compile is true"),
        ("loop.workers", loop.workers, loop.workers >= 0, "at least 0"),
        ("loop.save_minutes", loop.save_minutes, loop.save_minutes > 0, "above 0"),
        ("validation.fraction", recipe.validation.fraction, 0 < recipe.validation.fraction < 1, "between 0 and 1"),
        ("validation.seed", recipe.validation.seed, recipe.validation.seed >= 0, "at least 0"),
        ("validation.patience", recipe.validation.patience, recipe.validation.patience >= 0, "at least 0"),
        ("loss.label_smoothing", loss.label_smoothing, 0 <= loss.label_smoothing < 1, "from 0 to below 1"),
        ("loss.mixup", loss.mixup, loss.mixup >= 0, "at least 0"),
        ("loss.tet_weight", loss.tet_weight, 0 <= loss.tet_weight <= 1, "from 0 to 1"),
        ("optimizer.lr", recipe.optimizer.lr, recipe.optimizer.lr > 0, "above 0"),
        ("optimizer.weight_decay", recipe.optimizer.weight_decay, recipe.optimizer.weight_decay >= 0, "at least 0"),
        ("optimizer.momentum", recipe.optimizer.momentum, 0 <= recipe.optimizer.momentum < 1, "from 0 to below 1"),
        ("schedule.warmup", recipe.schedule.warmup, 0 <= recipe.schedule.warmup < 1, "from 0 to below 1"),
        ("schedule.step_epochs", recipe.schedule.step_epochs, recipe.schedule.step_epochs >= 1, "at least 1"),
        ("schedule.factor", recipe.schedule.factor, recipe.schedule.factor > 0, "above 0"),
        ("data.samples", data.samples, data.samples >= 1, "at least 1"),
        ("data.size", list(data.size), not data.size or (len(data.size) == 2 and min(data.size) >= 1),
         "[height, width], each at least 1, or [] for the model's"),
        ("data.num_frames", data.num_frames, data.num_frames >= 0, "at least 0"),
        ("data.clip_at", data.clip_at, data.clip_at >= 1 if data.normalize == "clip" else data.clip_at == 0,
         "the largest count with data.normalize = 'clip', and 0 otherwise"),
        ("seed", recipe.seed, 0 <= recipe.seed < 2**31, "from 0 to 2147483647"),
        *((f"phases.{name}.{key}", getattr(phase, key), getattr(phase, key) >= 0, "at least 0")
          for name, phase in phases for key in ("epochs", "lr", "encoder_lr")),
    )  # fmt: skip
    for name, value, holds, expected in rules:
        if not holds:
            raise ConfigError(f"{name} = {value}: expected {expected}")
    if not phases:
        raise ConfigError("the recipe has no phase to run; expected epochs, as in phases.encoder.epochs = 300")
    first, phase = phases[0]
    if not phase.model and not recipe.start:
        raise ConfigError(
            f"phases.{first}.model is empty; expected a name of the zoo, or `start` to go on from a model"
        )
