"""Measure the figures of docs/energy.md, streaming.md and performance.md anew, and write them between their marks.

    python scripts/measure_docs.py [--data FOLDER] [NAME...]

A figure of the name NAME stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`; the page says its command.
FOLDER has `nmnist_1000.npz` and `dvsgesture_clips.npz`. Without names all are measured, one after another;
what cannot be (a checkpoint is missing) is left as it was, and said so. The plot of a trade-off becomes docs/NAME.png.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

NMNIST = "{data}/nmnist_1000.npz"
# Of each figure its page, and the commands that print it.
FIGURES: dict[str, tuple[str, list[str]]] = {
    "tradeoff": (
        "energy.md",
        [f"energy_tradeoff.py rsnn-nmnist-cl {NMNIST} --train :800 --test 800:1000 --output {{output}}/tradeoff"],
    ),
    "tradeoff-gestures": (
        "energy.md",
        [
            "energy_tradeoff.py rsnn-gesture-cl gestures:1100 --test :220 --widths 8 16 32 --epochs 15 "
            "--output {output}/tradeoff-gestures"
        ],
    ),
    "table4": (
        "energy.md",
        ["table4.py --data gestures:220 rsnn-gesture-cla rsnn-gesture-cl convlstm-gesture-cl-sum"],
    ),
    # Its narrow networks are trained by the trade-off.
    "table4-nmnist": (
        "energy.md",
        [
            f"table4.py --data {NMNIST} --samples 800:1000 rsnn-nmnist-cl {{output}}/tradeoff/width-16 "
            "{output}/tradeoff/width-4"
        ],
    ),
    "counters": ("energy.md", ["compare_counters.py"]),
    "cost": ("energy.md", ["energy_cost.py"]),
    "decisions-nmnist": ("streaming.md", [f"decision_time.py rsnn-nmnist-cl {NMNIST} --samples 800:1000"]),
    "decisions-simulated": ("streaming.md", ["decision_time.py rsnn-gesture-cl gestures:220"]),
    "decisions-clips": ("streaming.md", ["decision_time.py rsnn-gesture-cl {data}/dvsgesture_clips.npz"]),
    "latency": (
        "streaming.md",
        [
            f"stream_latency.py {model} --table --threads {threads} --overlap {overlap} --pause {pause}"
            for model, threads, overlap, pause in (
                ("rsnn-gesture-cl", 1, 1, 0),
                ("rsnn-gesture-cl", 1, 1, 15),
                ("rsnn-gesture-cl", 2, 1, 0),
                ("rsnn-gesture-cl", 1, 2, 0),
                ("rsnn-gesture-cla", 1, 1, 0),
                ("rsnn-nmnist-cl", 1, 1, 0),
            )
        ],
    ),
    "bench": ("performance.md", ["rsnn bench --markdown"]),
    "bench-cla": ("performance.md", ["rsnn bench rsnn-gesture-cla --markdown"]),
    "scaling": ("performance.md", ["rsnn bench --scaling --markdown"]),
    "footprint": ("performance.md", ["footprint.py"]),
}


def measured(commands: list[str], data: Path, output: Path) -> str:
    """Return what the commands print; rows of the same table go under one head."""
    texts: list[str] = []
    for command in commands:
        words = [word.format(data=data, output=output) for word in command.split()]
        run = ["-m", "rsnn"] if words[0] == "rsnn" else [ROOT / "scripts" / words[0]]
        ran = subprocess.run(
            [sys.executable, *run, *words[1:]],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "NO_COLOR": "1"},
            check=False,
        )
        if ran.returncode:
            raise RuntimeError(f"{' '.join(words)}: {(ran.stderr.strip().splitlines() or ['no word'])[-1]}")
        lines = ran.stdout.strip().splitlines()
        texts += lines[2:] if texts and lines[:2] == texts[:2] else lines
    return "\n".join(texts)


def replaced(text: str, name: str, figure: str) -> str:
    """Return the page with a figure between its marks."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    if begin not in text:
        raise RuntimeError(f"no mark {begin.strip()}")
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{figure}\n\n{end}", text, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(FIGURES)}")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, help="where the trade-off's networks go and are")
    options = parser.parse_args()
    if unknown := set(options.names) - set(FIGURES):
        parser.error(f"no figure {sorted(unknown)[0]!r}; expected some of {', '.join(FIGURES)}")
    failed = 0
    output = options.output or Path(tempfile.gettempdir()) / "rsnn-tradeoff"
    for name in FIGURES:
        if options.names and name not in options.names:
            continue
        page, commands = FIGURES[name]
        try:
            figure = measured(commands, options.data.resolve(), output.resolve())
            path = ROOT / "docs" / page
            path.write_text(replaced(path.read_text("utf-8"), name, figure), "utf-8")
            if (output / name / "tradeoff.png").is_file():
                shutil.copyfile(output / name / "tradeoff.png", path.with_name(f"{name}.png"))
        except RuntimeError as error:
            print(f"{name}: left as it was ({error})")
            failed += 1
        else:
            print(f"{name}: measured", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
