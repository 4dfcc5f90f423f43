from __future__ import annotations

import pytest
from small_runs import SMALL, write_archive

from rsnn.training import load_recipe


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "train.npz")


@pytest.fixture(scope="session")
def test_archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "test.npz", recordings=9, seed=1)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def recipe():
    """A recipe of an encoder phase of `epochs`, small enough to run in a second, with changes on top."""

    def made(*changes, name="convlstm-nmnist-cl-mean", epochs=2):
        phase = "encoder" if name.startswith(("convlstm", "rsnn")) else "classifier"
        return load_recipe(name, [*SMALL, f"phases.{phase}.epochs={epochs}", *changes])

    return made
