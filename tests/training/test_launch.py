from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from small_runs import Heard
from typer.testing import CliRunner

from rsnn.cli import app
from rsnn.errors import ConfigError
from rsnn.training import launch, run, train


@pytest.fixture(autouse=True)
def new_process():
    """Accelerate keeps the settings of the first accelerator as long as a process lasts."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("variable", "what"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism configuration"),
    ],
)
def test_models_that_are_to_be_split_up_are_refused(recipe, archive, tmp_path, monkeypatch, variable, what):
    monkeypatch.setenv(variable, "true")
    said = (
        rf"^the launcher asks for {what} \({variable}=true\), .*; expected accelerate launch --multi_gpu, or a --conf"
    )
    with pytest.raises(ConfigError, match=said):
        train(recipe(), archive, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = CliRunner().invoke(app, ["evaluate", "rsnn-nmnist-cl", "--data", str(archive)])
    assert result.exit_code == 1
    assert result.output.startswith(f"error: the launcher asks for {what}")
    assert result.output.count("\n") == 1


def test_a_launcher_that_splits_nothing_up_is_none_of_them(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert launch.accelerator(cpu=True).num_processes == 1


def test_a_launcher_decides_neither_precision_nor_compilation_nor_accumulation(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    made = launch.accelerator(accumulate=2)
    assert made.gradient_accumulation_steps == 2
    model = torch.nn.Linear(2, 2)
    assert made.prepare(model) is model
    assert model(torch.zeros(1, 2)).dtype == torch.float32


def test_a_process_on_a_gpu_cannot_stay_on_the_cpu(monkeypatch):
    launch.accelerator()
    monkeypatch.setitem(AcceleratorState._shared_state, "device", torch.device("cuda", 0))
    monkeypatch.setattr(launch.PartialState(), "device", torch.device("cuda", 0))
    with pytest.raises(ConfigError, match=r"loop\.cpu = true, and this process works on cuda:0 already, .* a new proc"):
        launch.accelerator(cpu=True)


def test_a_process_with_a_precision_of_its_own_is_told():
    Accelerator(mixed_precision="bf16", cpu=True)
    with pytest.raises(
        ConfigError, match=r"Accelerator\(mixed_precision='bf16'\), .*: loop\.precision is what a recipe"
    ):
        launch.accelerator()


def test_a_process_that_stays_on_the_cpu_beside_a_gpu_says_so(recipe, archive, tmp_path, monkeypatch):
    Accelerator(cpu=True)
    for cpu, there, said in (("false", True, True), ("true", True, False), ("false", False, False)):
        monkeypatch.setattr(run, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda there=there: there)))
        heard = Heard()
        train(recipe(f"loop.cpu={cpu}", epochs=1), archive, tmp_path / f"{cpu}{there}", display=heard)
        assert any("trains on the CPU, though there is a GPU" in line for line in heard.said) == said
