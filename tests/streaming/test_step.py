"""A step in one native call: what it computes, which models it is for, and what it notices."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from stream_models import SIZE, T, flat, random_events, small_model

import rsnn
from rsnn import nn
from rsnn.kernels import native
from rsnn.streaming import step, trees
from rsnn.streaming.step import Step

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))

WINDOW_US = 60_000


def stepper(model):
    frames = torch.zeros(1, 1, 2, *model.preprocessing.frame_size)
    return Step(model, lambda: model.advance(frames)[1])


def random_frames(steps=T, size=SIZE, seed=0):
    generator = np.random.default_rng(seed)
    return generator.poisson(0.3, (steps, 2, *size)).astype(np.float32)


@torch.no_grad()
def compare(model, frames, of="all"):
    """Run all frames both ways; equal to the last bit, logits and states."""
    ours, state, expected_state = stepper(model), None, None
    for frame in frames:
        assert ours.look() == of
        logits, state = ours.run(frame, state)
        given = np.zeros((2, *model.preprocessing.frame_size), np.float32) if frame is None else frame
        expected, expected_state = model.advance(torch.from_numpy(given.copy())[None, None], expected_state)
        assert torch.equal(logits, expected)
        assert type(state) is type(expected_state)
    assert logits.abs().max() > 0
    # The fully connected layers add up in another order than a matrix product.
    for mine, theirs in zip(trees.leaves(state), trees.leaves(expected_state), strict=True):
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        else:
            assert mine == theirs


def spiking(size=SIZE, pool=2, hidden=(3, 4), kernel_size=3, preprocessing=None, encoder=None, **options):
    """A network whose outputs fire, with normalizations that do something; `encoder` are more options of it."""
    torch.manual_seed(1)
    encoder = nn.ConvLSTMEncoder(2, hidden, kernel_size, pool=pool, **(encoder or {}))
    options = {"pools": (1,), "channels": 8, "votes": 4, **options}
    head = nn.SCNN(encoder.out_channels, 5, encoder.output_size(size), **options)
    with torch.no_grad():
        for weight in (*encoder.parameters(), *head.parameters()):
            if weight.ndim > 1:
                weight.mul_(6.0)
        for norm in (stage.norm for stage in head.convs):
            for numbers, low, high in (
                (norm.weight, 0.5, 2.0),
                (norm.bias, 0.0, 1.0),
                (norm.running_mean, -0.1, 0.1),
                (norm.running_var, 0.1, 0.5),
            ):
                numbers.uniform_(low, high)
    settings = rsnn.Preprocessing(frame_size=size, num_frames=T, **(preprocessing or {}))
    return rsnn.RSNN(encoder, head, preprocessing=settings, logit_scale=5.0).eval()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": (33, 21), "pools": (2, 1), "channels": 20},
        {"size": (16, 16), "pool": 1, "hidden": (3,), "pools": (2, 2)},
        {"size": (24, 32), "pool": 2, "hidden": (5,), "kernel_size": 5},
        {"size": (19, 23), "pool": 3, "hidden": (4,), "kernel_size": 2},
        {"size": (9, 8), "pools": (2,)},  # features of one pixel after it
        {"v_reset": None, "tau": 3.0},
        {"learn_tau": True, "v_reset": -0.5},
        {"channels": 40, "votes": 7},
        {"preprocessing": {"normalize": "log1p"}},
        {"preprocessing": {"normalize": "clip", "clip_at": 1}},
        {"preprocessing": {"normalize": "binary"}},
        {"in_pool": 2, "pool": 1},
        {"encoder": {"input_pool": 2}},
        {"encoder": {"attention": True}},
        {"size": (26, 35), "pool": 1, "hidden": (5,), "encoder": {"attention": True, "input_pool": 4}},
        {"encoder": {"attention": True, "join": "concat"}, "preprocessing": {"normalize": "log1p"}},
        {"encoder": {"attention": True, "num_heads": 2, "key_channels": 4, "value_channels": 6}},
    ],
    ids=str,
)
def test_the_numbers_are_those_of_the_modules(options, threads):
    model = spiking(**options)
    frames = random_frames(size=model.preprocessing.frame_size)
    frames[1, 1, 3, 2] = step.KNOWN_COUNTS  # more than it knows
    frames[2, 0, 0, 0] = 0.5  # no count
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(model, [frames[0], None, *frames[1:]])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("top", "of"), [("spiking", "all"), ("last", "half"), ("mean", "half"), ("lstm", "half")])
def test_half_of_a_model(top, of):
    compare(small_model(top), [*random_frames(), None], of)


def test_classifiers_of_frames_and_of_other_encoders():
    for encoder in (nn.FramePool(2), nn.FramePool(2, pool=2)):
        head = nn.SCNN(2, 5, encoder.output_size(SIZE), pools=(2,), channels=16, votes=4)
        with torch.no_grad():
            for weight in head.parameters():
                weight.mul_(4.0)
        preprocessing = rsnn.Preprocessing(frame_size=SIZE, num_frames=T, normalize="log1p")
        compare(rsnn.RSNN(encoder, head, preprocessing=preprocessing, logit_scale=10.0).eval(), random_frames())


@pytest.mark.parametrize("name", ["rsnn-nmnist-cl", "rsnn-gesture-cla", "scnn-nmnist"])
def test_models_of_the_zoo(name):
    torch.manual_seed(0)
    model = rsnn.create_model(name).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6.0 if weight.ndim > 1 else 1.0)
    frames = random_frames(5, model.preprocessing.frame_size)
    frames[0] *= 9
    compare(model, frames)


@torch.no_grad()
def test_a_state_goes_on_either_way():
    """The two ways can take turns, in the middle of a window, wherever its tensors lie in memory."""
    model, frames = spiking(), random_frames(8)
    ours, state, expected = stepper(model), None, None
    for k, frame in enumerate(frames):
        batch = torch.from_numpy(frame)[None, None]
        wanted, expected = model.advance(batch, expected)
        if k % 3 == 1:
            logits, state = model.advance(batch, state)
            state = trees.mapped(state, lambda x: x.contiguous() if isinstance(x, torch.Tensor) else x)
        else:
            ours.look()
            logits, state = ours.run(frame, state)
        assert torch.equal(logits, wanted)


CHANGES = {
    "a ConvLSTM's weight": lambda m: m.encoder.layers[1].hidden_gates.weight.mul_(-1),
    "a bias": lambda m: m.encoder.layers[0].input_gates.bias.add_(1.0),
    "a convolution's weight": lambda m: m.classifier.convs[0].conv.weight.mul_(-1),
    "a running mean": lambda m: m.classifier.convs[0].norm.running_mean.add_(1.0),
    "a running variance": lambda m: m.classifier.convs[0].norm.running_var.mul_(5.0),
    "a fully connected layer": lambda m: m.classifier.hidden.linear.weight.mul_(-1),
    "the last layer": lambda m: m.classifier.output.linear.weight.mul_(2),
    "one number": lambda m: m.classifier.convs[0].conv.weight[1, 2, 0].fill_(9.0),
    "a state dict": lambda m: m.load_state_dict({k: 1.5 * v for k, v in m.state_dict().items()}),
    "another parameter": lambda m: setattr(
        m.classifier.hidden.linear, "weight", torch.nn.Parameter(-m.classifier.hidden.linear.weight)
    ),
    "other numbers of a parameter": lambda m: setattr(
        m.classifier.hidden.linear.weight, "data", -m.classifier.hidden.linear.weight
    ),
    "numbers behind PyTorch's back": lambda m: m.classifier.hidden.linear.weight.data.mul_(-1),
    "numbers by NumPy": lambda m: np.negative(*[m.classifier.convs[0].conv.weight.detach().numpy()] * 2),
    "a threshold": lambda m: setattr(m.classifier.convs[0].lif, "v_threshold", 3.0),
    "a time constant": lambda m: setattr(m.classifier.output.lif, "tau", 5.0),
    "the scale": lambda m: setattr(m, "logit_scale", 2.0),
    "the preprocessing": lambda m: setattr(
        m, "preprocessing", rsnn.Preprocessing(frame_size=SIZE, num_frames=T, normalize="binary")
    ),
    "another layer": lambda m: setattr(m.encoder.layers[0], "input_gates", torch.nn.Conv2d(2, 12, 3)),
    "another classifier": lambda m: m.reset_classifier(7),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_what_changes_in_the_model_is_noticed(change):
    model, frames = spiking(v_threshold=0.4), random_frames(3)
    ours, found = stepper(model), []
    for _ in range(2):
        assert ours.look() == "all"
        state = expected_state = None
        for frame in frames:
            logits, state = ours.run(frame, state)
            expected, expected_state = model.advance(torch.from_numpy(frame)[None, None], expected_state)
            assert torch.equal(logits, expected)
        for mine, theirs in zip(trees.leaves(state), trees.leaves(expected_state), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        found.append([leaf.clone() for leaf in (logits, *trees.leaves(state)) if isinstance(leaf, torch.Tensor)])
        CHANGES[change](model)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(*found, strict=True))


ATTENTION_CHANGES = {
    "queries": lambda attention: attention.query.weight.mul_(-1),
    "values": lambda attention: setattr(attention.value, "weight", torch.nn.Parameter(-attention.value.weight)),
    "the projection": lambda attention: attention.project.weight.data.mul_(2.0),
    "the heads": lambda attention: setattr(attention, "num_heads", 4),
}


@pytest.mark.parametrize("change", ATTENTION_CHANGES)
@torch.no_grad()
def test_what_changes_in_an_attention_is_noticed(change):
    model = spiking(encoder={"attention": True, "num_heads": 2, "key_channels": 4, "value_channels": 4})
    ours, frames = stepper(model), random_frames(2)
    found = []
    for _ in range(2):
        state = expected_state = None
        for frame in frames:
            assert ours.look() == "all"
            _, state = ours.run(frame, state)
            _, expected_state = model.advance(torch.from_numpy(frame)[None, None], expected_state)
        for mine, theirs in zip(state.encoder, expected_state.encoder, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        found.append(state.encoder[0].hidden.clone())
        ATTENTION_CHANGES[change](model.encoder.layers[0].attention)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_what_is_watched_in_an_attention_is_left_to_the_model():
    ours = stepper(model := spiking(encoder={"attention": True}))
    layer = model.encoder.layers[0]
    with torch.no_grad():
        assert ours.look() == "all"
        for module in (layer, layer.attention, layer.attention.query, layer.attention.project, layer.convlstm):
            hook = module.register_forward_hook(lambda *_: None)
            assert ours.look() is None
            hook.remove()
            assert ours.look() == "all"


def test_attention_that_is_not_known_is_left_to_the_model():
    many = {"attention": True, "key_channels": 17}
    with torch.no_grad():
        compare(spiking(encoder=many), random_frames(), "half")
        for key_channels, of in ((34, "half"), (32, "all")):
            two_heads = {"num_heads": 2, "key_channels": key_channels, "value_channels": 2}
            compare(spiking(encoder={**many, **two_heads}), random_frames(), of)
        biased = spiking(encoder={"attention": True})
        biased.encoder.layers[0].attention.key = torch.nn.Linear(2, 2)
        compare(biased, random_frames(), "half")
        projected = spiking(encoder={"attention": True, "join": "replace"})
        projected.encoder.layers[0].attention.project = torch.nn.Linear(2, 2, bias=False)
        ours = stepper(projected)
        assert ours.look() is None


class Doubled(nn.ConvLSTM):
    """A layer of the user's."""

    def forward(self, frames, state=None, *, pool=1):
        features, state = super().forward(frames, state, pool=pool)
        return 2 * features, state


