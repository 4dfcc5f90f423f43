"""What people install: the wheel holds all it needs, and works where nothing of the project's folder is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a source distribution and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("rsnn-*-py3-none-any.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_what_the_package_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(path).decode())
    for name in ("rsnn/py.typed", "rsnn/zoo/weights.json", "rsnn/data/samples/digit_3.bin"):
        assert name in names
    entries = json.loads((ROOT / "rsnn" / "zoo" / "weights.json").read_text("utf-8"))
    for entry in entries:
        folder = f"rsnn/zoo/checkpoints/{entry['name']}.{entry['tag']}"
        assert {f"{folder}/{name}" for name in ("config.json", "model.safetensors", "README.md")} <= names
        assert sizes[f"{folder}/model.safetensors"] == entry["size_bytes"]
    kinds = {".py", ".toml", ".json", ".cpp", ".h", ".cu", ".cuh"}
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "rsnn").rglob("*") if path.suffix in kinds}
    assert source <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "scripts", "examples"))]
    assert (metadata["Name"], metadata["Requires-Python"]) == ("rsnn", ">=3.11")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert "Typing :: Typed" in metadata.get_all("Classifier")


@pytest.mark.slow
def test_the_source_distribution_can_be_tested(built):
    (path,) = built.glob("rsnn-*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "rsnn/py.typed", "tests/conftest.py"):
        assert name in names
    assert {f"scripts/{name}" for name in ("demo", "test", "publish_checkpoint.py")} <= names
    assert not [name for name in names if name.startswith(("runs", ".venv", "build"))]


@pytest.mark.slow
def test_the_installed_wheel_classifies(wheel, tmp_path):
    """Into a folder of its own, without its dependencies, which this environment has."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel],
        check=True,
        capture_output=True,
        timeout=300,
    )
    code = (
        "import rsnn, sys; from rsnn.data import samples\n"
        "print(rsnn.__file__, rsnn.load(rsnn.list_models('rsnn-nmnist-*', pretrained=True)[0])"
        ".predict(samples.path()).label)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    file, label = ran.stdout.split()
    assert Path(file).is_relative_to(site)
    assert label == "3"
    command = subprocess.run(
        [site / "bin" / "rsnn", "models", "--pretrained", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert command.returncode == 0, command.stderr
    for row in json.loads(command.stdout):
        assert Path(row["pretrained"]["folder"]).is_relative_to(site)
