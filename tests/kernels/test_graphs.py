"""`graphed`: what is recorded, what is replayed and what stays an ordinary call; on a GPU, that replays are right.

Without a GPU a recording is played by running the function again, on the tensors that the graph would read and write.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils.flop_counter import FlopCounterMode

import rsnn
from rsnn import kernels
from rsnn.errors import InputError
from rsnn.kernels import graphed, graphs, recording
from rsnn.kernels.nested import mapped, tensors_in
from rsnn.training.objective import Objective


@pytest.fixture
def recordings(monkeypatch):
    """Play recordings on the CPU; the list of what was recorded."""
    recorded = []

    def record(function, inputs, device):
        recorded.append(inputs)
        outputs = function(*inputs)

        def replay():
            for old, new in zip(tensors_in(outputs), tensors_in(function(*inputs)), strict=True):
                old.copy_(new)

        return replay, outputs

    twins, made = graphs.twins, []

    @contextlib.contextmanager
    def kept_twins(module):
        with twins(module) as parameters:
            made.append((module, parameters))
            yield parameters

    def record_training(call, wanted, device):
        recorded.append(wanted)
        module, parameters = made[-1]
        names = [name for name, _ in module.named_parameters()]
        left = []  # what forward leaves for backward

        def run():
            with _reparametrize_module(module, dict(zip(names, parameters, strict=True)), tie_weights=True):
                return call()

        def forward():
            with torch.enable_grad():
                left[:] = tensors_in(run())
            for own, new in zip(tensors_in(outputs), left, strict=True):
                own.copy_(new.detach())

        def backward():
            found = recording._back(left, output_grads, wanted)
            left.clear()
            for own, new in zip(gradients, found, strict=True):
                if own is not None:
                    own.copy_(new)

        results = run()
        outputs = mapped(lambda x: x.detach().clone(), results)
        output_grads = [recording._like_gradient(x) for x in tensors_in(results)]
        gradients = recording._back(tensors_in(results), output_grads, wanted)
        gradients = [None if x is None else x.clone() for x in gradients]
        return forward, backward, outputs, output_grads, gradients

    monkeypatch.setattr(graphs, "twins", kept_twins)
    monkeypatch.setattr(graphs, "record_training", record_training)

    events = []
    stream = SimpleNamespace(
        record_event=lambda: events.append(object()) or events[-1],
        wait_event=lambda event: events.index(event),  # only for what was recorded
    )
    monkeypatch.setattr(graphs, "record", record)
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
def test_another_autocast_precision_or_choice_of_kernels_is_recorded_anew(recordings, monkeypatch):
    fast = graphed(lambda x: torch.nn.functional.linear(x, x))
    x = torch.ones(2, 2)
    assert fast(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype == torch.bfloat16
    with kernels.use("spikingjelly"):
        fast(x)
    assert len(recordings) == 3
    monkeypatch.setattr(graphs.gpu, "tf32_is_allowed", lambda: False)
    fast(x)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee" if before == "tf32" else "tf32"
    fast(x)
    torch.backends.cuda.matmul.fp32_precision = before
    assert len(recordings) == 5


@torch.no_grad()
def test_counts_are_normalised_while_they_are_copied(recordings):
    model = rsnn.create_model("rsnn-nmnist-cl", num_frames=3, normalize="log1p").eval()
    first, second = torch.poisson(torch.ones(2, 3, 1, 2, 34, 34))
    fast = graphed(model)
    for frames in (first, second, first):
        assert torch.equal(fast(frames), model(frames))
    ((seen,),) = recordings
    assert torch.equal(seen, model.preprocessing.normalized(first))  # of the last call
    assert first.max() >= 2
    with pytest.raises(InputError, match="got frames of"):
        fast(torch.ones(3, 1, 2, 5, 5))
    assert torch.equal(fast(second.int()), model(second))  # of another type than what comes of them


@torch.no_grad()
@pytest.mark.parametrize("method", ["forward", "advance", "_input"])
def test_a_model_with_a_way_of_its_own_gets_the_counts(recordings, method):
    class Own(rsnn.ConvLSTMClassifier):
        pass

    def twice(self, frames, *rest):
        return getattr(super(Own, self), method)(2 * frames, *rest)

    setattr(Own, method, twice)
    parts = rsnn.create_model("convlstm-nmnist-cl-mean", num_frames=3, normalize="log1p").eval()
    model = Own(parts.encoder, parts.classifier, preprocessing=parts.preprocessing).eval()
    frames = torch.poisson(torch.ones(3, 1, 2, 34, 34))
    assert torch.equal(graphed(model)(frames), model(frames))
    assert torch.equal(model(frames), parts(2 * frames))
    assert torch.equal(recordings[0][0], frames)


@torch.no_grad()
def test_inputs_copied_for_nothing_change_no_result(recordings):
    model = Twice().eval()
    fast = graphed(model)
    ones, threes = torch.ones(2), torch.full((2,), 3.0)
    assert fast(ones).tolist() == [3, 3]
    model.weight.mul_(5)  # so that the graph of which the inputs are is none of this call
    assert fast(threes).tolist() == [31, 31]
    hook = model.register_forward_hook(lambda *_: None)
    assert fast(ones).tolist() == [11, 11]
    hook.remove()
    assert fast(threes).tolist() == [31, 31]
    assert torch.vmap(fast)(torch.eye(2)).tolist() == [[11, 1], [1, 11]]
    assert len(recordings) == 2


@torch.no_grad()
def test_of_two_modes_in_turn_each_takes_its_own_inputs(recordings):
    fast = graphed(lambda x: torch.nn.functional.linear(x, x))
    for number in (1.0, 2.0):
        x = torch.full((2, 2), number)
        fast(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fast(3 * x)
        (single,), (half,) = recordings
        assert (single[0, 0], half[0, 0]) == (number, 3 * number)


@torch.no_grad()
def test_a_call_waits_for_those_on_other_streams_only(recordings, monkeypatch):
    class Stream:
        def __init__(self):
            self.waited = []
            self.wait_event = self.wait_stream = self.waited.append

        def record_event(self):
            return self, "done"

    one, other = Stream(), Stream()
    current = [one]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: current[0])
    model = Twice().eval()
    fast, x = graphed(model), torch.ones(3)
    for _ in range(3):
        fast(x)
    current[0] = other
    for _ in range(2):
        fast(x)
    assert (one.waited, other.waited) == ([], [(one, "done")])
    model.weight.mul_(2)  # the inputs are taken for nothing
    model.forward = lambda x: x
    fast(x)
    current[0] = one
    del model.forward
    model.weight.div_(2)
    fast(x)
    assert one.waited == [other]


def test_what_cannot_be_a_replay_is_an_ordinary_call(recordings):
    model = Twice()
    fast = graphed(model)
    x = torch.ones(2)
    with torch.no_grad():
        fast(x)  # in training mode
        model.eval()
        hook = model.register_forward_hook(lambda *_: None)
        fast(x)
        hook.remove()
        with FlopCounterMode(display=False):
            fast(x)
    assert graphed(lambda x: model(x))(x).requires_grad
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

    monkeypatch.setattr(graphs, "record", record)
    fast = graphed(Twice().eval())
    with pytest.warns(UserWarning, match="graphed: not recorded, calls stay ordinary ones: operation not permitted"):
        assert fast(torch.ones(2)).tolist() == [3, 3]
    assert fast(torch.ones(2)).tolist() == [3, 3]


@torch.no_grad()
def test_equal_numbers_of_other_kinds_are_other_calls(recordings):
    def function(x, how):
        return x * (3 if how is True else how)

    fast, x = graphed(function), torch.ones(2, dtype=torch.int64)
    assert fast(x, 1).tolist() == [1, 1]
    assert fast(x, True).tolist() == [3, 3]
    assert fast(x, 1.0).dtype == torch.float32
    assert len(recordings) == 3
    for how in (np.array([2, 5]), slice(1), {1}):  # which nothing compares
        assert graphed(lambda x, _: x + 1)(x, how).tolist() == [2, 2]
    assert len(recordings) == 3


@torch.no_grad()
def test_results_of_other_kinds(recordings):
    found = graphed(lambda x: OrderedDict(a=x + 1, kind=x.dtype))(torch.zeros(1))
    assert type(found) is OrderedDict
    assert found["kind"] == torch.float32
    fast = graphed(lambda x: SimpleNamespace(x=2 * x))
    with pytest.warns(UserWarning, match="it returns a SimpleNamespace; expected tensors"):
        first = fast(torch.ones(1))
    fast(torch.full((1,), 5.0))
    assert first.x.tolist() == [2]


class Trained(nn.Module):
    """All that a recording has to leave as it was, and more than one output."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.outer = nn.Linear(8, 2)
        self.outer.bias = self.inner.weight  # shared, and not used
        self.idle = nn.Parameter(torch.ones(1))

    def forward(self, x, offset=None):
        hidden = F.dropout(self.norm(self.inner(x)).relu(), 0.3, self.training)
        result = F.linear(hidden, self.outer.weight) + (0 if offset is None else offset)
        return {"result": result, "decision": result.argmax(1), "rate": (hidden.detach().mean(), 3)}


