"""`rsnn doctor`: which kernel runs where, and the reason of every one that cannot."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from rsnn import kernels
from rsnn.cli import app


def doctor(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ran = CliRunner().invoke(app, ["doctor"])
    return ran.exit_code, " ".join(ran.output.replace("│", " ").split())


def test_every_kernel_is_named_with_its_reason(monkeypatch):
    code, text = doctor(monkeypatch)
    assert code == 0
    for name, reason in kernels.status().items():
        assert f"kernel {name} {'available' if reason is None else reason[:40]}" in text
    for operator, label in kernels.OPERATORS.items():
        assert f"{label} by {kernels.selected('cpu', operator)!r}" in text


def test_a_gpu_without_cupy_falls_back_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Some GPU at {device}")
    reasons = dict.fromkeys(kernels.status()) | {"cupy": "cupy is not installed (pip install 'rsnn[cuda]')"}
    monkeypatch.setattr(kernels.selection, "_reasons", reasons)
    monkeypatch.setattr(kernels.lif_spikingjelly, "implementation", lambda device: f"native on {device}")
    code, text = doctor(monkeypatch)
    assert code == 0
    for device in ("cuda:0", "cuda:1"):
        assert f"spikingjelly on {device} native on {device}" in text
        assert f"{device} Some GPU at {device}, LIF by 'spikingjelly', ConvLSTM by 'triton'" in text
    assert "kernel cupy cupy is not installed (pip install 'rsnn[cuda]')" in text


@pytest.mark.parametrize("forced", ["fast", "cupy"])
def test_a_kernel_that_cannot_be_forced_is_an_error_beside_all_else(monkeypatch, forced):
    monkeypatch.setattr(kernels.selection, "_reasons", dict.fromkeys(kernels.status()) | {"cupy": "no CUDA device"})
    monkeypatch.setenv("RSNN_KERNEL", forced)
    code, text = doctor(monkeypatch)
    assert code == 1
    reason = f"RSNN_KERNEL: {'there is no kernel' if forced == 'fast' else 'kernel'} {forced!r}"
    assert f"RSNN_KERNEL {reason}" in text  # a row of the table
    assert f"error: {reason}" in text
    with kernels.use("auto"):
        assert f"cpu CPU, LIF by {kernels.selected()!r}" in text
    assert "kernel cupy no CUDA device" in text
    monkeypatch.setenv("RSNN_KERNEL", "torch")
    code, text = doctor(monkeypatch)
    assert code == 0
    assert "RSNN_KERNEL torch" in text
    assert "cpu CPU, LIF by 'torch'" in text


def test_what_spikingjelly_itself_takes():
    assert kernels.lif_spikingjelly.implementation("cpu") == "torch-reference"
    assert kernels.lif_spikingjelly.implementation("meta").startswith("none: Unsupported neuron device")
