"""Train the gesture checkpoints (tag `sim`) on clips that are simulated meanwhile.

    python examples/train_gesture.py runs/gesture --models cl cla scnn --minutes 60

Some processes have performers of `SimulatedGestures` carry out gestures and film them as long as the training lasts, or
until there are as many clips as `--most` says; one process a model trains on all clips there are so far. Both are done
on the GPU where there is one (filming there needs CuPy; with it, one kernel, `gesture_windows.cu`, makes the frames of
a batch). `cl` and `cla` are an encoder under two classifiers at once, its decision head and the spiking CNN: they
become `convlstm-gesture-cl-sum` and `rsnn-gesture-cl`, or `convlstm-gesture-cla-mean` and `rsnn-gesture-cla`. `cl-sum`
and `cla-mean` are an encoder under its decision head alone; `scnn` has no encoder.

What a network sees is a random window of a clip, or its begin. Half of the windows are mirrored, turned, scaled,
shifted, thinned or thickened, through a sensor with more noise or exchanged polarities; the others are mirrored and
little else. Windows of more than two seconds get more time steps, as `Preprocessing.max_step_ms` gives them to whole
recordings. `--short` clips of 0.5 to 2 s come besides, of more performers in the same time; most batches are of them
then, whole and hardly distorted: networks are wrong about short clips far more often than about long ones.

The learning rate rises, and falls to nothing at the end of the minutes; what is kept is the moving average of the
weights, in `<name>/best` from the first minute on. Nothing is selected: the validation clips, of performers of their
own as the test clips are, only tell how it went, and `--validation 0` does without them.

`--start` goes on from checkpoints, of the zoo or in `FOLDER/<name>`. From nothing, the encoder CL learns which way an
arm turns only from short windows in which the arm moves little from one frame to the next: give it
`--window 0.25 0.7` first.

`--teachers` are checkpoints that see the same windows; what they say of them counts as much as the labels do
(distillation, Hinton et al. 2015). `--hints` has `cla` begin where `cl` is (`gesture_hints.py`): batches to learn the
features of its encoder from, then the weights of its classifiers. `--revive` gives units of the decision head that
never fire fresh weights first (`silent_units.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gesture_clips import CLASSES, TOGETHER, Clips, simulate
from gesture_hints import learn_features, take_over
from gesture_windows import MAX_STEP_MS, STEPS, WHOLE_S, View, batch, frames_of
from rich.progress import track
from silent_units import revive
from torch import Tensor, nn
from torch.nn import functional as F

import rsnn
from rsnn.data.simulate import SimulatedGestures

MODELS = {
    "cl": ("convlstm-gesture-cl-sum", "rsnn-gesture-cl"),
    "cla": ("convlstm-gesture-cla-mean", "rsnn-gesture-cla"),
    "cl-sum": ("convlstm-gesture-cl-sum",),
    "cla-mean": ("convlstm-gesture-cla-mean",),
    "scnn": ("scnn-gesture",),
}
SIDE = 128  # of the frames
GAINS = (
    STEPS,
    1,
)  # CL's head takes the sum of the steps, CLA's their mean, a STEPS-th of it; both SCNNs take all steps
BEGINNINGS, ENDS = 0.15, (5, 9, 14)  # share of the batches that end early, lest the first steps be too sure; after what
LONG, MULTIPLES = 0.25, (2, 3)  # share of the batches with windows of 2 or 3 times STEPS
SHORT = 0.7  # share of the batches that are short clips, if there are any
SMOOTHED = 0.05  # share of a label that goes to all classes alike
TRUST = 0.5  # in teachers; the rest is in the label
AVERAGED = 0.998  # what the average of the weights keeps of itself in each step
AHEAD = 4  # batches that the GPU may be behind


class Networks(nn.Module):
    """The classifiers of one encoder, which is shared; or a network without one."""

    def __init__(self, kind: str, start: str | None) -> None:
        super().__init__()
        size = {"frame_size": (SIDE, SIDE), "num_frames": STEPS, "normalize": "log1p"}
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


class Lesson(NamedTuple):
    """A batch to learn from."""

    frames: Tensor  # (T, N, 2, SIDE, SIDE)
    target: Tensor  # probabilities (N, K)
    labels: Tensor  # (N)


class Lessons:
    """Batches to learn from, without end.

    Args:
        clips: where windows are from.
        short: clips that are seen whole.
        view: of the windows; some batches have longer ones, some end early.
        options: of the command line.
        rng: what chooses.

    """

    def __init__(
        self, clips: Clips, short: Clips, view: View, options: argparse.Namespace, rng: np.random.Generator
    ) -> None:
        self.clips, self.short, self.view, self.options, self.rng = clips, short, view, options, rng
        self.teachers = [_quick(rsnn.load(name).to(clips.device).eval(), options) for name in options.teachers]

    @torch.no_grad()
    def draw(self) -> Lesson:
        """Return a batch."""
        if self.short.of_class.all() and self.rng.random() < SHORT:
            view = View(self.view.side, WHOLE_S, distorted=0)
            frames, labels = batch(self.short, self.options.batch, view, self.rng)
        else:
            frames, labels = self._windows()
        target = F.one_hot(labels, CLASSES) * (1 - SMOOTHED) + SMOOTHED / CLASSES
        if self.teachers:
            said = sum(teacher(frames).softmax(1) for teacher in self.teachers) / len(self.teachers)
            target = torch.lerp(target, said, TRUST)
        return Lesson(frames, target, labels)

    def _windows(self) -> tuple[Tensor, Tensor]:
        kind_of_window = self.rng.random()
        ends, long = kind_of_window < BEGINNINGS, kind_of_window > 1 - LONG
        view = self.view.longer(int(self.rng.choice(MULTIPLES))) if long else self.view
        frames, labels = batch(self.clips, self.options.batch, view, self.rng)
        return frames[: int(self.rng.choice(ENDS))] if ends else frames, labels


def _quick(function: Callable[..., Any], options: argparse.Namespace) -> Callable[..., Any]:
    """Return `function` so that its calls on a GPU are replays of a graph a length, if graphs are wanted."""
    return rsnn.kernels.graphed(function, most=8) if options.graphs else function


def begin_as_cl(networks: Networks, draw: Callable[[], Tensor], batches: int) -> None:
    """Have the encoder CLA learn to say what CL says, and give its classifiers the weights of CL's."""
    device = next(networks.parameters()).device
    teachers = [rsnn.load(name).to(device).eval() for name in MODELS["cl"]]
    readout = learn_features(networks.members[0], teachers[0], draw, batches)
    for member, teacher, gain in zip(networks.members, teachers, GAINS, strict=True):
        take_over(member, teacher, readout, gain)


