"""Print the table of docs/results.md from the folders of finished runs, and draw their curves.

python scripts/results_table.py runs/*-seed* --curves docs/heads.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from rsnn.training.report import compare_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--curves", type=Path, help="picture of the first seed's validation accuracy by epoch")
    arguments = parser.parse_args()

    by_name: dict[str, list[dict]] = {}
    for run in arguments.runs:
        if (run / "metrics.json").is_file():
            metrics = json.loads((run / "metrics.json").read_text("utf-8"))
            by_name.setdefault(metrics["recipe"]["name"], []).append(metrics)
    print("| recipe | parameters | seeds | validation | test, selected epoch | test, last epoch | epochs | energy |")
    print("|---|---|---|---|---|---|---|---|")
    for name, runs in sorted(by_name.items()):
        first = runs[0]
        epochs = " + ".join(str(len(phase["history"])) for phase in first["phases"].values())
        print(
            f"| `{name}` | {first['parameters']:,} | {len(runs)} | {shown(runs, 'validation_selected')} | "
            f"{shown(runs, 'test_selected')} | {shown(runs, 'test_last')} | {epochs} | "
            f"{1e6 * mean(run['energy_joules'] for run in runs):.1f} µJ |"
        )
    if arguments.curves:
        histories = {name: list(runs[0]["phases"].values())[-1]["history"] for name, runs in sorted(by_name.items())}
        compare_curves(histories, arguments.curves)


def shown(runs: list[dict], key: str) -> str:
    """Return the mean accuracy of several seeds, with the lowest and the highest; one seed's with its 95 % interval."""
    values = [run[key]["accuracy"] for run in runs if key in run]
    if not values:
        return ""
    if len(values) > 1:
        return f"{mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"
    low, high = runs[0][key]["interval_95"]
    return f"{values[0]:.1%} [{low:.1%}, {high:.1%}]"


if __name__ == "__main__":
    main()
