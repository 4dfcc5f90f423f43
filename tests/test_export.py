"""ONNX files give the model's logits in ONNX Runtime: step by step with their state, or whole recordings."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

import rsnn
from rsnn import export, nn
from rsnn.cli import app
from rsnn.errors import InputError, MissingDependencyError, RSNNError
from rsnn.export import to_onnx

SIZE = (12, 12)
T, K = 6, 3


def spiking(preprocessing=None):
    torch.manual_seed(1)
    return built(rsnn.RSNN, nn.SCNN(3, K, (3, 3), pools=(1,), channels=8, votes=2), preprocessing)


def built(kind, classifier, preprocessing=None):
    torch.manual_seed(0)
    model = kind(nn.ConvLSTMEncoder(2, (2, 3)), classifier, preprocessing=preprocessing, class_names=("a", "b", "ü"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)
        for _ in range(20):  # norms learn what comes in, or no neuron would fire
            model(counts(steps=2, seed=1))
    return model.eval()


def counts(steps=T, samples=3, seed=0):
    return torch.poisson(torch.full((steps, samples, 2, *SIZE), 0.4), torch.Generator().manual_seed(seed))


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def step_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "step.onnx"
    model = spiking(rsnn.Preprocessing(SIZE, T, max_step_ms=100))
    assert to_onnx(model, path) < 1e-4
    return model, path


def test_a_step_has_its_state_in_the_callers_hands(step_file):
    model, path = step_file
    session = session_of(path)
    names = [output.name for output in session.get_outputs()]
    inputs = session.get_inputs()
    assert names[0] == "logits"
    assert names[1:] == [f"next.{given.name}" for given in inputs[1:]]
    assert [inputs[0].name, inputs[1].name] == ["frame", "encoder.0.hidden"]
    for samples in (1, 3):
        frames = counts(samples=samples)
        state = {
            i.name: np.zeros([samples if isinstance(d, str) else d for d in i.shape], np.float32) for i in inputs[1:]
        }
        for step in range(T):
            found = dict(zip(names, session.run(names, {"frame": frames[step].numpy(), **state}), strict=True))
            state = {name: found[f"next.{name}"] for name in state}
            with torch.no_grad():
                expected = model(frames[: step + 1])
            torch.testing.assert_close(torch.from_numpy(found["logits"]), expected, rtol=1e-4, atol=1e-5)
        assert expected.abs().max() > 0


def test_the_file_says_what_it_was_trained_with(step_file):
    facts = session_of(step_file[1]).get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == ["a", "b", "ü"]
    preprocessing = json.loads(facts["preprocessing"])
    assert [preprocessing["frame_size"], preprocessing["max_step_ms"]] == [[*SIZE], 100]


def test_a_head_that_needs_all_frames_is_written_whole(tmp_path):
    classifier = nn.ConvClassifier(2 * 3, K, (3, 3), channels=(4,), pools=(1,), votes=1)
    head = nn.DecisionHead(nn.ConcatFrames(2), classifier, 3)
    model = built(rsnn.ConvLSTMClassifier, head)
    kept = tmp_path / "kept.onnx"
    kept.write_bytes(b"before")
    with pytest.raises(InputError, match=r"cannot be written as a step, since it needs all frames.*num_frames="):
        to_onnx(model, kept, frame_size=SIZE)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"kept.onnx": b"before"}
    assert to_onnx(model, kept, num_frames=2, frame_size=SIZE) < 1e-4
    frames = counts(steps=2, samples=4)
    (found,) = session_of(kept).run(None, {"frames": frames.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(frames), rtol=1e-4, atol=1e-5)


def test_sums_of_spikes_are_sums_in_the_file_too(tmp_path):
    """SLAYER's pooling, of whose divisor torch's exporter knows nothing."""
    torch.manual_seed(0)
    network = nn.SpikingNetwork(2, K, SIZE, ("4C3", "SP2", "4FC"), neuron=nn.SRM())
    model = rsnn.models.SLAYER(nn.FramePool(2), network).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)
    assert to_onnx(model, tmp_path / "slayer.onnx", frame_size=SIZE) < 1e-4
    with torch.no_grad():
        assert model(counts()).unique().numel() > 1


def test_a_file_with_other_logits_is_not_written(tmp_path, monkeypatch):
    run = export._run
    monkeypatch.setattr(export, "_run", lambda *of, **how: run(*of, **how) + 0.1)
    with pytest.raises(RSNNError, match=r"logits that differ by up to 0\.1 from the model's, so it was not written"):
        to_onnx(spiking(), tmp_path / "x.onnx", frame_size=SIZE)
    assert not [*tmp_path.iterdir()]


def test_a_model_that_is_slow_to_fire_is_compared_where_it_fires(tmp_path, monkeypatch):
    model = spiking(rsnn.Preprocessing(SIZE, T))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.8)
        assert not model(counts(steps=4)).any()
    assert to_onnx(model, tmp_path / "quiet.onnx") < 1e-4
    run = export._run
    for other in (0.0, np.nan):
        with monkeypatch.context() as patch:
            patch.setattr(export, "_run", lambda *of, other=other, **how: run(*of, **how) * other)
            with pytest.raises(RSNNError, match="so it was not written"):
                to_onnx(model, tmp_path / "wrong.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["quiet.onnx"]


def test_frames_that_only_a_whole_recording_normalises_are_refused_as_a_step(tmp_path):
    with pytest.raises(InputError, match=r"SCNN cannot be written as a step.*--frames"):
        to_onnx(spiking(rsnn.Preprocessing(SIZE, T, normalize="per-sample")), tmp_path / "x.onnx")


def test_the_model_stays_as_it_is(step_file):
    path = step_file[1]
    again = spiking().double().train()
    before = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    to_onnx(again, path.with_name("again.onnx"), frame_size=SIZE)
    assert again.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())


def test_autocast_around_it_changes_nothing(step_file, tmp_path):
    model, _ = step_file
    with torch.autocast("cpu", torch.bfloat16):
        assert to_onnx(model, tmp_path / "model.onnx") < 1e-3


def test_the_size_of_frames_has_to_be_known(tmp_path):
    with pytest.raises(InputError, match=r"no preprocessing.*frame_size="):
        to_onnx(spiking(), tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"frame_size=\(4, 4\): the model takes frames of \(12, 12\)"):
        to_onnx(spiking(rsnn.Preprocessing(SIZE, T)), tmp_path / "x.onnx", frame_size=(4, 4))
    with pytest.raises(InputError, match="num_frames"):
        to_onnx(spiking(), tmp_path / "x.onnx", num_frames=0, frame_size=SIZE)
    assert not [*tmp_path.iterdir()]


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(MissingDependencyError, match=r"onnxscript not found.*rsnn\[export\]"):
        to_onnx(spiking(), tmp_path / "x.onnx", frame_size=SIZE)


def test_a_file_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_exported", None)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        to_onnx(spiking(), tmp_path / "folder.onnx", frame_size=SIZE)


@pytest.mark.parametrize("name", ["clip.aedat", "model.safetensors", "onnx"])
def test_no_file_of_another_kind_is_written_over(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(InputError, match=r"expected a name that ends in \.onnx"):
        to_onnx(spiking(), tmp_path / name, frame_size=SIZE)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_the_command_line_writes_a_model_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spiking(rsnn.Preprocessing(SIZE, T)).save_pretrained("./mine")
    ran = CliRunner().invoke(app, ["export", "./mine", "~/mine[/].onnx"])
    assert ran.exit_code == 0, ran.output
    path = tmp_path / "mine[/].onnx"
    assert ran.stdout.startswith(f"{path}: ./mine, one step of it, 0.1 MB. Logits in ONNX Runtime differ")
    assert session_of(path).get_inputs()[0].shape == ["N", 2, *SIZE]
    refused = CliRunner().invoke(app, ["export", "./mine", "mine[/].onnx/inside.onnx"])
    assert refused.exit_code == 1
    assert "cannot be written (" in refused.stderr
    assert ".partial" not in refused.stderr


@pytest.mark.slow
def test_a_checkpoint_is_written(tmp_path):
    assert to_onnx(rsnn.load("rsnn-nmnist-cl"), tmp_path / "digits.onnx") < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [None, 3])
def test_gates_that_something_watches(tmp_path, num_frames):
    model = rsnn.create_model("rsnn-nmnist-cl", num_frames=3).eval()
    model.encoder.layers[0].input_gates.register_forward_hook(lambda *_: None)
    assert to_onnx(model, tmp_path / "a.onnx", num_frames=num_frames) < 1e-3
