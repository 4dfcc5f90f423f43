"""Print accuracy against decision time: what a model says when it stops as soon as it is sure.

    python scripts/decision_time.py MODEL ARCHIVE.npz --samples 800:1000

The archive holds labelled recordings, as `rsnn.data.EventArchive` reads them.
"""

from __future__ import annotations

import argparse

import torch

import rsnn
from rsnn.data import EventArchive
from rsnn.streaming.decisions import decision_curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="zoo name, ./folder, or org/name on the Hub")
    parser.add_argument("archive", help="archive of labelled recordings")
    parser.add_argument("--samples", default=":", help="which of them, as FIRST:END")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = rsnn.load(options.model)
    archive = EventArchive(options.archive)
    if archive.labels is None:
        raise rsnn.RSNNError(f"{options.archive} has no labels; expected an archive with an array 'label'")
    first, end = (int(part) if part else None for part in options.samples.split(":"))
    chosen = range(len(archive))[first:end]
    curve = decision_curve(model, ((archive[i], int(archive.labels[i])) for i in chosen))
    print(f"{options.model} on recordings {chosen.start} to {chosen.stop - 1} of {archive.path.name} ({len(chosen)})\n")
    print("| decide | accuracy | mean steps | mean time | never sure |")
    print("|---|---|---|---|---|")
    for row in curve:
        rule = f"at p >= {row.until:g}" if row.until is not None else f"after {row.steps:.0f} steps"
        unsure = "" if row.until is None else f"{row.undecided:.1%}"
        print(f"| {rule} | {row.accuracy:.1%} | {row.steps:.1f} | {row.milliseconds:.0f} ms | {unsure} |")


if __name__ == "__main__":
    main()
