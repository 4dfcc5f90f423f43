"""Ctrl-C at any time ends a command with exit code 130, without a traceback and without anything half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")

SCRIPT = "import sys\nfrom rsnn.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.fixture
def slow_torch(tmp_path):
    """An environment in which PyTorch's import takes for ever."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(600)\n")
    path = os.pathsep.join([str(tmp_path / "slow"), str(Path(__file__).parents[1])])
    return {**os.environ, "PYTHONPATH": path}


@pytest.mark.parametrize("as_script", [False, True])
def test_while_torch_is_imported(tmp_path, slow_torch, as_script):
    (tmp_path / "rsnn").write_text(SCRIPT)
    process = start(*([tmp_path / "rsnn"] if as_script else ["-m", "rsnn"]), "models", env=slow_torch, cwd=tmp_path)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130


def test_a_program_that_imports_the_library_has_its_own_way(slow_torch):
    code = "try:\n    import rsnn\nexcept KeyboardInterrupt:\n    print('mine')"
    process = start("-c", code, env=slow_torch)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("mine\n", "")


def interrupted_once(process, begun):
    """Send Ctrl-C to a command and its processes as soon as `begun()`; return its exit code and what it said."""
    until = time.monotonic() + 300
    try:
        while not begun():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, errors


def test_while_a_command_works(tmp_path):
    with (tmp_path / "long.csv").open("w") as file:
        file.writelines(f"{i},{i % 30},{i % 20},{i % 2}\n" for i in range(2_000_000))
    process = start("-m", "rsnn", "convert", "long.csv", "out.npz", cwd=tmp_path, start_new_session=True)
    assert interrupted_once(process, lambda: list(tmp_path.glob(".out.*"))) == (130, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["long.csv"]


@pytest.mark.slow
def test_while_several_processes_work(tmp_path):
    (tmp_path / "stills").mkdir()
    for number in range(300):
        Image.effect_noise((64, 64), 80).save(tmp_path / "stills" / f"{number}.png")
    words = ("simulate", "stills", "out", "--moving", "--jobs", "2")
    process = start("-m", "rsnn", *words, cwd=tmp_path, start_new_session=True)
    assert interrupted_once(process, lambda: list(tmp_path.glob("out/[!.]*.raw"))) == (130, "", "")
    assert not list(tmp_path.glob("out/.*.raw"))
