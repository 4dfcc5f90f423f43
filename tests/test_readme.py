"""What the README shows is run as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_python_example_runs_as_it_stands(number, tmp_path):
    (tmp_path / "example.py").write_text(BLOCKS[number], "utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


def test_the_first_example_names_the_gesture(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", BLOCKS[0]], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert re.fullmatch(r"air_guitar \d+%\n", ran.stdout)
    assert list(tmp_path.iterdir()) == []


def test_the_first_example_stands_on_the_first_screen():
    assert README.read_text("utf-8").index("```python") < 300


def test_the_table_of_checkpoints_is_the_weights_table():
    """`python scripts/publish_checkpoint.py --readme` writes it anew."""
    rows = json.loads((README.parent / "rsnn" / "zoo" / "weights.json").read_text("utf-8"))
    table = README.read_text("utf-8").split("<!-- checkpoints: begin -->")[1].split("<!-- checkpoints: end -->")[0]
    assert rows
    lines = table.strip().splitlines()[2:]
    assert len(lines) == len(rows)
    for row, line in zip(rows, lines, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:4] == [
            f"`{row['name']}` (`.{row['tag']}`)",
            row["data"],
            str(row["classes"]),
            f"{row['parameters']:,}",
        ]
        assert cells[4] == f"{row['size_bytes'] / 1e6:.1f} MB"
        assert cells[5] == f"{row['metrics']['accuracy']:.1%}, {row['split']}"
        assert cells[6] == f"{row['metrics']['energy_joules'] * 1e6:.1f} µJ"


def test_the_predict_line_of_the_readme_on_a_real_file(samples, tmp_path):
    line = next(line for line in README.read_text("utf-8").splitlines() if line.startswith("rsnn predict rsnn-"))
    words = line.split("#")[0].split()
    real = samples / "formats" / "sample_nmnist.bin"
    words = [str(real) if word.endswith(".bin") else word for word in words if not word.endswith(".npz")]
    ran = subprocess.run(
        [sys.executable, "-m", "rsnn", *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert "sample_nmnist.bin" in ran.stdout.replace("\n", "")
