"""Train the gesture checkpoints (tag `sim`) from nothing: simulate the clips, then train in stages.

    python examples/train_gesture.py runs/gesture --model cl        # or cla, or scnn

1. `SimulatedGestures` performs and films TRAIN, MORE, VALIDATION (twice) and TEST clips; no performer is in two parts.
2. The encoder learns under its decision head (CL: sum, CLA: mean) on frames of half the size, where a clip costs a
   quarter; CL then on whole frames. CL learns which way an arm turns from short windows first, in which it moves little
   from one frame to the next; on long windows alone it does not find out.
3. The spiking CNN learns over that encoder, which stays as it is; `narrow` is one of 16 channels, to compare energies.
   `scnn` has no encoder and learns by itself.

A pass is one clip shown once: a random window of it, mirrored, turned, scaled, shifted, thinned or thickened. The
weights that classify the validation clips best are kept. Everything is saved every few thousand passes, and the same
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch.nn import functional as F

import rsnn
from rsnn.data import EventArchive, Events
from rsnn.data.simulate import SimulatedGestures
from rsnn.models import EventClassifier

TRAIN, VALIDATION, TEST = 4_290, 440, 440
MORE = 1_680  # further clips to train with, of another random seed and of what is hardest to tell
SECONDS = {"train": (0.8, 6.0), "validation": (0.5, 6.0), "test": (0.5, 6.0)}
SHARD = 110  # clips in a file
HARD = [10, 10, 10, 10, 0, 7, 8]  # class of every clip of MORE in turn
BATCH = 16
CHECK = 1_600  # passes from one validation to the next
MIRRORED = np.array([0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10])  # what a class is in a mirror


@dataclass(frozen=True)
class Stage:
    """One stage of the training; its folder has its name.

    Attributes:
        model: name in the zoo.
        passes: clips shown.
        lr: highest learning rate.
        start: stage whose weights it starts from, as far as they fit.
        other: another stage, which `share` of the weights under `part` come from.
        share: 1 takes them over, 0.5 takes the mean.
        part: beginning of the weights' names.
        side: of the frames.
        window_s: shortest and longest window.
        gentle: leave out the worst sensors (noise, swapped polarities, few events).
        planned: passes of the learning rate's schedule, where the stage ends before it.
        stride: the spiking CNN sees every stride-th step, from a random one on; cheaper, for a beginning.
        freeze: leave the encoder as it is.
        more: train with MORE clips too, every class as often as any other, and validate with twice as many.
        channels: of the spiking CNN, in place of its 128.

    """

    model: str
    passes: int
    lr: float
    start: str | None = None
    other: str | None = None
    share: float = 0.5
    part: str = ""
    side: int = 128
    window_s: tuple[float, float] = (0.5, 6.0)
    gentle: bool = False
    planned: int | None = None
    stride: int = 1
    freeze: bool = False
    more: bool = False
    channels: int | None = None


# The last stages' names are those of the zoo. The shipped spiking CNN over attention had its passes in several runs, of
# which the first were over earlier states of the encoder. Where two states are averaged, the last alone took one of the
# real clips for another gesture.
CL, CLA = "convlstm-gesture-cl-sum", "convlstm-gesture-cla-mean"
RSNN_CL, RSNN_CLA = "rsnn-gesture-cl", "rsnn-gesture-cla"
LONG = (1.0, 6.0)
STAGES = {
    "cl": {
        "cl-half": Stage(CL, 20_000, 3e-3, side=64, planned=48_000),
        "cl-short": Stage(CL, 16_000, 4e-3, "cl-half", side=64, window_s=(0.25, 0.7), gentle=True),
        "cl-wide": Stage(CL, 20_000, 3e-3, "cl-short", side=64, window_s=(0.4, 5.0)),
        "cl-long": Stage(CL, 100_000, 3e-3, "cl-wide", side=64, window_s=(0.4, 6.0)),
        "cl-whole": Stage(CL, 16_000, 2e-3, "cl-long"),
        "cl-last": Stage(CL, 64_000, 2e-3, "cl-whole"),
        CL: Stage(CL, 9_600, 1e-3, "cl-last", window_s=LONG, freeze=True, more=True),
        "cl-spiking-first": Stage(RSNN_CL, 22_400, 2e-3, "cl-whole", stride=2, freeze=True),
        "cl-spiking": Stage(
            *(RSNN_CL, 48_000, 2e-3, "cl-spiking-first", CL, 1.0, "encoder."), stride=2, freeze=True, more=True
        ),
        "cl-spiking-long": Stage(RSNN_CL, 9_600, 6e-4, "cl-spiking", window_s=LONG, stride=2, freeze=True, more=True),
        RSNN_CL: Stage(RSNN_CL, 0, 0.0, "cl-spiking-long", "cl-spiking-first", 0.25, "classifier.", more=True),
    },
    "cla": {
        "cla-begin": Stage(CLA, 60_000, 4e-3, side=64),
        "cla-long": Stage(CLA, 200_000, 4e-3, "cla-begin", side=64),
        "cla-longer": Stage(CLA, 160_000, 2.5e-3, "cla-long", side=64),
        "cla-last": Stage(CLA, 110_000, 2.5e-3, "cla-longer", side=64, more=True),
        CLA: Stage(CLA, 16_000, 1e-3, "cla-long", "cla-last", side=64, freeze=True, more=True),
        RSNN_CLA: Stage(RSNN_CLA, 203_000, 2.5e-3, CLA, side=64, freeze=True, more=True),
        "narrow": Stage(RSNN_CLA, 44_000, 3e-3, CLA, side=64, freeze=True, more=True, channels=16),
    },
    "scnn": {"scnn-gesture": Stage("scnn-gesture", 17_600, 1.5e-3, stride=2)},
}


def simulate(folder: Path, split: str, number: int, seed: int = 0, *, hard: bool = False) -> list[EventArchive]:
    """Return the clips of a split as archives of SHARD clips, made first where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    indices = [11 * i + HARD[i % len(HARD)] for i in range(number)] if hard else range(number)
    parts = [indices[first : first + SHARD] for first in range(0, number, SHARD)]
    jobs = [(folder / f"{split}-{seed}_{at:03d}.npz", split, seed, part) for at, part in enumerate(parts)]
    missing = [job for job in jobs if not job[0].exists()]
    with Pool() as pool:
        for _ in track(pool.imap_unordered(_simulate_shard, missing), f"simulating {split}", len(missing)):
            pass
    return [EventArchive(file, sensor_size=(128, 128)) for file, *_ in jobs]