@torch.no_grad()
def revive_head(networks: Networks, draw: Callable[[], Tensor], batches: int) -> None:
    """Revive the units of the decision head that are silent for so many batches."""
    member = networks.members[0].eval()
    reduction, head = member.classifier.reduction, member.classifier.classifier
    maps = torch.cat([reduction(member.forward_features(draw()))[0] for _ in range(batches)])
    print(f"{revive(head, maps)} units that never fired have fresh weights", flush=True)
    member.train()


@torch.no_grad()
def accuracies(networks: nn.Module, clips: Clips) -> list[float]:
    """Return the share of the clips that each classifier has right."""
    networks.eval()
    answers = [torch.cat(networks(frames_of(clip, SIDE))).argmax(1).cpu() for clip in clips.events]
    networks.train()
    return (torch.stack(answers, 1) == torch.from_numpy(clips.labels)).float().mean(1).tolist()


@torch.no_grad()
def follow(average: nn.Module, networks: nn.Module) -> None:
    """Move the average of the weights on. (torch.optim.swa_utils would wait for the GPU in each step.)"""
    pairs = zip((*average.parameters(), *average.buffers()), (*networks.parameters(), *networks.buffers()), strict=True)
    moving, counting = [], []
    for pair in pairs:
        (moving if pair[0].is_floating_point() else counting).append(pair)
    torch._foreach_lerp_([own for own, _ in moving], [new.detach() for _, new in moving], 1 - AVERAGED)
    for own, new in counting:
        own.copy_(new)


