"""Train `rsnn-nmnist-cl` from scratch, in the paper's two phases, on 800 recordings of N-MNIST.

    python examples/train_nmnist.py nmnist_1000.npz runs/nmnist-cl

The archive holds the first 1,000 recordings of N-MNIST's official training set, one after another (see
`rsnn.data.EventArchive`). The last 200 validate: they select the epoch and nothing else. Phase 1 trains the encoder
under the sum head, phase 2 the spiking CNN over that encoder, which goes on learning ten times more slowly.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch.nn import functional as F

import rsnn
from rsnn.data import EventArchive

VALIDATION = 200
BATCH_SIZE = 20


def augmented(events: rsnn.Events, rng: np.random.Generator) -> rsnn.Events:
    """Turn, scale, shear and shift the digit, cut the ends off, drop events, and now and then swap the polarities."""
    width, height = events.sensor_size
    angle = np.deg2rad(rng.uniform(-12, 12))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[rng.uniform(0.85, 1.15), rng.uniform(-0.15, 0.15)], [0.0, rng.uniform(0.85, 1.15)]])
    centre = np.array([[width / 2], [height / 2]])
    places = np.stack((events.x + 0.5, events.y + 0.5)) - centre
    x, y = np.floor(turn @ stretch @ places + centre + rng.uniform(-3, 3, (2, 1))).astype(np.int64)
    start = rng.uniform(0, 0.1) * events.duration_us
    end = (1 - rng.uniform(0, 0.1)) * events.duration_us
    since = events.t - events.t[0]
    kept = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (since >= start) & (since <= end)
    kept &= rng.random(len(events)) > rng.uniform(0, 0.3)
    p = 1 - events.p if rng.random() < 0.2 else events.p
    return rsnn.Events(t=events.t[kept], x=x[kept], y=y[kept], p=p[kept], sensor_size=events.sensor_size)


def batch_of(model: torch.nn.Module, recordings: list[rsnn.Events]) -> torch.Tensor:
    """Return the recordings as frames (T, N, 2, H, W)."""
    return torch.stack([model.preprocessing.frames(events) for events in recordings], dim=1)


@torch.no_grad()
def accuracy(model: torch.nn.Module, archive: EventArchive, indices: np.ndarray) -> tuple[float, float]:
    """Return the accuracy and the cross-entropy on these recordings of the archive."""
    model.eval()
    logits = torch.cat([model(batch_of(model, [archive[i] for i in part])) for part in np.array_split(indices, 4)])
    labels = torch.from_numpy(archive.labels[indices])
    return (logits.argmax(1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()


def train(model, archive, *, epochs: int, encoder_lr: float, lr: float, seed: int, title: str) -> dict:
    """Train the model and leave it with the weights of the epoch that validated best."""
    indices = np.arange(len(archive))
    training, validation = indices[:-VALIDATION], indices[-VALIDATION:]
    rng = np.random.default_rng(seed)
    groups = model.parameter_groups(weight_decay=0.01, encoder_lr=encoder_lr, classifier_lr=lr)
    optimizer = torch.optim.AdamW(groups, lr=lr)
    steps = epochs * (len(training) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=steps, pct_start=0.1
    )
    best = (-1.0, 0.0)
    history = []
    with Progress() as progress:
        task = progress.add_task(title, total=steps)
        for epoch in range(1, epochs + 1):
            model.train()
            for chosen in rng.permutation(training).reshape(-1, BATCH_SIZE):
                frames = batch_of(model, [augmented(archive[i], rng) for i in chosen])
                labels = torch.from_numpy(archive.labels[chosen])
                loss = F.cross_entropy(model(frames), labels, label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                progress.advance(task)
            share, entropy = accuracy(model, archive, validation)
            history.append({"epoch": epoch, "loss": loss.item(), "accuracy": share, "cross_entropy": entropy})
            progress.console.print(f"{title} {epoch}: validation {share:.3f} (cross-entropy {entropy:.3f})")
            if (share, -entropy) > best:
                best, selected = (share, -entropy), epoch
                weights = copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return {
        "selected_epoch": selected,
        "selected_accuracy": best[0],
        "last_accuracy": share,
        "history": history,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("output", type=Path, help="folder for the checkpoint and metrics.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, nargs=2, default=(40, 60), metavar=("PHASE1", "PHASE2"))
    arguments = parser.parse_args()

    began = time.perf_counter()
    torch.manual_seed(arguments.seed)
    archive = EventArchive(arguments.archive, sensor_size=(34, 34))
    rnn = rsnn.create_model("convlstm-nmnist-cl-sum")
    phase_1 = train(
        rnn,
        archive,
        epochs=arguments.epochs[0],
        encoder_lr=3e-3,
        lr=3e-3,
        seed=arguments.seed,
        title="phase 1",
    )
    rnn.save_pretrained(arguments.output / "convlstm-nmnist-cl-sum")
    fresh = rsnn.create_model("rsnn-nmnist-cl")
    model = rsnn.RSNN.from_rnn(rnn, fresh.classifier, freeze_encoder=False, logit_scale=fresh.logit_scale)
    phase_2 = train(
        model,
        archive,
        epochs=arguments.epochs[1],
        encoder_lr=3e-4,
        lr=3e-3,
        seed=arguments.seed + 1,
        title="phase 2",
    )
    model.save_pretrained(arguments.output / "rsnn-nmnist-cl")
    metrics = {
        "seed": arguments.seed,
        "minutes": (time.perf_counter() - began) / 60,
        "convlstm-nmnist-cl-sum": phase_1,
        "rsnn-nmnist-cl": phase_2,
    }
    (arguments.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    for name, phase in (("convlstm-nmnist-cl-sum", phase_1), ("rsnn-nmnist-cl", phase_2)):
        print(f"{name}: validation {phase['selected_accuracy']:.3f} selected, {phase['last_accuracy']:.3f} last epoch")


if __name__ == "__main__":
    main()
