"""Print accuracy against decision time: what a model says when it stops as soon as it is sure.

    python scripts/decision_time.py MODEL DATA --samples 800:1000

DATA are labelled recordings as `rsnn evaluate` takes them: an archive (.npz), a folder, or `gestures:220` for 220
simulated ones of the test part.
"""

from __future__ import annotations

import argparse

import torch

import rsnn
from rsnn.streaming.decisions import decision_curve
from rsnn.training.sources import open_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="zoo name, ./folder, or org/name on the Hub")
    parser.add_argument("data", help="labelled recordings")
    parser.add_argument("--samples", default=":", help="which of them, as FIRST:END")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = rsnn.load(options.model)
    part = open_part(options.data, split="test", samples=options.samples)
    part = part.labelled_for(model.class_names, model.num_classes)
    curve = decision_curve(model, part.pairs())
    print(f"`{options.model}`, {part.text}: {len(part)} recordings\n")
    print("| decide | accuracy | of those decided | mean steps | mean time | never sure |")
    print("|---|---|---|---|---|---|")
    for row in curve:
        rule = f"at p >= {row.until:g}" if row.until is not None else f"after {row.steps:.0f} steps"
        unsure = "" if row.until is None else f"{row.undecided:.1%}"
        decided = "" if row.until is None or row.decided_accuracy is None else f"{row.decided_accuracy:.1%}"
        print(f"| {rule} | {row.accuracy:.1%} | {decided} | {row.steps:.1f} | {row.milliseconds:.0f} ms | {unsure} |")


if __name__ == "__main__":
    main()
