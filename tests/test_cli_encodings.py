"""What the commands print where the output's encoding has not got all characters: likenesses, and no error."""

# ruff: noqa: RUF001

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

import rsnn
from rsnn.cli import console
from rsnn.data import samples as shipped

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = {"ascii": {"PYTHONIOENCODING": "ascii"}, "cp1252": {"PYTHONIOENCODING": "cp1252"}, "C": C_LOCALE}


def run(encoding, *words, cwd=None):
    """Run a command; return its standard output, decoded."""
    ran = subprocess.run(
        [sys.executable, "-m", "rsnn", *map(str, words)],
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **ENCODINGS[encoding]},
        cwd=cwd,
        capture_output=True,
        timeout=300,
    )
    assert (ran.returncode, ran.stderr) == (0, b""), ran.stderr
    return ran.stdout.decode("cp1252" if encoding == "cp1252" else "ascii")


@pytest.mark.parametrize(("encoding", "micro"), [("ascii", "u"), ("C", "u"), ("cp1252", "µ")])
def test_micro_and_boxes(encoding, micro):
    assert f" {micro}J" in run(encoding, "models", "rsnn-nmnist-*")
    found = run(encoding, "info", shipped.path())
    assert f" {micro}s " in found
    assert "| format" in found


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_cards_of_any_characters(tmp_path, encoding):
    rsnn.create_model("scnn-nmnist", num_frames=2).save_pretrained(tmp_path / "model")
    card = "# Title\n\n> 34 × 34 … 5 µJ\n\n- x → y – “z”\n- 5 ≤ 6 ≈ 6.1 ± 0.2\n- Катя é\n"
    (tmp_path / "model" / "README.md").write_text(card, encoding="utf-8")
    words = run(encoding, "info", tmp_path / "model")
    if encoding == "ascii":
        for part in ("34 x 34 ... 5 uJ", '* x -> y - "z"', "5 <= 6 ~ 6.1 +- 0.2", r"\u041a\u0430\u0442\u044f \xe9"):
            assert part in words
    else:
        for part in ("34 × 34 … 5 µJ", "• x -> y – “z”", "5 <= 6 ~ 6.1 ± 0.2", r"\u041a\u0430\u0442\u044f é"):
            assert part in words


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_energy_and_doctor(tmp_path, encoding):
    rsnn.create_model("scnn-nmnist", num_frames=2).save_pretrained(tmp_path / "µ")
    name = "u" if encoding == "ascii" else "µ"
    assert f"./{name}, one recording" in run(encoding, "energy", "./µ", cwd=tmp_path)
    assert "| kernel torch" in run(encoding, "doctor")


@pytest.mark.slow
def test_bench():
    words = ("--batch", "1", "--train-batch", "1", "--repeats", "1")
    assert "one step of a stream" in run("ascii", "bench", "rsnn-nmnist-cl", *words)


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "micro"), [("ascii", "u"), ("cp1252", "µ")])
def test_the_demo(tmp_path, encoding, micro):
    words = run(encoding, "demo", shipped.path(), "--model", "rsnn-nmnist-cl", cwd=tmp_path)
    assert "#####" in words
    assert f" {micro}J (" in words


def test_what_somebody_chose_stays(monkeypatch):
    chosen = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="ignore")
    monkeypatch.setattr(sys, "stdout", chosen)
    monkeypatch.setattr(sys, "stderr", None)
    console.write_what_can_be_written()
    assert chosen.errors == "ignore"


def test_characters_of_a_file_name_that_is_no_text(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    console.write_what_can_be_written()
    out.write("µ" + os.fsdecode(b"\xff"))
    out.flush()
    assert out.buffer.getvalue().decode() == "µ\\udcff"
