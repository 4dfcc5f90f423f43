"""Which kernel runs: `available`, `status`, `selected`, `use` and RSNN_KERNEL."""

from __future__ import annotations

import pytest
import torch

from rsnn import kernels
from rsnn.errors import InputError, RSNNError, UnknownNameError


@pytest.fixture(autouse=True)
def _by_device(monkeypatch):
    monkeypatch.delenv("RSNN_KERNEL", raising=False)
    with kernels.use("auto"):
        kernels._forced = None
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


def test_a_gpu_gets_the_fused_kernel():
    assert kernels.selected("cuda") == "spikingjelly"
    assert kernels.selected("cuda:1") == "spikingjelly"


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

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "spikingjelly" else found(name))
    assert kernels.available() == ["torch"]
    assert kernels.selected("cuda") == "torch"
    with pytest.raises(InputError, match=r"cannot run here: spikingjelly is not installed .*pip install"):
        kernels.use("spikingjelly")