def steps(call, model, inputs, seed=0):
    """Train, and return all that comes of it."""
    torch.manual_seed(seed)
    optimizer, seen = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), []
    for x in inputs:
        outputs = call(x)
        outputs["result"].square().mean().backward()
        seen += [*tensors_in(outputs), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
        optimizer.zero_grad()
    return [x.detach() for x in (*seen, *model.state_dict().values(), torch.rand(1))]


@pytest.mark.parametrize("mode", [True, False])
def test_training_is_that_of_the_function(recordings, mode):
    model = Trained().train(mode)
    twin = deepcopy(model)
    inputs = torch.randn(4, 5, 3)
    found, expected = steps(graphed(model), model, inputs), steps(twin, twin, inputs)
    assert len(recordings) == 1
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert model.idle.grad is None


def test_gradients_add_up(recordings):
    model = Trained()
    twin = deepcopy(model)
    fast, inputs = graphed(model), torch.randn(3, 5, 3)
    for call in (fast, twin):
        torch.manual_seed(0)
        for x in inputs:
            call(x)["result"].sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
    assert len(recordings) == 1


def test_gradients_of_inputs_and_of_what_the_loss_leaves_out(recordings):
    layer = rsnn.nn.ConvLSTM(2, 3)
    fast = graphed(layer)
    state = [torch.randn(1, 3, 4, 4, requires_grad=True) for _ in range(2)]
    frames = torch.randn(2, 1, 2, 4, 4)
    results = []
    for call in (layer, fast, fast):
        features, after = call(frames, rsnn.nn.ConvLSTMState(*state))
        assert type(after) is rsnn.nn.ConvLSTMState
        loss = features.square().sum()
        results.append([features.detach(), *torch.autograd.grad(loss, [*state, *layer.parameters()])])
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])
    assert len(recordings) == 1
    assert all(x.grad is None for x in (*state, *layer.parameters()))


