"""The code of docs/fine-tuning.md as it stands, and the example as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rsnn

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "fine-tuning.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["classes", "phases", "parts"])
def test_the_code_in_the_documentation_runs(block):
    made = {}
    exec(compile(block, "docs/fine-tuning.md", "exec"), made)
    model = made["model"]
    assert isinstance(model, rsnn.RSNN | rsnn.ConvLSTMClassifier)
    height, width = model.preprocessing.frame_size
    assert model(torch.zeros(2, 1, 2, height, width)).shape == (1, model.num_classes)


@pytest.mark.slow
def test_the_example_learns_five_new_classes(samples, tmp_path):
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "fine_tune.py", samples / "nmnist_1000.npz", "--epochs", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert ran.returncode == 0, ran.stderr
    accuracies = [float(share) / 100 for share in re.findall(r": ([0-9.]+)% of", ran.stdout)]
    assert len(accuracies) == 3
    assert accuracies[-1] > max(0.8, accuracies[0])
    model = rsnn.load(tmp_path / "my-digits")
    assert model.class_names == ("five", "six", "seven", "eight", "nine")
