"""Which kernel runs: `available`, `status`, `selected`, `use` and RSNN_KERNEL."""

from __future__ import annotations

import pytest
import torch

from rsnn import kernels
from rsnn.errors import InputError, RSNNError, UnknownNameError


def reasons(monkeypatch, **reasons):
    monkeypatch.setattr(kernels.selection, "_reasons", dict.fromkeys(kernels.selection.KERNELS) | reasons)


@pytest.fixture(autouse=True)
def _without_native_kernels(monkeypatch):
    monkeypatch.delenv("RSNN_KERNEL", raising=False)
    monkeypatch.setattr(kernels.selection, "_reasons", {"native": "no C++ compiler was found"})
    monkeypatch.setattr(kernels.selection, "_LACKS", {})
    with kernels.use("auto"):
        kernels.selection._forced = None
        yield


def test_torch_always_runs_and_status_explains_the_rest():
    assert "torch" in kernels.available()
    assert set(kernels.available()) <= set(kernels.status())
    for name, reason in kernels.status().items():
        assert (reason is None) == (name in kernels.available())


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "cpu:0", "meta"])
def test_plain_torch_on_the_cpu(device):
    assert kernels.selected(device) == "torch"
    assert kernels.selected() == "torch"


def test_a_gpu_gets_the_fused_kernels_that_are_there(monkeypatch):
    reasons(monkeypatch)
    assert kernels.selected("cuda") == "cupy"
    assert kernels.selected("cuda:1", "lif") == "cupy"
    assert kernels.selected("cuda", "convlstm") == "cupy"
    reasons(monkeypatch, cupy="not installed")
    assert kernels.selected("cuda") == "spikingjelly"
    assert kernels.selected("cuda", "convlstm") == "triton"
    reasons(monkeypatch, cupy="not installed", spikingjelly="too old")
    assert kernels.selected("cuda") == "torch"


def test_one_operator_that_a_kernel_lacks_here_is_another_ones(monkeypatch):
    reasons(monkeypatch)
    monkeypatch.setattr(kernels.selection, "_LACKS", {("cupy", "convlstm"): lambda: "no tensor cores"})
    assert kernels.selected("cuda") == "cupy"
    assert kernels.selected("cuda", "convlstm") == "triton"
    with kernels.use("cupy"):
        assert kernels.selected("cuda", "convlstm") == "triton"
    assert set(kernels.status()) == set(kernels.selection.KERNELS)


def test_a_call_that_a_kernel_does_not_take_is_the_next_ones(monkeypatch):
    reasons(monkeypatch)
    assert kernels.selected("cuda", "convlstm", besides=("cupy",)) == "triton"
    assert kernels.selected("cuda", "convlstm", besides=("cupy", "triton")) == "torch"
    with kernels.use("cupy"):
        assert kernels.selected("cuda", "convlstm", besides=("cupy",)) == "triton"
    reasons(monkeypatch, triton="not installed")
    assert kernels.selected("cuda", "convlstm", besides=("cupy",)) == "torch"


def test_a_cpu_gets_the_native_kernels_that_are_there(monkeypatch):
    reasons(monkeypatch)
    for operator in kernels.OPERATORS:
        assert kernels.selected("cpu", operator) == "native"
        assert kernels.selected("meta", operator) == "torch"


def test_a_forced_kernel_serves_its_own_operators_and_devices_only(monkeypatch):
    reasons(monkeypatch)
    with kernels.use("cupy"):
        assert kernels.selected("cuda") == "cupy"
        assert kernels.selected("cpu") == "native"
        assert kernels.selected("cuda", "convlstm") == "cupy"
    with kernels.use("torch", "cupy"):  # the first that serves it
        assert kernels.selected("cuda") == kernels.selected("cuda", "convlstm") == "torch"
    with kernels.use("triton"):
        assert kernels.selected("cuda") == "cupy"
        assert kernels.selected("cuda", "convlstm") == "triton"
    with kernels.use("native", "spikingjelly"):
        assert kernels.selected("cuda") == "spikingjelly"
        assert kernels.selected("cpu", "convlstm") == "native"
    with kernels.use("torch"):
        for operator in kernels.OPERATORS:
            assert kernels.selected("cpu", operator) == kernels.selected("cuda", operator) == "torch"


def test_no_operator():
    with pytest.raises(UnknownNameError, match="there is no operator 'conv'; expected 'lif', 'convlstm' or"):
        kernels.selected("cpu", "conv")
    with pytest.raises(InputError, match=r"use\(\) got no name"):
        kernels.use()


@pytest.mark.parametrize("device", ["gpu", None, 1.5])
def test_no_device(device):
    with pytest.raises(InputError, match="is not a device; expected for example 'cpu'"):
        kernels.selected(device)