def test_what_a_training_graph_depends_on(recordings):
    model = Trained()
    fast, x = graphed(model), torch.randn(5, 3)
    changes = [
        lambda: model.eval(),
        lambda: model.inner.weight.requires_grad_(False),
        lambda: setattr(model.inner.bias, "data", model.inner.bias.data.clone()),
        lambda: setattr(model, "idle", nn.Parameter(torch.ones(2))),
        lambda: x.requires_grad_(),
    ]
    fast(x)
    for count, change in enumerate(changes, start=2):
        with torch.no_grad():
            model.outer.weight.mul_(1.5)
        change()
        fast(x)["result"].sum().backward()
        assert len(recordings) == count
    model.load_state_dict(model.state_dict())
    fast(x)
    assert len(recordings) == len(changes) + 1
    assert len(fast.graphs) == 4


def test_a_parameter_in_the_same_memory_gets_the_gradient(recordings):
    model = Twice()
    fast = graphed(model)
    fast(torch.ones(2)).sum().backward()
    former, model.weight = model.weight, nn.Parameter(model.weight.data)
    fast(torch.ones(2)).sum().backward()
    assert len(recordings) == 1
    assert former.grad == model.weight.grad == 2


def test_a_call_that_waits_for_its_backward_keeps_its_activations(recordings):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    fast, (x, y) = graphed(model), torch.randn(2, 5, 3)
    expected = torch.autograd.grad((model(x) * model(y)).sum(), list(model.parameters()))
    found = torch.autograd.grad((fast(x) * fast(y)).sum(), list(model.parameters()))
    torch.testing.assert_close(found, expected)
    result = fast(x)
    assert type(result.grad_fn).__name__ == "_ReplayBackward"  # the ones before are over
    assert type(fast(x).grad_fn).__name__ != "_ReplayBackward"
    del result
    assert type(fast(x).grad_fn).__name__ == "_ReplayBackward"  # nobody can ask for the one before any more


