"""What `rsnn demo` refuses before it simulates."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import rsnn
from rsnn.cli import app
from rsnn.data import samples


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "seen.png"], "seen.png has the suffix '.png'; expected .gif"),
        (["--output", "seen"], "seen has the suffix ''; expected .gif"),
        (["--model", "rsnn-nmnist-cl"], "rsnn-nmnist-cl knows no air_guitar, but 0, 1, 2"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["demo", *arguments])
    assert ran.exit_code == 1
    assert words in ran.output
    assert not list(tmp_path.iterdir())


def test_a_model_that_takes_frames_alone_is_refused(tmp_path):
    model = rsnn.RSNN(rsnn.nn.ConvLSTMEncoder(2, (2,)), rsnn.nn.SCNN(2, 3, (17, 17), pools=(1,), channels=4, votes=1))
    model.save_pretrained(tmp_path / "frames")
    ran = CliRunner().invoke(
        app, ["demo", str(samples.path()), "--model", f"{tmp_path}/frames", "--output", f"{tmp_path}/seen.gif"]
    )
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "this RSNN has no preprocessing, so it cannot cut a recording into frames" in ran.stderr
