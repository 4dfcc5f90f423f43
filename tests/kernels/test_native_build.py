"""How the C++ kernels are made and kept: without a compiler, with a broken one, twice at once, in a foreign cache."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rsnn.kernels import native

SCRIPT = """
import torch
from rsnn import kernels
from rsnn.nn import ConvLSTM
torch.manual_seed(0)
layer = ConvLSTM(2, 3).requires_grad_(False)
print(kernels.selected("cpu", "convlstm"), round(float(layer(torch.ones(2, 1, 2, 4, 4))[0].sum()), 4))
print(kernels.status()["native"])
"""


def run(tmp_path, monkeypatch, **environment):
    for name, value in {"XDG_CACHE_HOME": str(tmp_path / "cache"), "RSNN_KERNEL": "", **environment}.items():
        monkeypatch.setenv(name, value)
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def compiler(folder, text):
    folder.mkdir()
    file = folder / "c++"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(folder)


def test_without_a_compiler_torch_does_the_work(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    first, second = run(tmp_path, monkeypatch, PATH=str(tmp_path / "empty"), CXX="")
    kernel, value = first.split()
    assert kernel == "torch"
    assert second == "no C++ compiler was found (looked for c++, g++, clang++; CXX can name another)"
    if native.unavailable() is None:
        monkeypatch.undo()
        assert run(tmp_path, monkeypatch)[0].split() == ["native", value]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'fatal error: no such header' >&2; exit 1", "fatal error: no such header"),
        ("exit 4", "exit code 4, and not a word"),
    ],
)
def test_a_compiler_that_fails(tmp_path, monkeypatch, script, said):
    path = compiler(tmp_path / "bin", script)
    first, second = run(tmp_path, monkeypatch, PATH=f"{path}:/usr/bin:/bin", CXX="")
    assert first.startswith("torch ")
    assert f"could not compile convlstm.cpp: {said}" in second
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_compiler_that_writes_rubbish(tmp_path, monkeypatch):
    path = compiler(tmp_path / "bin", 'while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"')
    first, second = run(tmp_path, monkeypatch, PATH=f"{path}:/usr/bin:/bin", CXX="")
    assert first.startswith("torch ")
    assert "could not compile convlstm.cpp: what it made cannot be loaded from " in second


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
def test_it_is_compiled_once(tmp_path, monkeypatch):
    assert run(tmp_path, monkeypatch)[0].startswith("native ")
    (made,) = (tmp_path / "cache").rglob("*.so")
    assert made.stat().st_mode & 0o077 == 0
    when = made.stat().st_mtime_ns
    (tmp_path / "empty").mkdir()
    first, reason = run(tmp_path, monkeypatch, PATH=str(tmp_path / "empty"), CXX="")  # needs no compiler any more
    assert first.startswith("native ")
    assert reason == "None"
    assert made.stat().st_mtime_ns == when


def test_a_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "rsnn" / "native"
    assert native._cache() == folder
    folder.chmod(0o777)
    assert native._cache() is None


def test_without_a_home_there_is_no_cache(monkeypatch, tmp_path):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(native.Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert native._cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native._cache() == tmp_path / "rsnn" / "native"


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
def test_without_a_cache_nothing_is_left_behind(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    first, reason = run(tmp_path, monkeypatch, XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert first.startswith("native ")
    assert reason == "None"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
def test_a_damaged_library_is_made_anew_and_a_cache_may_be_read_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = native._cache() / f"attention-float-{native._key('attention')}.so"
    file.write_text("rubbish")
    made = native.library.__wrapped__("attention")
    assert made.attention_forward_float32
    monkeypatch.setattr(native.os, "access", lambda *_: False)
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("it is there"))
    assert native.library.__wrapped__("attention")._name == str(file)


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
def test_what_the_cache_lacks_is_left_to_torch_where_there_is_no_compiler(tmp_path, monkeypatch):
    assert run(tmp_path, monkeypatch)[0].startswith("native ")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    script = """
import torch
from rsnn import nn
features, _ = nn.ConvLSTMEncoder(attention=True)(torch.ones(2, 1, 2, 16, 16))
nn.SCNN(6, 3, (4, 4), (2,), 8).double()(features.double())[0].sum().backward()
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in ("attention", "spiking_conv", "lif"):
        assert f"plain PyTorch does what the CPU kernel {name!r} is for: no C++ compiler was found" in result.stderr
    assert "'convlstm'" not in result.stderr  # compiled before


def test_the_key_depends_on_source_and_processor(monkeypatch, tmp_path):
    key = native._key("convlstm")
    assert key != native._key("lif")
    monkeypatch.setattr(native, "_processor", lambda: "another")
    other = native._key("convlstm")
    assert other != key
    for name in ("common.h", "convlstm.cpp"):
        (tmp_path / name).write_text("// empty")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    assert native._key("convlstm") not in (key, other)