def test_backward_goes_through_a_call_once(recordings):
    model = Twice()
    loss = graphed(model)(torch.ones(2)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes through a call of a graphed function once"):
        loss.backward()
    x = torch.ones(2, requires_grad=True)
    first = torch.autograd.grad(graphed(model)(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_what_trains_by_ordinary_calls(recordings):
    frozen, synchronous = Twice().requires_grad_(False), nn.Sequential(nn.SyncBatchNorm(1), Twice()).eval()
    hooked, compiled = Twice(), Twice()
    hooked.register_full_backward_pre_hook(lambda *_: None)
    for model in (frozen, synchronous, hooked):
        graphed(model)(torch.ones(2, 1))
    with FlopCounterMode(display=False):
        graphed(compiled)(torch.ones(2))
    assert not recordings


def test_gradients_that_go_elsewhere_are_left_to_ordinary_calls(recordings):
    outside = torch.ones(2, requires_grad=True)

    class Borrows(Twice):
        def forward(self, x):
            return super().forward(x) * outside

    fast = graphed(Borrows())
    with pytest.warns(UserWarning, match="training calls stay ordinary ones: its gradients reach a tensor that is"):
        fast(torch.ones(2)).sum().backward()
    fast(torch.ones(2)).sum().backward()
    assert outside.grad.tolist() == [6, 6]
    assert not fast.graphs
    fast.function.eval()
    with torch.no_grad():
        fast(torch.ones(2))
    assert len(fast.graphs) == 1  # without gradients it is recorded nevertheless


def test_a_buffer_that_is_replaced_is_left_to_ordinary_calls(recordings):
    class Counts(Twice):
        def forward(self, x):
            self.offset = self.offset + 1
            return super().forward(x)

    model = Counts()
    with pytest.warns(UserWarning, match="another tensor in the place of its buffer 'offset'"):
        assert graphed(model)(torch.ones(2)).tolist() == [4, 4]
    assert model.offset == 2


def test_casts_of_weights_are_part_of_a_recording():
    weight = torch.ones(2, 2, requires_grad=True)
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run = recording.without_cached_casts(F.linear, torch.device("cpu"))
        F.linear(x, weight)
        with torch.no_grad():
            weight.mul_(2)
        assert F.linear(x, weight)[0, 0] == 2  # of the cast before
        assert run(x, weight)[0, 0] == 4
        assert run(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("loss", ["cross_entropy", "rate_mse", "tet"])
def test_a_network_under_its_loss(recordings, loss):
    scnn = rsnn.nn.SCNN(6, 3, (4, 4), pools=(2, 1), channels=8, dropout=0.2)
    objective = Objective(rsnn.RSNN(rsnn.nn.ConvLSTMEncoder(2, (4, 6)), scnn), loss)
    courses = []
    for network in (objective, deepcopy(objective)):
        call = graphed(network) if network is objective else network
        optimizer, course = torch.optim.Adam(network.parameters(), 1e-2), []
        torch.manual_seed(0)
        for _ in range(3):
            value, logits = call(3 * torch.rand(4, 2, 2, 16, 16), torch.eye(3)[:2])
            assert not logits.requires_grad
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            course += [value.detach(), logits]
        courses.append(course + list(network.state_dict().values()))
    for found, expected in zip(*courses, strict=True):
        assert torch.equal(found, expected)
    assert len(recordings) == 1


def test_the_random_state_stays(recordings):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    torch.manual_seed(1)
    expected = model(torch.ones(4, 2))
    torch.manual_seed(1)
    assert torch.equal(graphed(model)(torch.ones(4, 2)), expected)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@torch.no_grad()
def test_calls_on_two_streams_of_a_gpu():
    fast = graphed(nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(20))).cuda().eval())
    inputs = torch.randn(8, 64, 512, device="cuda")
    expected = [fast.function(x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in range(3)]
    torch.cuda.synchronize()
    found = []
    for number in range(24):
        with torch.cuda.stream(streams[number % 3]):
            found.append(fast(inputs[number % 8]))
    torch.cuda.synchronize()
    for number, result in enumerate(found):
        torch.testing.assert_close(result, expected[number % 8])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_on_a_gpu(precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    scnn = rsnn.nn.SCNN(6, 11, (8, 8), pools=(2, 1), channels=8, dropout=0.2)
    model = rsnn.RSNN(rsnn.nn.ConvLSTMEncoder(2, (4, 6)), scnn).cuda()
    courses = []
    for call in (graphed(deepcopy(model)), deepcopy(model)):
        network = call.function if isinstance(call, graphs.Graphed) else call
        optimizer, course = torch.optim.Adam(network.parameters(), 1e-4), []
        torch.manual_seed(0)
        for seed in range(4):
            frames = torch.randn(4, 3, 2, 32, 32, generator=torch.Generator().manual_seed(seed)).cuda()
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                logits = call(frames)
                loss = F.cross_entropy(logits.float(), torch.arange(3, device="cuda"))
            loss.backward()
            course += [loss.detach(), logits.detach(), *(p.grad.clone() for p in network.parameters())]
            optimizer.step()
            optimizer.zero_grad()
        course += [x.detach().clone() for x in network.state_dict().values()]
        courses.append([*course, torch.rand(3, device="cuda")])
        if call is not network:
            assert len(call.graphs) == 1
    for found, expected in zip(*courses, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradients_add_up_on_a_gpu():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).cuda()
    twin = deepcopy(model)
    fast = graphed(model)
    for call in (fast, twin):
        for seed in range(3):
            x = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(seed)).cuda()
            call(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    assert len(fast.graphs) == 1
    both = (fast(x) * fast(x + 1)).sum()  # the second an ordinary call
    with torch.no_grad():
        torch.testing.assert_close(both, (twin(x) * twin(x + 1)).sum(), rtol=1e-2, atol=1e-3)
    both.backward()