def _simulate_shard(job: tuple[Path, str, int, Sequence[int]]) -> None:
    file, split, seed, indices = job
    clips = SimulatedGestures(max(indices) + 1, seed, split=split, duration_s=SECONDS[split])
    shard = [clips[i] for i in indices]
    columns = {name: np.concatenate([getattr(events, name) for events, _ in shard]) for name in "txyp"}
    offsets = np.cumsum([0, *(len(events) for events, _ in shard)])
    made = file.with_suffix(".tmp")
    with made.open("wb") as target:
        np.savez(target, **columns, offsets=offsets, label=[label for _, label in shard])
    made.replace(file)


def augmented(events: Events, label: int, stage: Stage, rng: np.random.Generator) -> tuple[Events, int]:
    """Return a random window of a clip, seen from elsewhere and through another sensor, and its label."""
    t = events.t - events.t[0]
    total_us = int(t[-1]) + 1
    window_us = min(total_us, 1e6 * np.exp(rng.uniform(*np.log(stage.window_s))))
    if rng.random() < 0.1 and not stage.gentle:
        window_us = total_us
    start = rng.uniform(0, total_us - window_us)
    first, end = np.searchsorted(t, [start, start + window_us])
    if end - first < 20:
        first, end = 0, t.size
    # From 0.37 to twice as many events: each is kept or repeated at random; a repeat lands nearby.
    gain = np.exp(rng.uniform(-0.3, 0.5) if stage.gentle else rng.uniform(-1.0, 0.7))
    chosen = np.arange(first, end)
    kept = chosen[rng.random(chosen.size) < gain]
    repeated = chosen[rng.random(chosen.size) < gain - 1]
    which = np.concatenate((kept, repeated))
    x, y = events.x[which] + rng.random(which.size) - 64, events.y[which] + rng.random(which.size) - 64
    x[kept.size :] += rng.normal(0, 0.7, repeated.size)
    y[kept.size :] += rng.normal(0, 0.7, repeated.size)
    mirrored, swapped = rng.random() < 0.5, rng.random() < 0.25 and not stage.gentle
    if mirrored:
        x = -x
    angle, wide = np.deg2rad(rng.normal(0, 5)), np.exp(rng.uniform(-0.2, 0.2))
    high = wide * np.exp(rng.uniform(-0.07, 0.07))
    x, y = (
        wide * (np.cos(angle) * x - np.sin(angle) * y) + 64 + rng.uniform(-16, 16),
        high * (np.sin(angle) * x + np.cos(angle) * y) + 64 + rng.uniform(-14, 14),
    )
    p = events.p[which] ^ np.uint8(swapped)
    t = t[which]
    if rng.random() < 0.3 and not stage.gentle:  # a noisier sensor
        noise = min(int(rng.exponential(0.3) * 128 * 128 * window_us * 1e-6), 60_000)
        t = np.concatenate((t, rng.integers(t.min(), t.max() + 1, noise)))
        x, y = (np.concatenate((side, 128 * rng.random(noise))) for side in (x, y))
        p = np.concatenate((p, rng.integers(0, 2, noise, dtype=np.uint8)))
    inside = (x >= 0) & (x < 128) & (y >= 0) & (y < 128)
    order = np.flatnonzero(inside)[np.argsort(t[inside], kind="stable")]
    columns = {"t": t[order], "x": x[order].astype(np.uint16), "y": y[order].astype(np.uint16), "p": p[order]}
    return Events(**columns, sensor_size=(128, 128)), int(MIRRORED[label]) if mirrored else label


