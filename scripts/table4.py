"""Print the paper's Table 4 in form: operations and energy of the decision part, and of the whole network.

    python scripts/table4.py frames.npy rsnn-gesture-cla rsnn-gesture-cl convlstm-gesture-cl-sum

`frames.npy` holds frames of counts (T, N, 2, H, W); models are names or folders that `rsnn.load` takes. `--untrained`
builds the named architectures with random weights: their effective counts then say nothing about a trained network.
"""

import argparse

import numpy as np

import rsnn
from rsnn.energy import energy_models, energy_report


def row(name, report):
    decision, whole = report.parts.get("classifier"), report.total
    cells = [name]
    for part in (decision, whole):
        cells += ["-"] * 3 if part is None else [f"{part.mac:.4g}", f"{part.ac:.4g}", f"{part.joules:.3g}"]
    return "| " + " | ".join([*cells, "incomplete" if report.not_counted else ""]) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--energy", choices=energy_models(), default="horowitz")
    parser.add_argument("--untrained", action="store_true")
    options = parser.parse_args()
    frames = np.load(options.frames)
    print("| model | decision MAC | decision AC | decision J | whole MAC | whole AC | whole J | |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models:
        model = rsnn.create_model(name) if options.untrained else rsnn.load(name)
        print(row(name, energy_report(model, frames, energy=options.energy)))


if __name__ == "__main__":
    main()
