"""Train the gesture checkpoints (tag `sim`) on clips that are simulated meanwhile.

    python examples/train_gesture.py runs/gesture --models cl cla scnn --minutes 60

Some processes have performers of `SimulatedGestures` carry out gestures and film them as long as the training lasts;
one process a model trains on all clips there are so far. Both are done on the GPU where there is one (filming there
needs CuPy). `cl` and `cla` are an encoder under two classifiers at once, its decision head and the spiking CNN: they
become `convlstm-gesture-cl-sum` and `rsnn-gesture-cl`, or `convlstm-gesture-cla-mean` and `rsnn-gesture-cla`. `scnn`
has no encoder.

What a network sees is a random window of a clip, or its begin, mirrored, turned, scaled, shifted, thinned or thickened,
through a sensor with more noise, dead light or exchanged polarities. Windows of more than two seconds get more time
steps, as `Preprocessing.max_step_ms` gives them to whole recordings. The learning rate rises, and falls to nothing at
the end of the minutes; what is kept is the moving average of the weights. Nothing is selected: the validation clips, of
performers of their own as the test clips are, only tell how it went.

`--start` goes on from checkpoints, of the zoo or in `FOLDER/<name>`. From nothing, the encoder CL learns which way an
arm turns only from short windows in which the arm moves little from one frame to the next: give it
`--window 0.25 0.7` first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rsnn
from rsnn.data.simulate import SimulatedGestures

MODELS = {
    "cl": ("convlstm-gesture-cl-sum", "rsnn-gesture-cl"),
    "cla": ("convlstm-gesture-cla-mean", "rsnn-gesture-cla"),
    "scnn": ("scnn-gesture",),
}
SIDE = {"cl": 128, "cla": 64, "scnn": 128}  # of the frames; attention takes sixteen times as long on whole ones
STEPS, CLASSES, OTHER = 20, 11, 10
MAX_STEP_MS = 100  # what lasts longer than STEPS of these is cut into 2, 3, ... times as many steps
TICK_US = 100  # events are kept in 32 bits: ticks since the clip's begin, y, x, polarity
SLICE = 100  # ticks; windows begin and end with slices of so many
SECONDS = (0.8, 6.0)  # of the clips to train with; validation clips are as the test's
OTHERS = 3  # clips of other_gestures beside those of each round of the eleven: there are as many kinds of them
BEGINNINGS, LEAST_STEPS = 0.25, 4  # share of the batches that end early, lest the first steps be too sure
LONG, MULTIPLES = 0.1, (2, 3)  # share of the batches with windows of 2 or 3 times STEPS
MIRRORED = torch.tensor([0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10])  # what a class is in a mirror


# --- Clips


def simulate(folder: Path, worker: int, workers: int, validation: int, seed: int, device: str) -> None:
    """Make this worker's share of the validation clips, then clips to train with, file after file, without end."""
    torch.set_num_threads(1)
    clips = SimulatedGestures(validation, seed, split="validation", device=device)
    for first in range(worker * CLASSES, validation, workers * CLASSES):
        write(folder / f"validation-{seed}-{first:05d}.npz", (clips, range(first, first + CLASSES)))
    clips, others = (
        SimulatedGestures(10**7, seed + i, split="train", duration_s=SECONDS, device=device) for i in (0, 1)
    )
    for round_ in range(worker, 10**5, workers):
        of_all = range(round_ * CLASSES, (round_ + 1) * CLASSES)
        more = [(round_ * OTHERS + i) * CLASSES + OTHER for i in range(OTHERS)]
        write(folder / f"train-{seed}-{round_:05d}.npz", (clips, of_all), (others, more))


