"""Put a trained model into the package: evaluate it, write its files and card, its weights entry and its replay test.

    python scripts/publish_checkpoint.py scripts/cards/rsnn-nmnist-cl.toml FOLDER... --data nmnist_1000.npz

FOLDER... are the runs of `examples/train_nmnist.py` with different seeds; the first one's model is published. The card's
facts come from the TOML file, every figure from the runs' metrics.json or from the evaluation done here.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from pathlib import Path

import torch
from safetensors.torch import save_file

import rsnn
from rsnn import hub
from rsnn.data import EventArchive, samples
from rsnn.evaluation import evaluate
from rsnn.models import cards
from rsnn.models.pretrained import save_model

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "rsnn" / "zoo" / "weights.json"
REPLAYS = ROOT / "tests" / "zoo" / "replays"


def card_facts(path: Path, runs: list[dict]) -> tuple[str, str, cards.Facts]:
    """Return name, tag and the card's facts, the accuracies of the runs filled in."""
    facts = tomllib.loads(path.read_text("utf-8"))
    name, tag = facts.pop("name"), facts.pop("tag")
    results = [run[name] for run in runs]
    return (
        name,
        tag,
        cards.Facts(
            name=f"{name}.{tag}",
            selected_accuracies=tuple(result["selected_accuracy"] for result in results),
            last_accuracies=tuple(result["last_accuracy"] for result in results),
            **facts,
        ),
    )


def write_replay(model: rsnn.models.EventClassifier, path: Path) -> None:
    """Store an input with the features and logits that the model gives for it."""
    frames = model.preprocessing.frames(rsnn.read_events(samples.path()))[:, None]
    with torch.no_grad():
        features, logits = model.forward_features(frames), model(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"frames": frames.to(torch.uint8), "features": features, "logits": logits}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("facts", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="archive of labelled recordings")
    parser.add_argument("--samples", default="800:1000", help="which of them evaluate")
    arguments = parser.parse_args()

    runs = [json.loads((run / "metrics.json").read_text("utf-8")) for run in arguments.runs]
    name, tag, facts = card_facts(arguments.facts, runs)
    model = rsnn.load(arguments.runs[0].resolve() / name)
    archive = EventArchive(arguments.data, sensor_size=model.preprocessing.frame_size[::-1])
    first, end = (int(part) for part in arguments.samples.split(":"))
    labelled = [(archive[i], int(archive.labels[i])) for i in range(first, end)]
    evaluation = evaluate(model, labelled).to_dict()
    frames = torch.stack([model.preprocessing.frames(events) for events, _ in labelled], dim=1)
    energy = rsnn.energy_report(model, frames).to_dict()

    folder = TABLE.parent / "checkpoints" / facts.name
    save_model(model, folder, lambda config: cards.published_card(config, facts, evaluation, energy))
    weights = folder / hub.WEIGHTS_FILE
    entry = {
        "name": name,
        "tag": tag,
        "sha256": hub.sha256_of(weights),
        "size_bytes": weights.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "classes": model.num_classes,
        "data": facts.dataset,
        "split": facts.evaluated_on,
        "metrics": {
            "accuracy": evaluation["accuracy"],
            "last_epoch_accuracy": facts.last_accuracies[0],
            "seeds": len(runs),
            "energy_joules": energy["total"]["joules"],
        },
        "licence": facts.licence,
    }
    rows = [row for row in json.loads(TABLE.read_text("utf-8")) if (row["name"], row["tag"]) != (name, tag)]
    TABLE.write_text(json.dumps([*rows, entry], indent=2) + "\n", "utf-8")
    write_replay(model, REPLAYS / f"{facts.name}.safetensors")
    update_readme()
    print(f"{facts.name}: {evaluation['accuracy']:.1%} of {evaluation['samples']}, {folder}")


def update_readme() -> None:
    """Write the table of checkpoints between its two marks in the README."""
    readme = ROOT / "README.md"
    lines = [
        "| name | data | classes | parameters | size | accuracy (ours) | energy a sample |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in json.loads(TABLE.read_text("utf-8")):
        metrics = row["metrics"]
        lines.append(
            f"| `{row['name']}` (`.{row['tag']}`) | {row['data']} | {row['classes']} | {row['parameters']:,} | "
            f"{row['size_bytes'] / 1e6:.1f} MB | {metrics['accuracy']:.1%}, {row['split']} | "
            f"{metrics['energy_joules'] * 1e6:.1f} µJ |"
        )
    begin, end = "<!-- checkpoints: begin -->\n", "<!-- checkpoints: end -->"
    text = readme.read_text("utf-8")
    table = "\n".join(lines) + "\n"
    readme.write_text(re.sub(f"{begin}.*?{end}", lambda _: begin + table + end, text, flags=re.S), "utf-8")


if __name__ == "__main__":
    main()
