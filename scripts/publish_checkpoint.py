"""Put a trained model into the package: evaluate it, write its files and card, its weights entry and its replay test.

    python scripts/publish_checkpoint.py RUN NAME TAG --data nmnist_1000.npz --samples 800:1000

RUN is a folder that `save_pretrained` wrote, or one that holds it (under NAME, `best`, `selected`, `checkpoint` or
`model`); `--runs` names the runs of further seeds. What no program can measure is in `scripts/cards/NAME.TAG.toml`
(see the others there). Every figure is measured here, on the weights as they are published, or read from the runs'
`metrics.json`, or from the JSON file of `--metrics`. `--data` is what evaluates: an archive (.npz) with labels, a
folder of recordings (`FOLDER:PART` for one part of it), or `gestures:NUMBER[:SEED]` for simulated test recordings.

    python scripts/publish_checkpoint.py --readme

only writes the table of checkpoints in the README anew.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import rsnn
from rsnn import hub
from rsnn.data import EventArchive, EventFolder
from rsnn.data.simulate.gestures.dataset import SimulatedGestures
from rsnn.energy import energy_report
from rsnn.errors import InputError
from rsnn.evaluation import evaluate
from rsnn.models import EventClassifier, cards
from rsnn.models.config import describe
from rsnn.models.pretrained import save_model
from rsnn.training.sources import part_of

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- checkpoints: begin -->\n", "<!-- checkpoints: end -->"
CHECKPOINT_FOLDERS = ("best", "selected", "checkpoint", "model")
BATCH_SIZE = 8
REPLAY_FEATURES = 4096  # at most, of the features' elements
REPLAY_CANDIDATES = 32


# What comes in


def find_checkpoint(run: Path, name: str) -> Path:
    """Return the checkpoint's folder in the folder of a run."""
    for folder in (run, *(run / part for part in (name, *CHECKPOINT_FOLDERS))):
        if (folder / hub.CONFIG_FILE).is_file():
            return folder.resolve()
    places = ", ".join((name, *CHECKPOINT_FOLDERS))
    raise InputError(f"{run} has no checkpoint; expected {hub.CONFIG_FILE} in it, or in one of {places} there")


def read_metrics(run: Path, name: str) -> dict[str, Any]:
    """Return the accuracies that a run left in its `metrics.json`, of the model `name` where there are several."""
    path = next((folder / "metrics.json" for folder in (run, run.parent) if (folder / "metrics.json").is_file()), None)
    metrics = {} if path is None else json.loads(path.read_text("utf-8"))
    return {**metrics, **metrics[name]} if isinstance(metrics.get(name), dict) else metrics


def accuracies(runs: list[dict[str, Any]], key: str) -> tuple[float, ...]:
    """Return one accuracy of each run, none at all where a run does not tell."""
    values = [run.get(key) for run in runs]
    return () if None in values else tuple(float(value) for value in values)


class Recordings:
    """Some recordings of a data set, each with its label as an index of the model's classes.

    Raises:
        InputError: there are none, or the classes are not the model's.

    """

    def __init__(self, text: str, samples: str, model: EventClassifier) -> None:
        kind, _, rest = text.partition(":")
        data: Any
        if kind == "gestures":
            number, _, seed = rest.partition(":")
            data = SimulatedGestures(int(number), int(seed or 0), split="test")
        elif Path(text).is_file():
            data = EventArchive(text)
        else:
            data = EventFolder(kind, rest or "all")
        if data.labels is None:
            raise InputError(f"{text} has no labels; expected an archive with an array 'label'")
        first, _, end = samples.partition(":")
        chosen = np.arange(len(data))[slice(int(first) if first else None, int(end) if end else None)]
        if not len(chosen):
            raise InputError(f"--samples {samples!r} chooses none of the {len(data)} recordings of {text}")
        # In an order in which the first of them, which energy is measured on, are of all classes.
        mixed = np.random.default_rng(0).permutation(chosen)
        self.part = part_of(data, text).subset(mixed, text).labelled_for(model.class_names, model.num_classes)

    def __len__(self) -> int:
        return len(self.part)

    def __iter__(self) -> Iterator[tuple[rsnn.Events, int]]:
        for index, label in zip(self.part.order.tolist(), self.part.labels.tolist(), strict=True):
            item = self.part.source[index]
            yield (item[0] if isinstance(item, tuple) else item), label


def differences(model: EventClassifier, name: str) -> list[str]:
    """Say in what a trained model is built otherwise than `rsnn.create_model(name)` builds it, labels left out.

    Raises:
        InputError: it is of another class.

    """
    named = rsnn.create_model(name, num_classes=model.num_classes)
    if type(model) is not type(named):
        raise InputError(f"the model is a {type(model).__name__}; {name!r} is a {type(named).__name__}")
    ours, theirs = (dict(_flat(describe(one))) for one in (model, named))
    return [
        f"{key} {ours.get(key)} instead of {theirs.get(key)}"
        for key in {**ours, **theirs}
        if ours.get(key) != theirs.get(key) and not key.startswith(("class_names", "preprocessing.window_ms"))
    ]