def other_model(**replaced):
    class Other(rsnn.RSNN):
        pass

    for name, value in replaced.items():
        setattr(Other, name, value)
    model = spiking()
    return Other(model.encoder, model.classifier, preprocessing=model.preprocessing).eval()


def test_what_is_watched_or_not_known_is_left_to_the_model():
    ours = stepper(model := spiking())
    with torch.no_grad():
        assert ours.look() == "all"
        for module in (model.encoder, model.encoder.layers[1], model.classifier.convs[0].lif, model.classifier.voting):
            hook = module.register_forward_hook(lambda *_: None)
            assert ours.look() is None
            hook.remove()
            assert ours.look() == "all"
        hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
        assert ours.look() is None
        hook.remove()
        with rsnn.kernels.use("torch"):
            assert ours.look() is None
        with torch.autocast("cpu", torch.bfloat16):
            assert ours.look() is None
        with torch.enable_grad():
            assert ours.look() is None
        model.train()
        assert ours.look() == "half"  # the encoder has nothing that trains differently
        model.eval()
        assert ours.look() == "all"
        model.classifier.convs[0].forward = model.classifier.convs[0].forward
        assert ours.look() is None
        assert stepper(spiking().double().to(torch.float32)).look() == "all"
        assert stepper(other_model()).look() == "all"
        assert stepper(other_model(advance=lambda self, frames, state=None: None)).look() is None