def test_use_takes_effect_at_once_and_stays():
    kernels.use("spikingjelly")
    assert kernels.selected("cpu") == "spikingjelly"
    kernels.use("auto")
    assert kernels.selected("cpu") == "torch"


def test_use_as_context_manager_restores_also_nested_and_after_an_error():
    with kernels.use("spikingjelly"):
        with kernels.use("torch"):
            assert kernels.selected("cuda") == "torch"
        assert kernels.selected("cpu") == "spikingjelly"
    assert kernels.selected("cpu") == "torch"
    with pytest.raises(KeyError), kernels.use("spikingjelly"):
        raise KeyError
    assert kernels.selected("cpu") == "torch"


def test_the_chosen_kernel_is_the_one_that_runs(monkeypatch):
    from spikingjelly.activation_based import neuron

    calls = []
    forward = neuron.LIFNode.multi_step_forward
    monkeypatch.setattr(neuron.LIFNode, "multi_step_forward", lambda *args: calls.append(1) or forward(*args))
    kernels.lif(torch.ones(2, 3))
    assert not calls
    with kernels.use("spikingjelly"):
        kernels.lif(torch.ones(2, 3))
    assert calls


@pytest.mark.parametrize("name", ["spikingjely", "cupy!", "", None])
def test_unknown_name(name):
    with pytest.raises(UnknownNameError, match=r"there is no kernel .*; expected 'auto' or one of "):
        kernels.use(name)
    assert kernels.selected() == "torch"


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'spikingjelly'"):
        kernels.use("spikingjely")


def test_environment_variable(monkeypatch):
    monkeypatch.setenv("RSNN_KERNEL", "spikingjelly")
    assert kernels.selected("cpu") == "spikingjelly"
    with kernels.use("torch"):
        assert kernels.selected("cpu") == "torch"
    with kernels.use("auto"):
        assert kernels.selected("cpu") == "torch"
    assert kernels.selected("cpu") == "spikingjelly"
    monkeypatch.setenv("RSNN_KERNEL", "auto, spikingjelly ")
    assert kernels.selected("cpu") == "spikingjelly"
    monkeypatch.setenv("RSNN_KERNEL", "")
    assert kernels.selected("cpu") == "torch"


def test_bad_environment_variable_is_named(monkeypatch):
    monkeypatch.setenv("RSNN_KERNEL", "fast")
    with pytest.raises(UnknownNameError, match="RSNN_KERNEL"):
        kernels.selected("cpu")
    with pytest.raises(RSNNError, match="'fast'"):
        kernels.lif(torch.ones(2, 3))


def test_a_kernel_that_cannot_run_says_why(monkeypatch):
    import importlib.util

    kernels.selection._reasons.clear()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "spikingjelly" else found(name))
    assert "spikingjelly" not in kernels.available()
    assert "spikingjelly is not installed" in kernels.status()["spikingjelly"]
    assert kernels.selected("cuda") != "spikingjelly"
    with pytest.raises(InputError, match=r"cannot run here: spikingjelly is not installed .*pip install"):
        kernels.use("spikingjelly")


@pytest.mark.parametrize(
    ("found", "reason"), [("0.0.0.0.14", "spikingjelly 0.0.0.0.14 is too old"), ("2.0.0", None), ("10.1", None)]
)
def test_an_old_spikingjelly_is_named(monkeypatch, found, reason):
    monkeypatch.setattr(kernels.lif_spikingjelly, "version", lambda _: found)
    assert (kernels.status()["spikingjelly"] or "").startswith(reason or "")
    assert ("spikingjelly" in kernels.available()) == (reason is None)


class TestWhatAGPUKernelLacks:
    @pytest.fixture(autouse=True)
    def _with_a_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def test_the_package(self):
        assert (
            kernels.gpu.missing("no_such_package", "pip install it")
            == "no_such_package is not installed (pip install it)"
        )
        assert kernels.gpu.missing("torch", "") is None

    def test_a_device(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert "no CUDA device" in kernels.gpu.missing("torch", "")
        monkeypatch.setattr(torch.version, "cuda", None)
        assert "is built without CUDA" in kernels.gpu.missing("torch", "")

    def test_nvidias_device(self, monkeypatch):
        monkeypatch.setattr(torch.version, "hip", "6.0")
        assert "is built for AMD's" in kernels.gpu.missing("torch", "")

    def test_a_self_test_that_passes(self):
        def broken():
            raise OSError("libnvrtc.so.13: no such file\nand much more")

        expected = "its self-test on this device failed: OSError: libnvrtc.so.13: no such file"
        assert kernels.gpu.failure(broken) == expected
        assert kernels.gpu.failure(lambda: None) is None
