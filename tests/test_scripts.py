"""The two commands of the README: they install once, again only when something changed, and say what they miss.

Python itself is a stand-in here, which writes down what it is asked to do.
"""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"

# `python -m venv FOLDER` copies itself there, with a command `rsnn` beside it; FAIL names arguments that fail.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
[ "$(basename "$0")" = rsnn ] && pwd > "$LOG.folder"
case "$*" in
    *version_info*) exit "${TOO_OLD:-0}" ;;
esac
if [ -n "$FAIL" ]; then
    case "$*" in *"$FAIL"*) exit 1 ;; esac
fi
if [ "$2" = venv ]; then
    for folder; do :; done
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    cp "$0" "$folder/bin/rsnn"
fi
"""


class Checkout:
    """A fresh clone, and a machine whose only Python is the stand-in."""

    def __init__(self, root: Path) -> None:
        self.root = root / "clone"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("demo", "test", "environment.sh"):
            shutil.copy(SCRIPTS / name, self.root / "scripts")
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.bin / "python3").write_text(STAND_IN)
        (self.bin / "python3").chmod(0o755)
        for tool in ("bash", "sh", "cat", "cksum", "cut", "cp", "mkdir", "dirname", "basename", "env"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.log = root / "log"
        self.elsewhere = root / "elsewhere"
        self.elsewhere.mkdir()

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        """Return what came of the script, and what Python was asked to do but tell its version."""
        self.log.write_text("")
        ran = subprocess.run(
            [self.root / "scripts" / script, *arguments],
            cwd=self.elsewhere,
            env={"PATH": str(self.bin), "LOG": str(self.log), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        asked = self.log.read_text().splitlines()
        return ran, [line for line in asked if not line.endswith(("--version", "version_info < (3, 11))"))]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_a_fresh_clone_then_again(checkout):
    ran, asked = checkout.run("demo", "my clip.aedat")
    assert ran.returncode == 0, ran.stderr
    assert "Installing rsnn" in ran.stderr
    assert asked == [
        "python3 -m venv --clear .venv",
        "python -m pip install --quiet --disable-pip-version-check --upgrade pip>=25.1",
        "python -m pip install --quiet --disable-pip-version-check -e .",
        "rsnn demo my clip.aedat",
    ]
    # Files are those of the folder that the command was given in.
    assert (checkout.log.parent / "log.folder").read_text().strip() == str(checkout.elsewhere)
    ran, asked = checkout.run("demo")
    assert asked == ["rsnn demo"]
    assert ran.stderr == ""


def test_both_commands_share_an_environment(checkout):
    checkout.run("demo")
    ran, asked = checkout.run("test", "-k", "events and not slow")
    assert ran.returncode == 0, ran.stderr
    assert not any("venv --clear" in line for line in asked)
    assert any("--group dev" in line for line in asked)
    assert asked[-1] == "python -m pytest -n auto -k events and not slow"
    assert checkout.run("test")[1] == ["python -m pytest -n auto"]
    assert checkout.run("demo")[1] == ["rsnn demo"]
    assert checkout.run("test", RSNN_TEST_WORKERS="0")[1] == ["python -m pytest -n 0"]


def test_a_changed_pyproject_installs_again(checkout):
    checkout.run("demo")
    (checkout.root / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    assert any("pip install" in line for line in checkout.run("demo")[1])
    assert checkout.run("demo")[1] == ["rsnn demo"]


def test_an_installation_that_failed_is_tried_again(checkout):
    ran, asked = checkout.run("demo", FAIL="install")
    assert ran.returncode != 0
    assert "rsnn demo" not in asked
    assert checkout.run("demo")[1][-2:] == [
        "python -m pip install --quiet --disable-pip-version-check -e .",
        "rsnn demo",
    ]


def test_a_half_made_environment_is_made_anew(checkout):
    """As after a kill between making the environment and giving it pip."""
    (checkout.root / ".venv" / "bin").mkdir(parents=True)
    broken = checkout.root / ".venv" / "bin" / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    ran, asked = checkout.run("demo")
    assert ran.returncode == 0, ran.stderr
    assert asked[0] == "python3 -m venv --clear .venv"


def test_no_python_or_too_old_a_one(checkout):
    ran, asked = checkout.run("demo", TOO_OLD="1")
    assert ran.returncode != 0
    assert ran.stderr == "rsnn needs Python 3.11 or later; none was found. Set PYTHON to one.\n"
    assert asked == []
    (checkout.bin / "python3").rename(checkout.bin / "special")
    assert "none was found" in checkout.run("demo")[0].stderr
    ran, asked = checkout.run("demo", PYTHON="special")
    assert ran.returncode == 0, ran.stderr
    assert asked[0] == "special -m venv --clear .venv"


def test_every_figure_of_the_docs_has_its_marks_and_its_commands():
    figures = runpy.run_path(str(SCRIPTS / "measure_docs.py"))["FIGURES"]
    for page in {page for page, _ in figures.values()}:
        text = (SCRIPTS.parent / "docs" / page).read_text("utf-8")
        begun, ended = (re.findall(rf"<!-- ([\w-]+): {word} -->", text) for word in ("begin", "end"))
        assert begun == ended
        assert sorted(begun) == sorted(name for name, (where, _) in figures.items() if where == page)
    for _, commands in figures.values():
        assert all((SCRIPTS / words.split()[0]).is_file() for words in commands if not words.startswith("rsnn "))
