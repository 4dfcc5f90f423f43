"""One suite over every name of the zoo, at a size that is quick to run."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

import rsnn
from rsnn.models import EventClassifier
from rsnn.nn import SCNN

NAMES = rsnn.list_models()
SIZE, T = (32, 32), 3

# The data sets' names differ in sizes and classes only; to compile one of each structure is enough between commits.
STRUCTURES = {name for name in NAMES if "gesture" in name} | {"rsnn-cifar10dvs-cl", "scnn-nmnist", "stbp-cifar10dvs"}


def made(name: str, num_frames: int = T) -> EventClassifier:
    torch.manual_seed(0)
    model = rsnn.create_model(name, frame_size=SIZE, num_frames=num_frames)
    if isinstance(model.classifier, SCNN):  # with fresh weights and statistics its last layers would stay silent
        with torch.no_grad():
            for weight in model.classifier.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=6 / weight[0].numel() ** 0.5)
    return model


def frames(batch: int = 2, num_frames: int = T, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return random counts, each sample brighter than the one before."""
    rate = torch.linspace(0.02, 0.3, batch, dtype=dtype)[:, None, None, None]
    return torch.poisson(rate.expand(num_frames, batch, 2, *SIZE), torch.Generator().manual_seed(1))


def loss(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)))


@pytest.mark.parametrize("name", NAMES)
def test_forward_backward_and_a_gradient_in_every_parameter(name):
    model = made(name)
    logits = model(frames())
    assert logits.shape == (2, model.num_classes)
    assert logits.dtype == torch.float32
    assert logits.std() > 1e-3  # it says something, and of each sample something else
    assert not torch.equal(logits[0], logits[1])
    loss(logits).backward()
    for parameter, weight in model.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.isfinite().all(), parameter
        assert weight.grad.any(), parameter


@pytest.mark.parametrize("name", NAMES)
def test_chunks_and_samples_agree_with_the_whole(name):
    model, all_frames = made(name).double().eval(), frames(dtype=torch.float64)
    with torch.no_grad():
        whole = model(all_frames)
        for lengths in ([1] * T, [2, 1]):
            state = None
            for chunk in all_frames.split(lengths):
                logits, state = model.advance(chunk, state)
            torch.testing.assert_close(logits, whole, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(model(all_frames[:, :1]), whole[:1], rtol=1e-9, atol=1e-12)
        assert torch.equal(model(all_frames), whole)  # and nothing stayed behind


@pytest.mark.parametrize("name", NAMES)
def test_learns_from_a_batch_of_one(name):
    logits = made(name).train()(frames(1))
    assert logits.shape[0] == 1
    loss(logits).backward()


@pytest.mark.parametrize("name", NAMES)
def test_saves_and_loads_bit_equal(name, tmp_path):
    model = made(name)
    model(frames())  # moves the statistics of batch norms away from where they start
    model.eval().save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(frames()), model(frames()))
    assert (loaded.class_names, loaded.preprocessing) == (model.class_names, model.preprocessing)
    assert type(rsnn.load(tmp_path)) is type(model)


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(name):
    model = made(name).eval().freeze("encoder")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model(frames())
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(frames()), logits)
            assert not other.train().encoder.training  # still frozen
            for weight in other.parameters():
                weight.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_under_bfloat16_autocast(name):
    model = made(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(frames())
    assert logits.dtype == torch.float32  # rates and sums of votes are not rounded
    loss(logits).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    if hasattr(model.classifier, "step_votes"):
        # Half the precision moves spikes, but whatever comes out is still a share of steps and voters.
        spikes = logits / model.logit_scale * T * model.classifier.votes
        torch.testing.assert_close(spikes, spikes.round(), rtol=0, atol=1e-4)
        assert spikes.max() > 0
    else:
        torch.testing.assert_close(logits, model(frames()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_meta_device(name):
    """Shapes without numbers, as for models that are too large to run here."""
    model = made(name).to("meta")
    logits = model(frames().to("meta"))
    assert (logits.shape, logits.device.type) == ((2, model.num_classes), "meta")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in STRUCTURES else pytest.mark.slow, id=n) for n in NAMES]
)
def test_compiled_it_gives_the_same_output(name):
    torch.compiler.reset()
    model = made(name, num_frames=2).eval()
    # Dynamo leaves torch.nn.LSTM to the interpreter; all else is one graph.
    compiled = torch.compile(model, backend="eager", fullgraph=not name.endswith("-lstm"))
    with torch.no_grad():  # equal with the newest PyTorch; 2.10 differs in the last bit
        torch.testing.assert_close(compiled(frames(2, 2)), model(frames(2, 2)), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convlstm-gesture-cla-sum", "rsnn-gesture-cl", "slayer-gesture"])
def test_compiled_it_learns_the_same(name):
    torch.compiler.reset()
    model = made(name, num_frames=2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss(compiled(frames(2, 2))).backward()
    compiled_gradients = [p.grad.clone() for p in model.parameters()]
    other = made(name, num_frames=2)
    loss(other(frames(2, 2))).backward()
    for ours, p in zip(compiled_gradients, other.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convlstm-gesture-cl-sum", "rsnn-gesture-cl"])
def test_compiled_to_machine_code_it_gives_the_same_output(name):
    """In float64, where a rounding that moves a spike is not to be expected."""
    torch.compiler.reset()
    model = made(name, num_frames=2).double().eval()
    with torch.no_grad():
        logits = torch.compile(model)(frames(2, 2, torch.float64))
        torch.testing.assert_close(logits, model(frames(2, 2, torch.float64)), rtol=1e-9, atol=1e-12)