def test_gates_that_were_changed_are_left_to_the_model():
    biased = torch.nn.Conv2d(3, 12, 3, bias=True)
    wide = torch.nn.Conv2d(3, 12, 5, bias=False, padding=1)  # of the size that frames padded for 3 x 3 ask for
    for changed in (biased, wide):
        ours = stepper(model := spiking())
        with torch.no_grad():
            assert ours.look() == "all"
            model.encoder.layers[0].hidden_gates = changed
            assert ours.look() == "half"
            compare(model, random_frames(), "half")


def test_a_layer_of_the_users_is_left_to_the_model():
    model = spiking()
    model.encoder.layers[0] = Doubled(2, 3)
    with torch.no_grad():
        compare(model, random_frames(), "half")
    bare = spiking().double()
    with torch.no_grad():
        ours = Step(bare, lambda: None)
        assert ours.look() is None


def test_a_stream_notices_new_weights_and_hooks():
    model, events = spiking(), random_events(900, 3 * WINDOW_US)
    first, rest = events.between(0, 75_000), events.between(75_000, 3 * WINDOW_US)
    outputs = []
    for watched in (False, True):
        model = spiking()
        stream = model.stream(window_us=WINDOW_US)
        if watched:
            model.encoder.register_forward_hook(lambda *_: None)
        got = stream.push(first)
        with torch.no_grad():
            model.classifier.hidden.linear.weight.mul_(-0.5)
        outputs.append(flat(got + stream.push(rest)))
    assert outputs[0] == outputs[1]