def keep(kind: str, networks: Networks, output: Path) -> None:
    """Write the classifiers into `output/<name>/best`, over those that are there."""
    for name, member in zip(MODELS[kind], networks.members, strict=True):
        plain, member = rsnn.create_model(name), deepcopy(member).cpu()
        member.preprocessing = dataclasses.replace(
            member.preprocessing, window_ms=plain.preprocessing.window_ms, max_step_ms=MAX_STEP_MS
        )
        member.save_pretrained(output / name / "best")


def train(kind: str, output: Path, options: argparse.Namespace) -> None:
    """Train the networks of `kind` for the given minutes, into `output/<name>`."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    device = torch.empty(0, device=options.device).device  # with its number
    if device.type == "cuda":
        torch.cuda.set_device(device)
    networks = Networks(kind, options.start).to(device)
    average = deepcopy(networks)
    decayed = [p for p in networks.parameters() if p.ndim > 1]
    others = [p for p in networks.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=device.type == "cuda")
    clips, short = (Clips(output / "clips", part, device) for part in ("train", "short"))
    validation = Clips(output / "clips", "validation", device)
    view = View(SIDE, tuple(options.window))
    state_file = output / f"{kind}.pt"
    spent, passes = 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        networks.load_state_dict(state["networks"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        spent, passes = state["spent"], state["passes"]
    clips.refresh()
    while len(clips.seen) * TOGETHER < options.least or not clips.of_class.all():
        time.sleep(1)
        clips.refresh()
    short.refresh()
    if options.hints and kind == "cla" and not passes:
        begin_as_cl(networks, lambda: batch(clips, options.batch, view, rng)[0], options.hints)
        average.load_state_dict(networks.state_dict())
    limit = 60 * options.minutes
    told = saved = time.monotonic()
    begin = told - spent
    loss_sum, right, shown = 0.0, torch.zeros(len(MODELS[kind]), device=device), 0
    networks.train()
    classify, lessons = _quick(networks, options), Lessons(clips, short, view, options, rng)
    if options.revive and kind != "scnn" and not passes:
        revive_head(networks, lambda: lessons.draw().frames, options.revive)
        average.load_state_dict(networks.state_dict())
    ends: deque[torch.cuda.Event] = deque()  # of the batches that the GPU may not be through with
    while (spent := time.monotonic() - begin) < limit:
        done = spent / limit
        rate = options.lr * (done / 0.05 if done < 0.05 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.05) / 0.95))
        for group in optimizer.param_groups:
            group["lr"] = max(rate, options.lr / 100)
        frames, target, labels = lessons.draw()
        logits = classify(frames)
        loss = sum(F.cross_entropy(scores, target) for scores in logits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        follow(average, networks)
        if device.type == "cuda":  # lest the work that waits for the GPU go on long after the time is over
            ends.append(torch.cuda.Event(blocking=True))
            ends[-1].record()
            if len(ends) > AHEAD:
                ends.popleft().synchronize()
        passes += options.batch
        loss_sum, shown = loss_sum + loss.detach(), shown + options.batch
        right += torch.stack([(scores.argmax(1) == labels).sum() for scores in logits])
        if time.monotonic() - told > 20:
            told = time.monotonic()
            share = ", ".join(f"{x:.3f}" for x in (right / shown).tolist())
            print(
                f"{kind}: {spent:.0f} of {limit:.0f} s, {passes} windows of {len(clips) + len(short)} clips, "
                f"right {share}, loss {float(loss_sum) / shown * options.batch:.3f}",
                flush=True,
            )
            loss_sum, shown = 0.0, 0
            right.zero_()
            clips.refresh()
            short.refresh()
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            parts = {"networks": networks, "average": average, "optimizer": optimizer}
            state = {name: part.state_dict() for name, part in parts.items()} | {"passes": passes, "spent": spent}
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
            try:
                keep(kind, average, output)
            except rsnn.errors.RSNNError as error:
                print(f"{kind}: the weights so far were not kept: {error}", flush=True)
    keep(kind, average, output)
    validation.refresh()
    found = {}
    if len(validation):
        found["validation_last_state"] = accuracies(networks, validation)
        found["validation_average"] = accuracies(average, validation)
    for place, name in enumerate(MODELS[kind]):
        metrics = {part: right[place] for part, right in found.items()}
        metrics |= {"passes": passes, "clips": len(clips) + len(short), "seed": options.seed}
        if len(validation):
            metrics["validation_clips"] = len(validation)
        (output / name / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"{name}: {metrics}", flush=True)


def wait_for(trainings: list[Any], cameras: list[Any], has_clips: Callable[[], bool]) -> None:
    """Wait until the trainings end, and end them where they wait for clips that nobody films any more."""
    for process in track(trainings, "training"):
        while process.exitcode is None:
            process.join(5)
            if all(camera.exitcode for camera in cameras) and not has_clips():
                for waiting in trainings:
                    waiting.terminate()
                raise SystemExit("all processes that film have failed, as told above, before there were --least clips")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=["cl"])
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, for each model")
    parser.add_argument(
        "--start", metavar="FOLDER", help="go on from FOLDER/<name>, or from the zoo where it is not there (or: zoo)"
    )
    parser.add_argument(
        "--window",
        nargs=2,
        type=float,
        default=(0.5, 2.0),
        metavar=("SHORTEST", "LONGEST"),
        help="of the windows of 20 steps, in seconds; longer ones come besides",
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--teachers", nargs="+", default=[], metavar="NAME", help="checkpoints to learn from as well")
    parser.add_argument(
        "--hints", type=int, default=0, metavar="BATCHES", help="that have cla begin as cl; 0: it does not"
    )
    parser.add_argument(
        "--revive", type=int, default=0, metavar="BATCHES", help="that tell which units never fire; 0: none is revived"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--least", type=int, default=500, help="clips to wait for before the training begins")
    parser.add_argument("--most", type=int, metavar="CLIPS", help="to train with, about; without end by default")
    parser.add_argument("--short", type=int, default=0, metavar="CLIPS", help="of 0.5 to 2 s to train with besides")
    parser.add_argument("--validation", type=int, default=440, help="clips, eleven to a file; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--film", metavar="DEVICE", help="where clips are filmed; where the training is by default")
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs")
    parser.add_argument("--simulators", type=int, default=max((os.cpu_count() or 2) - 2, 1), help="processes that film")
    parser.add_argument("--threads", type=int, default=1, help="of each training on a CPU")
    options = parser.parse_args()
    for name in ("minutes", "lr", "batch", "simulators", "threads"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} is {getattr(options, name)}; expected more than 0")
    if not 0 < options.window[0] <= options.window[1]:
        parser.error(f"--window is {options.window[0]} {options.window[1]}; expected 0 < SHORTEST <= LONGEST")
    if options.start not in (None, "zoo") and not Path(options.start).is_dir():
        parser.error(f"--start {options.start} is no folder; expected one of checkpoints, or zoo")
    if options.most is not None and options.most < max(options.least, 1):
        parser.error(f"--most {options.most} is less than --least {options.least}: the training would never begin")
    names = [name for kind in options.models for name in MODELS[kind]]
    if len(set(names)) < len(names):
        parser.error(f"--models {' '.join(options.models)} trains a model twice: {', '.join(sorted(names))}")
    film = options.film or options.device
    try:
        for name in options.teachers:
            rsnn.load(name)
    except rsnn.errors.RSNNError as error:
        parser.error(f"--teachers: {error}")
    try:
        SimulatedGestures(1, device=film)[0]
    except rsnn.errors.RSNNError as error:
        parser.error(f"no clip can be filmed: {error}")
    (options.output / "clips").mkdir(parents=True, exist_ok=True)
    spawn = get_context("spawn")
    folder = options.output / "clips"
    common = (options.simulators, options.validation, options.seed, film, options.most, options.short)
    shares = [(folder, worker, *common) for worker in range(options.simulators)]
    cameras = [spawn.Process(target=simulate, args=share, daemon=True) for share in shares]
    trainings = [spawn.Process(target=train, args=(kind, options.output, options)) for kind in options.models]
    for process in (*cameras, *trainings):
        process.start()
    wait_for(trainings, cameras, lambda: len([*folder.glob("train-*.npz")]) * TOGETHER >= options.least)
    for process in cameras:
        process.terminate()
    if failed := [kind for kind, process in zip(options.models, trainings, strict=True) if process.exitcode]:
        raise SystemExit(f"the training of {', '.join(failed)} failed")


if __name__ == "__main__":
    main()