class Windows(torch.utils.data.IterableDataset):
    """Augmented frames (T, 2, side, side) and labels without end; in each round every class comes equally often."""

    def __init__(
        self, archives: list[EventArchive], stage: Stage, model: EventClassifier, seed: tuple[int, ...]
    ) -> None:
        self.archives, self.stage, self.preprocessing, self.seed = archives, stage, model.preprocessing, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((*self.seed, worker.id if worker else 0))
        clips = [(archive, index) for archive in self.archives for index in range(len(archive))]
        labels = np.concatenate([archive.labels for archive in self.archives])
        of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        each = -(-labels.size // len(of_class))
        while True:
            for place in rng.permutation(np.concatenate([np.resize(rng.permutation(own), each) for own in of_class])):
                archive, index = clips[place]
                events, label = augmented(archive[index], int(archive.labels[index]), self.stage, rng)
                if len(events):
                    yield self.preprocessing.frames(events), label


def start_from(model: EventClassifier, before: EventClassifier) -> None:
    """Give `model` the weights of `before`, as far as they fit; a head of frames of half the size is enlarged.

    The hidden layer of such a head sees a quarter of the pixels and has a quarter of the units: each weight is spread
    over the four pixels that stand for its own, and the units beyond keep their fresh weights.
    """
    own, old = model.state_dict(), before.state_dict()
    fitting = {key: value for key, value in old.items() if key in own and own[key].shape == value.shape}
    hidden, output = "classifier.classifier.hidden", "classifier.classifier.output"
    if f"{hidden}.weight" in old.keys() & own.keys() - fitting.keys():
        units, channels = old[f"{hidden}.weight"].shape[0], model.classifier.classifier.convs[-3].out_channels
        side = round((old[f"{hidden}.weight"].shape[1] / channels) ** 0.5)
        weight = old[f"{hidden}.weight"].unflatten(1, (channels, side, side)) / 4
        own[f"{hidden}.weight"][:units] = weight.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(1)
        own[f"{hidden}.bias"][:units] = old[f"{hidden}.bias"]
        own[f"{output}.weight"][:, :units] = old[f"{output}.weight"]
    model.load_state_dict(own | fitting)


@torch.no_grad()
def accuracy(model: EventClassifier, archives: list[EventArchive]) -> float:
    model.eval()
    right = 0
    for archive in archives:
        for part in np.array_split(np.arange(len(archive)), 5):
            frames = torch.stack([model.preprocessing.frames(archive[i]) for i in part], dim=1)
            predicted = model(frames).argmax(1)
            right += int((predicted == torch.from_numpy(np.asarray(archive.labels)[part])).sum())
    model.train()
    return right / sum(map(len, archives))


def train(name: str, stage: Stage, root: Path, clips: dict[str, list[EventArchive]], seed: int) -> None:
    """Train one stage into `root/name`, from where it was left."""
    folder = root / name
    state_file = folder / "state.pt"
    if (folder / "metrics.json").exists():
        return
    torch.manual_seed(seed)
    size = (stage.side, stage.side)
    model = rsnn.create_model(stage.model, frame_size=size, normalize="log1p")
    if stage.channels:
        wide = model.classifier
        model.classifier = rsnn.nn.SCNN(
            wide.in_channels, wide.num_classes, wide.in_size, wide.pools, channels=stage.channels
        )
    if stage.start:
        before = rsnn.load(root / stage.start / "best")
        if stage.other:
            own, other = before.state_dict(), rsnn.load(root / stage.other / "best").state_dict()
            mixing = [key for key in own if key.startswith(stage.part) and own[key].is_floating_point()]
            mixed = {key: own[key].lerp(other[key], stage.share) for key in mixing}
            before.load_state_dict(own | mixed)
        start_from(model, before)
    if stage.freeze:
        model.freeze("encoder")
    train_clips, validation = (clips[part] + stage.more * clips[f"{part}, more"] for part in ("train", "validation"))
    if not stage.passes:
        model.save_pretrained(folder / "best")
        _write_metrics(folder, stage, seed, *[accuracy(model, validation)] * 2)
        return
    groups = model.parameter_groups(weight_decay=0.01, classifier_lr=stage.lr, encoder_lr=stage.lr)
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=stage.lr)
    steps = stage.passes // BATCH
    planned = max(stage.planned or 0, stage.passes) // BATCH
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=planned + 1, pct_start=0.08, div_factor=10, final_div_factor=100
    )
    done, best, last = 0, -1.0, -1.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done, best = state["done"], state["best"]
    workers = max((os.cpu_count() or 1) - 1, 0)
    windows = Windows(train_clips, stage, model, (seed, done))
    loader = iter(torch.utils.data.DataLoader(windows, BATCH, num_workers=workers, collate_fn=_batch))
    model.train()
    for step in track(range(done, steps), name, steps - done):
        frames, labels = next(loader)
        features = model.forward_features(frames)[step % stage.stride :: stage.stride]
        scores, _ = model.classifier(features)
        loss = F.cross_entropy(model.logit_scale * scores, labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % (CHECK // BATCH) and step + 1 < steps:
            continue
        last = accuracy(model, validation)
        print(f"{name}: {(step + 1) * BATCH} passes, loss {loss.item():.3f}, validation {last:.4f}")
        if last >= best:
            best = last
            model.save_pretrained(folder / "best")
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        state = {key: part.state_dict() for key, part in parts.items()} | {"done": step + 1, "best": best}
        torch.save(state, state_file.with_suffix(".tmp"))
        state_file.with_suffix(".tmp").replace(state_file)
    _write_metrics(folder, stage, seed, best, last)


def _write_metrics(folder: Path, stage: Stage, seed: int, best: float, last: float) -> None:
    metrics = {"selected_accuracy": best, "last_accuracy": last, "seed": seed, "passes": stage.passes}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def _batch(samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    frames, labels = zip(*samples, strict=True)
    return torch.stack(frames, dim=1), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", choices=sorted(STAGES), default="cl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few clips and passes, to see that everything runs")
    arguments = parser.parse_args()
    share = 50 if arguments.quick else 1
    folder = arguments.output / "clips"
    clips = {
        "train": simulate(folder, "train", TRAIN // share),
        "train, more": simulate(folder, "train", MORE // share, seed=1, hard=True),
        "validation": simulate(folder, "validation", VALIDATION // share),
        "validation, more": simulate(folder, "validation", VALIDATION // share, seed=1),
        "test": simulate(folder, "test", TEST // share),
    }
    for name, stage in STAGES[arguments.model].items():
        quick = Stage(**{**vars(stage), "passes": min(stage.passes, BATCH)}) if arguments.quick else stage
        train(name, quick, arguments.output, clips, arguments.seed)
        model = rsnn.load(arguments.output / name / "best")
        if name == stage.model or stage.channels:
            print(f"{name}: {accuracy(model, clips['test']):.4f} of the simulated test clips right")


if __name__ == "__main__":
    main()