def test_a_state_of_another_model_is_an_error_as_ever():
    model, events = spiking(), random_events(300, WINDOW_US)
    stream = model.stream(window_us=WINDOW_US)
    stream.push(events.between(0, 25_000))
    model.classifier = spiking(channels=16).classifier
    with pytest.raises(rsnn.errors.InputError, match="potential"):
        stream.push(events.between(25_000, WINDOW_US))


def test_features_of_another_size_are_an_error():
    model = spiking()
    model.encoder = nn.ConvLSTMEncoder(2, (3, 4), pool=1, tie_hidden_gates=True)
    with torch.no_grad():
        ours = Step(model, lambda: spiking().advance(torch.zeros(1, 1, 2, *SIZE))[1])
        ours.look()
        with pytest.raises(rsnn.errors.InputError, match="got feature maps"):
            ours.run(random_frames(1)[0], None)


def test_frames_of_another_size_are_an_error():
    ours = stepper(spiking())
    with torch.no_grad():
        ours.look()
        with pytest.raises(rsnn.errors.InputError, match="got frames of"):
            ours.run(np.zeros((2, 5, 5), np.float32), None)


def test_streams_of_one_model_in_threads():
    """Weights are shared, memory is not."""
    model = spiking()
    recordings = [random_events(900, 3 * WINDOW_US, seed=seed) for seed in range(4)]
    wanted = [flat(model.stream(window_us=WINDOW_US).push(events)) for events in recordings]
    got: list = [None] * 4

    def run(k):
        got[k] = flat(model.stream(window_us=WINDOW_US).push(recordings[k]))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == wanted


def test_nothing_is_left_of_a_model():
    model = spiking()
    stream = model.stream(window_us=WINDOW_US)
    stream.push(random_events(300, WINDOW_US))
    network = weakref.ref(step._prepared[model].network)
    gone = weakref.ref(model)
    del model, stream
    gc.collect()
    assert gone() is None
    assert network() is None


def test_a_library_that_cannot_be_made_leaves_the_model_its_work(monkeypatch):
    def fail(*_):
        raise native.NativeError("no compiler")

    monkeypatch.setattr(step, "Network", fail)
    model = spiking()
    events = random_events(300, WINDOW_US)
    got = flat(model.stream(window_us=WINDOW_US).push(events))
    monkeypatch.undo()
    assert got == flat(spiking().stream(window_us=WINDOW_US).push(events))