def _flat(description: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in description.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def card_facts(path: Path, full_name: str, runs: list[dict[str, Any]], measured: dict[str, float]) -> cards.Facts:
    """Return the card's facts from its TOML file and the runs."""
    facts = tomllib.loads(path.read_text("utf-8"))
    return cards.Facts(
        name=full_name,
        **{
            "selected_accuracies": accuracies(runs, "selected_accuracy"),
            "last_accuracies": accuracies(runs, "last_accuracy"),
            **facts,
            "measured": {**facts.get("measured", {}), **measured},
        },
    )


# What is measured


def measure(
    model: EventClassifier, recordings: Recordings, energy_samples: int
) -> tuple[dict[str, Any], dict[str, Any], list[tuple[Tensor, int]]]:
    """Return the evaluation, the energy report, and some of the frames with their labels."""
    assert model.preprocessing is not None
    kept: list[tuple[Tensor, int]] = []

    def samples() -> Iterator[tuple[Tensor, int]]:
        for events, label in track(recordings, "evaluating", total=len(recordings)):
            frames = model.preprocessing.frames(events)  # type: ignore[union-attr]
            if len(kept) < max(energy_samples, REPLAY_CANDIDATES):
                kept.append((frames, label))
            yield frames, label

    evaluation = evaluate(model, samples(), batch_size=BATCH_SIZE).to_dict()
    batches = (torch.stack([frames], 1) for frames, _ in track(kept[:energy_samples], "counting operations"))
    return evaluation, energy_report(model, batches).to_dict(), kept


@torch.no_grad()
def replay(model: EventClassifier, candidates: list[tuple[Tensor, int]]) -> dict[str, np.ndarray]:
    """Return an input with the features and logits that the model gives for it, small enough to be stored.

    It is the first that is classified right and whose logits stay the same in double precision and under noise ten
    times as large as rounding: no potential lies so near its threshold that another order of summation could change
    what comes of a spike. Features are stored at every `stride`th element, and as means of each step and channel.
    """
    noise = torch.Generator().manual_seed(0)
    double = deepcopy(model).double()
    for frames, label in candidates:
        frames = frames[:, None]
        logits, features = model(frames), model.forward_features(frames)
        noisy = [model(frames * (1 + 1e-6 * torch.randn(frames.shape, generator=noise))) for _ in range(3)]
        others = [double(frames.double()).float(), *noisy]
        stable = all(torch.allclose(other, logits, rtol=1e-5, atol=1e-4) for other in others)
        if stable and logits.argmax() == label and logits.unique().numel() > 1:
            break
    else:
        raise InputError(f"none of {len(candidates)} recordings is classified right and the same whatever the rounding")
    stride = -(-features.numel() // REPLAY_FEATURES) | 1
    return {
        "frames": frames.to(torch.uint8 if frames.max() < 256 else torch.int32).numpy(),
        "logits": logits.numpy(),
        "stride": np.array(stride),
        "features": features.flatten()[::stride].numpy(),
        "feature_means": features.double().mean((1, 3, 4)).numpy(),
    }


# What comes out


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Let one process at a time change what all checkpoints share."""
    folder = os.open(root / "rsnn" / "zoo", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def replace_text(path: Path, text: str) -> None:
    """Write a file anew, in one step."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def write_entry(root: Path, entry: dict[str, Any], default: bool) -> None:
    """Put an entry into the table, in the place of its former version; first of its name where it is the default."""
    table = root / "rsnn" / "zoo" / "weights.json"
    rows = json.loads(table.read_text("utf-8"))
    place = next(
        (i for i, row in enumerate(rows) if (row["name"], row["tag"]) == (entry["name"], entry["tag"])), len(rows)
    )
    rows[place : place + 1] = [entry]
    rows.sort(key=lambda row: (row["name"], default and row is not entry))
    replace_text(table, json.dumps(rows, indent=2) + "\n")


def readme_table(rows: list[dict[str, Any]]) -> str:
    """Return the weights entries as the table of the README."""
    lines = [
        "| name | data | classes | parameters | size | accuracy (ours) | energy a sample |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| `{row['name']}` (`.{row['tag']}`) | {row['data']} | {row['classes']} | {row['parameters']:,} | "
            f"{row['size_bytes'] / 1e6:.1f} MB | {row['metrics']['accuracy']:.1%}, {row['split']} | "
            f"{row['metrics']['energy_joules'] * 1e6:.1f} µJ |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def update_readme(root: Path) -> None:
    """Write the table of checkpoints between its two marks in the README."""
    readme = root / "README.md"
    table = readme_table(json.loads((root / "rsnn" / "zoo" / "weights.json").read_text("utf-8")))
    text = readme.read_text("utf-8")
    replace_text(readme, re.sub(f"{BEGIN}.*?{END}", lambda _: BEGIN + table + END, text, flags=re.S))


def publish(options: argparse.Namespace, root: Path = ROOT) -> str:
    """Do all of it and return a line that says what came of it."""
    full_name = f"{options.name}.{options.tag}"
    if options.name not in rsnn.list_models():
        raise InputError(f"{options.name!r} is not a name of the zoo; rsnn.list_models() lists them")
    card = options.card or root / "scripts" / "cards" / f"{full_name}.toml"
    runs = [read_metrics(run, options.name) for run in (options.run, *options.runs)]
    measured = json.loads(options.metrics.read_text("utf-8")) if options.metrics else {}
    facts = card_facts(card, full_name, runs, measured)
    dtype = torch.float16 if options.half else None
    source = find_checkpoint(options.run, options.name)
    trained = rsnn.load(source)
    if trained.preprocessing is not None and trained.preprocessing.window_ms is None:
        window_ms = rsnn.create_model(options.name).preprocessing.window_ms  # type: ignore[union-attr]
        trained.preprocessing = replace(trained.preprocessing, window_ms=window_ms)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / full_name
        trained.save_pretrained(folder, dtype=dtype)
        model = rsnn.load(folder)
        changed = differences(model, options.name)
        evaluation, energy, kept = measure(
            model, Recordings(options.data, options.samples, model), options.energy_samples
        )
        stored = replay(model, sorted(kept, key=lambda sample: len(sample[0])))  # what has few steps stays small
        parameters = sum(p.numel() for p in model.parameters())
        size = (folder / hub.WEIGHTS_FILE).stat().st_size
        weights = (
            f"{parameters:,} parameters, {size / 1e6:.1f} MB, stored in {'half' if dtype else 'single'} precision."
        )
        if changed:
            weights += f"\n\nNot as `rsnn.create_model({options.name!r})` builds it: {'; '.join(changed)}."
        save_model(
            trained,
            folder,
            lambda config: cards.published_card(config, facts, evaluation, energy, weights),
            dtype=dtype,
            recipe=hub.resolve(source).recipe(),
        )
        if facts.benchmark is not None:
            (folder / hub.RESULTS_FOLDER).mkdir()
            results = cards.evaluation_results(facts, evaluation["accuracy"], f"{datetime.now(UTC):%Y-%m-%d}")
            (folder / hub.RESULTS_FOLDER / f"{options.name}.yaml").write_text(results, "utf-8")
        entry = {
            "name": options.name,
            "tag": options.tag,
            "sha256": hub.sha256_of(folder / hub.WEIGHTS_FILE),
            "size_bytes": size,
            "parameters": parameters,
            "classes": model.num_classes,
            "data": facts.dataset,
            "split": facts.evaluated_on,
            "metrics": {
                "accuracy": evaluation["accuracy"],
                "samples": evaluation["samples"],
                **({"last_epoch_accuracy": facts.last_accuracies[0]} if facts.last_accuracies else {}),
                "seeds": len(runs),
                "energy_joules": energy["total"]["joules"],
                **facts.measured,
            },
            "licence": facts.licence,
        }
        with locked(root):
            replays = root / "tests" / "zoo" / "replays"
            replays.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(replays / f"{full_name}.npz", **stored)
            target = root / "rsnn" / "zoo" / "checkpoints" / full_name
            incoming = target.with_name(f"{full_name}.tmp")
            shutil.rmtree(incoming, ignore_errors=True)
            shutil.copytree(folder, incoming)
            shutil.rmtree(target, ignore_errors=True)
            incoming.rename(target)
            write_entry(root, entry, options.default)
            update_readme(root)
    return (
        f"{full_name}: {evaluation['accuracy']:.1%} of {evaluation['samples']}, "
        f"{1e6 * entry['metrics']['energy_joules']:.1f} µJ, {size / 1e6:.1f} MB, in {target}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run whose model is published")
    parser.add_argument("name", help="a name of the zoo")
    parser.add_argument("tag", help="what tells these weights from others of the name")
    parser.add_argument("--data", required=True, help="recordings that evaluate")
    parser.add_argument("--samples", default=":", help="which of them, as FIRST:END")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="runs of the same with further seeds")
    parser.add_argument("--card", type=Path, help="facts of the card; scripts/cards/NAME.TAG.toml by default")
    parser.add_argument("--metrics", type=Path, help="JSON of further figures by name, for the entry and the card")
    parser.add_argument("--half", action="store_true", help="store weights in half precision")
    parser.add_argument("--default", action="store_true", help="make these the default weights of the name")
    parser.add_argument("--energy-samples", type=int, default=64, help="recordings that energy is the mean of")
    if sys.argv[1:] == ["--readme"]:
        update_readme(ROOT)
        return
    try:
        print(publish(parser.parse_args()))
    except rsnn.RSNNError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
