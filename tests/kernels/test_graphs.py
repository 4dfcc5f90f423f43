"""`graphed`: what is recorded, what is replayed and what stays an ordinary call; on a GPU, that replays are right.

Without a GPU a recording is played by running the function again, on the tensors that the graph would read and write.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import rsnn
from rsnn import kernels
from rsnn.errors import InputError
from rsnn.kernels import graphed, graphs


@pytest.fixture
def recordings(monkeypatch):
    """Play recordings on the CPU; the list of what was recorded."""
    recorded = []

    def record(function, inputs, device):
        recorded.append(inputs)
        outputs = function(*inputs)

        def replay():
            for old, new in zip(graphs._leaves(outputs), graphs._leaves(function(*inputs)), strict=True):
                old.copy_(new)

        return replay, outputs

    events = []
    stream = SimpleNamespace(
        record_event=lambda: events.append(object()) or events[-1],
        wait_event=lambda event: events.index(event),  # only for what was recorded
    )
    monkeypatch.setattr(graphs, "_record", record)
    monkeypatch.setattr(graphs, "_on_one_gpu", lambda tensors: bool(tensors))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    return recorded


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("offset", torch.tensor(1.0))

    def forward(self, x, state=None):
        return x * self.weight + self.offset if state is None else (x * self.weight, {"sum": state + x})


@torch.no_grad()
def test_one_recording_for_each_shape(recordings):
    model = Twice().eval()
    fast = graphed(model)
    for x in (torch.arange(3.0), torch.ones(3), torch.ones(4), torch.zeros(3), torch.ones(4).double()):
        result = fast(x)
        assert torch.equal(result, model(x))
        assert result.dtype == model(x).dtype
    assert len(recordings) == len(fast.graphs) == 3


@torch.no_grad()
def test_results_stay_what_they_were_and_inputs_too(recordings):
    fast = graphed(Twice().eval())
    x = torch.arange(3.0)
    first, second = fast(x), fast(x + 1)
    assert first.tolist() == [1, 3, 5]
    assert second.tolist() == [3, 5, 7]
    assert x.tolist() == [0, 1, 2]
    x.zero_()
    assert fast(torch.ones(3)).tolist() == [3, 3, 3]
    assert len(recordings) == 1


@torch.no_grad()
def test_state_in_and_out(recordings):
    fast = graphed(Twice().eval())
    x, state = torch.ones(2), torch.zeros(2)
    for step in range(1, 4):
        result, states = fast(x, state)
        state = states["sum"]
        assert result.tolist() == [2, 2]
        assert state.tolist() == [step, step]
    assert fast(x).tolist() == [3, 3]  # no state is another shape
    assert len(recordings) == 2


@torch.no_grad()
def test_named_tuples_come_back_as_such(recordings):
    layer = rsnn.nn.ConvLSTM(2, 3).eval()
    frames = torch.randn(2, 1, 2, 4, 4)
    expected, state = layer(frames)
    found, after = graphed(layer)(frames)
    assert torch.equal(found, expected)
    assert type(after) is type(state)
    assert torch.equal(after.cell, state.cell)


@torch.no_grad()
def test_new_weights_are_noticed(recordings):
    model = Twice().eval()
    fast = graphed(model)
    x = torch.ones(2)
    changes = [
        lambda: model.weight.mul_(2),
        lambda: setattr(model, "weight", nn.Parameter(torch.tensor(7.0))),
        lambda: model.offset.zero_(),
        lambda: model.load_state_dict(Twice().state_dict()),
        lambda: model.double(),
    ]
    fast(x)
    for count, change in enumerate(changes, start=2):
        change()
        assert torch.equal(fast(x), model(x))
        assert len(recordings) == count
    fast(x)
    assert len(recordings) == len(changes) + 1


@torch.no_grad()
def test_another_autocast_or_choice_of_kernels_is_recorded_anew(recordings):
    fast = graphed(lambda x: torch.nn.functional.linear(x, x))
    x = torch.ones(2, 2)
    assert fast(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16
    with kernels.use("spikingjelly"):
        fast(x)
    assert len(recordings) == 3


def test_what_cannot_be_a_replay_is_an_ordinary_call(recordings):
    model = Twice()
    fast = graphed(model)
    x = torch.ones(2)
    with torch.no_grad():
        fast(x)  # in training mode
        model.eval()
    assert fast(x).requires_grad
    with torch.no_grad():
        hook = model.register_forward_hook(lambda *_: None)
        fast(x)
        hook.remove()
    assert not recordings
    with torch.no_grad():
        fast(x)
    assert len(recordings) == 1


@torch.no_grad()
def test_on_the_cpu_it_is_the_function():
    fast = graphed(Twice().eval())
    assert fast(torch.ones(2)).tolist() == [3, 3]
    assert not fast.graphs


@torch.no_grad()
def test_the_graph_unused_for_longest_goes(recordings):
    fast = graphed(Twice().eval(), most=2)
    for size in (1, 2, 1, 3, 1):
        fast(torch.ones(size))
    assert len(recordings) == 3
    fast(torch.ones(2))
    assert len(recordings) == 4
    assert len(fast.graphs) == 2


def test_inference_mode_before_and_after(recordings):
    fast = graphed(Twice().eval())
    with torch.inference_mode():
        fast(torch.ones(2))
    with torch.no_grad():
        assert fast(torch.ones(2)).tolist() == [3, 3]
    with torch.inference_mode():
        assert fast(torch.ones(2)).tolist() == [3, 3]
    assert len(recordings) == 1


@torch.no_grad()
def test_a_function_that_cannot_be_recorded_is_called_and_says_so_once(monkeypatch, recordings):
    def record(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs, "_record", record)
    fast = graphed(Twice().eval())
    with pytest.warns(UserWarning, match="graphed: not recorded, calls stay ordinary ones: operation not permitted"):
        assert fast(torch.ones(2)).tolist() == [3, 3]
    assert fast(torch.ones(2)).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"), [((3,), "got a int"), ((abs, 0), "most=0"), ((abs, 1.5), "most=1.5")]
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        graphed(arguments[0], **dict(zip(["most"], arguments[1:], strict=False)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_a_network_on_a_gpu():
    scnn = rsnn.nn.SCNN(6, 11, (8, 8), pools=(2, 1), channels=8)
    model = rsnn.RSNN(rsnn.nn.ConvLSTMEncoder(2, (4, 6)), scnn).cuda().eval()
    fast = graphed(model)
    for seed in range(3):
        frames = torch.randn(4, 2, 2, 32, 32, generator=torch.Generator().manual_seed(seed)).cuda()
        torch.testing.assert_close(fast(frames), model(frames))
    assert len(fast.graphs) == 1