def write(file: Path, *chosen: tuple[SimulatedGestures, Sequence[int]]) -> None:
    """Simulate these clips into `file`, unless it is there."""
    if file.exists():
        return
    clips, labels = [], []
    for data, indices in chosen:
        for events, label in data.__getitems__(list(indices)):
            ticks = (events.t // TICK_US).astype(np.int32)
            clips.append(ticks << 15 | events.y.astype(np.int32) << 8 | events.x.astype(np.int32) << 1 | events.p)
            labels.append(label)
    made = file.with_suffix(".tmp")
    with made.open("wb") as target:
        np.savez(target, events=np.concatenate(clips), ends=np.cumsum([len(clip) for clip in clips]), labels=labels)
    made.replace(file)


class Clips:
    """The clips of a part that are there so far, on a device."""

    def __init__(self, folder: Path, part: str, device: torch.device) -> None:
        self.folder, self.part, self.device = folder, part, device
        self.events: list[Tensor] = []  # of one clip each
        self.first: list[np.ndarray] = []  # of each clip: its first event of every SLICE ticks, and their number
        self.of_class: list[list[int]] = [[] for _ in range(CLASSES)]
        self.labels: list[int] = []
        self.seen: set[Path] = set()

    def refresh(self) -> None:
        """Load the files that have come since."""
        for file in sorted(set(self.folder.glob(f"{self.part}-*.npz")) - self.seen):
            self.seen.add(file)
            with np.load(file) as archive:
                events, ends, labels = (archive[name] for name in ("events", "ends", "labels"))
            for clip, label in zip(np.split(events, ends[:-1]), labels.tolist(), strict=True):
                if len(clip) < 20:
                    continue
                self.of_class[label].append(len(self.labels))
                self.labels.append(label)
                slices = np.arange((clip[-1] >> 15) // SLICE + 2, dtype=np.int32)
                self.first.append(np.searchsorted(clip, slices * SLICE << 15).astype(np.int32))
                self.events.append(torch.from_numpy(clip).to(self.device))

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class View:
    """How clips are seen: side of the frames, shortest and longest window in seconds, and its time steps."""

    side: int
    window_s: tuple[float, float]
    steps: int = STEPS

    def longer(self, multiple: int) -> View:
        """Return the view of windows that need `multiple` times the steps."""
        shortest = (multiple - 1) * STEPS * MAX_STEP_MS / 1000
        return View(self.side, (shortest, shortest + STEPS * MAX_STEP_MS / 1000), multiple * STEPS)


def frames_of(clip: Tensor, side: int) -> Tensor:
    """Return the words of a whole clip as counts (T, 1, 2, side, side)."""
    ticks = (clip >> 15) - (clip[0] >> 15)
    T = STEPS * max(1, math.ceil(float(ticks[-1]) * TICK_US / (STEPS * MAX_STEP_MS * 1000)))
    step = (ticks * T).div(ticks[-1] + 1, rounding_mode="floor")
    return _count(torch.zeros_like(step), step, clip >> 1 & 127, clip >> 8 & 127, clip & 1, (T, 1), side)


def _count(
    sample: Tensor, step: Tensor, x: Tensor, y: Tensor, p: Tensor, steps_samples: tuple[int, int], side: int
) -> Tensor:
    """Return counts (T, N, 2, side, side) of events at (x, y) on 128 x 128 pixels; others than these are left out."""
    T, N = steps_samples
    pixel = 128 // side
    column, row = x.floor().long(), y.floor().long()
    cell = (((step.long() * N + sample) * 2 + p) * side + row // pixel) * side + column // pixel
    inside = (column >= 0) & (column < 128) & (row >= 0) & (row < 128)
    counts = torch.zeros(T * N * 2 * side * side, device=x.device)
    counts.index_add_(0, cell.clamp(0, counts.numel() - 1), inside.float())
    return counts.reshape(T, N, 2, side, side)


def batch(clips: Clips, size: int, view: View, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return frames (T, N, 2, side, side) of random windows through random sensors, and labels (N)."""
    labels = rng.permutation(np.resize(rng.permutation(CLASSES), size))
    chosen = [_choose(clips, label, view.window_s[0], rng) for label in labels]
    parts, begins, spans = [], [], []
    for index in chosen:
        first_of = clips.first[index]
        total = len(first_of) - 1
        window = min(total, round(math.exp(rng.uniform(*np.log(view.window_s))) * 1e6 / TICK_US / SLICE))
        if rng.random() < 0.1:
            window = total
        begin = int(rng.integers(total - window + 1))
        first, end = first_of[begin], first_of[begin + window]
        if end - first < 20:
            begin, window, first, end = 0, total, 0, first_of[-1]
        parts.append(clips.events[index][first:end])
        begins.append(begin * SLICE)
        spans.append(window * SLICE)
    device, u = clips.device, rng.uniform
    angle, wide = np.deg2rad(rng.normal(0, 5, size)), np.exp(u(-0.2, 0.2, size))
    high = wide * np.exp(u(-0.07, 0.07, size))
    mirrored, swapped = rng.random(size) < 0.5, rng.random(size) < 0.25
    sign = np.where(mirrored, -1.0, 1.0)
    # From 0.37 to twice as many events, ON and OFF not quite alike: each is kept or repeated; a repeat lands nearby.
    gain, tilt = np.exp(u(-1.0, 0.7, size)), rng.normal(0, 0.12, size)
    columns = [
        wide * np.cos(angle) * sign, -wide * np.sin(angle), 64 + u(-16, 16, size),
        high * np.sin(angle) * sign, high * np.cos(angle), 64 + u(-14, 14, size),
        gain * np.exp(-tilt), gain * np.exp(tilt), swapped, begins, spans,
    ]  # fmt: skip
    of_sample = torch.tensor(np.stack(columns), dtype=torch.float32, device=device)
    # A GPU takes all windows at once; on a CPU one at a time stays in its cache, which is several times as fast.
    groups = [slice(0, size)] if device.type == "cuda" else [slice(i, i + 1) for i in range(size)]
    frames = torch.cat([_seen(parts[g], of_sample[:, g], np.asarray(spans[g]), view, rng) for g in groups], dim=1)
    target = torch.from_numpy(labels)
    return frames, torch.where(torch.from_numpy(mirrored), MIRRORED[target], target).to(device)


def _seen(parts: list[Tensor], of_sample: Tensor, spans: np.ndarray, view: View, rng: np.random.Generator) -> Tensor:
    """Return counts (T, N, 2, side, side) of windows' words through the sensors that `of_sample` (11, N) describes."""
    N, device = len(parts), of_sample.device
    words = torch.cat(parts)
    if N == 1:
        sample = words.new_zeros(())
    else:
        lengths = torch.tensor([len(part) for part in parts], device=device)
        sample = torch.repeat_interleave(torch.arange(N, device=device), lengths, output_size=len(words))
    luck = torch.rand(words.numel(), device=device)
    kept = of_sample[6:8].T.flatten()[2 * sample + (words & 1)]
    copies = (luck < kept).int() + (luck < kept - 1).int()
    which = torch.repeat_interleave(copies)
    repeated = (which[1:] == which[:-1]).nonzero().flatten() + 1
    words = words[which]
    if N > 1:
        sample = sample[which]
    xx, xy, x0, yx, yy, y0, *_, swap, begin, span = of_sample[:, sample]
    x, y = ((words >> shift & 127) - 64 + torch.rand(words.numel(), device=device) for shift in (1, 8))
    for axis in (x, y):
        axis[repeated] += 0.7 * torch.randn(len(repeated), device=device)
    x, y = xx * x + xy * y + x0, yx * x + yy * y + y0
    step = (((words >> 15) - begin) * view.steps / span).long().clamp(0, view.steps - 1)
    p = words & 1 ^ swap.int()
    events = [(sample.expand(len(words)), step, x, y, p), _noise(spans * TICK_US * 1e-6, view.steps, rng, device)]
    return _count(*map(torch.cat, zip(*events, strict=True)), (view.steps, N), view.side)


def _choose(clips: Clips, label: int, seconds: float, rng: np.random.Generator) -> int:
    """Return a clip of a class that lasts so long; any of the class when none is found."""
    for _ in range(20):
        index = int(rng.choice(clips.of_class[label]))
        if len(clips.first[index]) > seconds * 1e6 / TICK_US / SLICE:
            break
    return index


def _noise(seconds: np.ndarray, steps: int, rng: np.random.Generator, device: torch.device) -> tuple[Tensor, ...]:
    """Return events of noisier sensors: three in ten have more of it everywhere, as many a few hot pixels."""
    N = len(seconds)
    everywhere = np.minimum(rng.exponential(0.3, N) * 128 * 128 * seconds, 60_000) * (rng.random(N) < 0.3)
    hot = rng.integers(1, 12, N) * (rng.random(N) < 0.3)
    pixel_of = np.repeat(np.arange(N), hot)
    of_pixel = rng.poisson(rng.exponential(15, len(pixel_of)) * seconds[pixel_of])
    sample = np.concatenate((np.repeat(np.arange(N), everywhere.astype(np.int64)), np.repeat(pixel_of, of_pixel)))
    total = len(sample)
    x, y = (128 * torch.rand(total, device=device) for _ in range(2))
    places = torch.rand(2, len(pixel_of), device=device) * 128
    here = torch.from_numpy(np.repeat(np.arange(len(pixel_of)), of_pixel)).to(device)
    x[total - len(here) :], y[total - len(here) :] = places[:, here]
    step, p = (torch.randint(high, (total,), device=device) for high in (steps, 2))
    return torch.from_numpy(sample).to(device), step, x, y, p.int()


# --- Training


class Networks(nn.Module):
    """The classifiers of one encoder, which is shared; or a network without one."""

    def __init__(self, kind: str, start: str | None) -> None:
        super().__init__()
        size = {"frame_size": (SIDE[kind], SIDE[kind]), "num_frames": STEPS, "normalize": "log1p"}
        self.members = nn.ModuleList(rsnn.create_model(name, **size) for name in MODELS[kind])
        for name, member in zip(MODELS[kind], self.members, strict=True):
            if start:
                folder = Path(start) / name
                member.load_state_dict(rsnn.load(folder if folder.is_dir() else name).state_dict())
        for member in self.members[1:]:
            member.encoder = self.members[0].encoder

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Return the logits (N, K) of every classifier."""
        first = self.members[0]
        features = first.forward_features(frames)
        return [member.logit_scale * member.classifier(features)[0] for member in self.members]


@torch.no_grad()
def accuracies(networks: nn.Module, clips: Clips, side: int) -> list[float]:
    """Return the share of the clips that each classifier has right."""
    networks.eval()
    answers = [torch.cat(networks(frames_of(clip, side))).argmax(1).cpu() for clip in clips.events]
    networks.train()
    return (torch.stack(answers, 1) == torch.tensor(clips.labels)).float().mean(1).tolist()


def train(kind: str, output: Path, options: argparse.Namespace) -> None:
    """Train the networks of `kind` for the given minutes, into `output/<name>`."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    device = torch.device(options.device)
    networks = Networks(kind, options.start).to(device)
    average = AveragedModel(networks, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    decayed = [p for p in networks.parameters() if p.ndim > 1]
    others = [p for p in networks.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr)
    clips = Clips(output / "clips", "train", device)
    validation = Clips(output / "clips", "validation", device)
    view = View(SIDE[kind], tuple(options.window))
    state_file = output / f"{kind}.pt"
    spent, passes = 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        networks.load_state_dict(state["networks"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        spent, passes = state["spent"], state["passes"]
    while len(clips) < options.least:
        time.sleep(1)
        clips.refresh()
    limit = 60 * options.minutes
    told = saved = time.monotonic()
    begin = told - spent
    loss_sum, right, shown = 0.0, torch.zeros(len(MODELS[kind]), device=device), 0
    networks.train()
    # On a GPU, whole windows are replays of a graph a length; beginnings are of too many to keep one of each.
    whole = rsnn.kernels.graphed(networks) if options.graphs else networks
    while (spent := time.monotonic() - begin) < limit:
        done = spent / limit
        rate = options.lr * (done / 0.05 if done < 0.05 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.05) / 0.95))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, options.lr / 100)
        kind_of_window = rng.random()
        begins, long = kind_of_window < BEGINNINGS, kind_of_window > 1 - LONG
        frames, labels = batch(clips, options.batch, view.longer(rng.choice(MULTIPLES)) if long else view, rng)
        logits = networks(frames[: rng.integers(LEAST_STEPS, STEPS)]) if begins else whole(frames)
        loss = sum(F.cross_entropy(scores, labels, label_smoothing=0.05) for scores in logits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(networks)
        passes += options.batch
        loss_sum, shown = loss_sum + loss.detach(), shown + options.batch
        right += torch.stack([(scores.argmax(1) == labels).sum() for scores in logits])
        if time.monotonic() - told > 20:
            told = time.monotonic()
            share = ", ".join(f"{x:.3f}" for x in (right / shown).tolist())
            print(
                f"{kind}: {spent:.0f} of {limit:.0f} s, {passes} windows of {len(clips)} clips, right {share}, "
                f"loss {float(loss_sum) / shown * options.batch:.3f}",
                flush=True,
            )
            loss_sum, shown = 0.0, 0
            right.zero_()
            clips.refresh()
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            parts = {"networks": networks, "average": average, "optimizer": optimizer}
            state = {name: part.state_dict() for name, part in parts.items()} | {"passes": passes, "spent": spent}
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
    validation.refresh()
    found = {"validation_last_state": accuracies(networks, validation, view.side)}
    found["validation_average"] = accuracies(average.module, validation, view.side)
    for place, (name, member) in enumerate(zip(MODELS[kind], average.module.members, strict=True)):
        plain = rsnn.create_model(name)
        member.cpu().preprocessing = dataclasses.replace(
            member.preprocessing, window_ms=plain.preprocessing.window_ms, max_step_ms=MAX_STEP_MS
        )
        member.save_pretrained(output / name / "best")
        metrics = {part: right[place] for part, right in found.items()}
        metrics |= {"passes": passes, "clips": len(clips), "validation_clips": len(validation), "seed": options.seed}
        (output / name / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"{name}: {metrics}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["cl"])
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, for each model")
    parser.add_argument(
        "--start", metavar="FOLDER", help="go on from FOLDER/<name>, or from the zoo where it is not there"
    )
    parser.add_argument("--window", nargs=2, type=float, default=(0.5, 3.0), metavar=("SHORTEST", "LONGEST"))
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--least", type=int, default=500, help="clips to wait for before the training begins")
    parser.add_argument("--validation", type=int, default=440, help="clips, eleven to a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--film", metavar="DEVICE", help="where clips are filmed; where the training is by default")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs")
    parser.add_argument("--simulators", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="processes that film")
    parser.add_argument("--threads", type=int, default=1, help="of each training on a CPU")
    options = parser.parse_args()
    film = options.film or options.device
    try:
        SimulatedGestures(1, device=film)[0]
    except rsnn.errors.RSNNError as error:
        parser.error(f"no clip can be filmed: {error}")
    (options.output / "clips").mkdir(parents=True, exist_ok=True)
    spawn = get_context("spawn")
    folder = options.output / "clips"
    common = (options.simulators, options.validation, options.seed, film)
    shares = [(folder, worker, *common) for worker in range(options.simulators)]
    cameras = [spawn.Process(target=simulate, args=share, daemon=True) for share in shares]
    trainings = [spawn.Process(target=train, args=(kind, options.output, options)) for kind in options.models]
    for process in (*cameras, *trainings):
        process.start()
    for process in track(trainings, "training"):
        process.join()
    for process in cameras:
        process.terminate()
    if failed := [kind for kind, process in zip(options.models, trainings, strict=True) if process.exitcode]:
        raise SystemExit(f"the training of {', '.join(failed)} failed")


if __name__ == "__main__":
    main()
