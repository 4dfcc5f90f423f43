"""Print the paper's Table 4 in form: operations and energy of the decision part, and of the whole network.

    python scripts/table4.py --data gestures:220 rsnn-gesture-cla rsnn-gesture-cl convlstm-gesture-cl-sum

Models are names or folders that `rsnn.load` takes; `--data` is what `rsnn evaluate` takes, and accuracy is of the same
recordings. `--untrained` builds the named architectures with random weights: their dense counts are those of a trained
network, the effective ones and the accuracy say nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rsnn
from rsnn.energy import EnergyReport, energy_models, energy_report
from rsnn.evaluation import evaluate
from rsnn.models import EventClassifier
from rsnn.nn import SCNN
from rsnn.training.sources import open_part


def shape_of(model: EventClassifier) -> str:
    """Say what the decision part is: how wide its convolutions are, and how many weights it has."""
    part = model.classifier
    width = f"SCNN, {part.channels} channels" if isinstance(part, SCNN) else type(part).__name__
    return f"{width}, {sum(p.numel() for p in part.parameters()):,} parameters"


def row(name: str, model: EventClassifier, report: EnergyReport, accuracy: float | None) -> str:
    decision, whole = report.parts["classifier"], report.total
    cells = [f"`{Path(name).name}`", shape_of(model), "" if accuracy is None else f"{accuracy:.1%}"]
    for part in (decision, whole):
        cells += [f"{part.mac / 1e6:.3g}", f"{part.ac / 1e6:.3g}", f"{1e6 * part.joules:.3g}"]
    if report.not_counted:
        cells[0] += " (incomplete)"
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", default=":", help="which recordings of it, as FIRST:END")
    parser.add_argument("--energy", choices=energy_models(), default="horowitz")
    parser.add_argument("--untrained", action="store_true")
    options = parser.parse_args()
    part = open_part(options.data, split="test", samples=options.samples)
    print("| model | decision part | accuracy | decision: M MAC | M AC | µJ | whole: M MAC | M AC | µJ |")
    print("|---|---|---|---|---|---|---|---|---|")
    reports = []
    for name in options.models:
        model = rsnn.create_model(name).eval() if options.untrained else rsnn.load(name)
        report = energy_report(model, (events for events, _ in part.pairs()), energy=options.energy)
        accuracy = None
        if not options.untrained:
            labelled = part.labelled_for(model.class_names, model.num_classes)
            accuracy = evaluate(model, labelled.pairs()).accuracy
        reports.append(report)
        print(row(name, model, report, accuracy))
    print(f"\nMean of a recording, {part.text}, {len(part)} of them; {reports[0].model.source}.")


if __name__ == "__main__":
    main()
