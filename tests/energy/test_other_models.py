"""Models that nobody wrote for this library: in inference mode, scripted, step by step, pruned, with a state inside."""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn.utils import parametrizations, prune

import rsnn
from rsnn.energy import energy_report
from rsnn.nn import LIF, ConcatFrames, ConvLSTM


class Net(nn.Module):
    """Modules by name, and a function of them and the frames."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, frames):
        return self.run(self, frames)


def layer(report, name, kind=None):
    (found,) = [one for one in report.layers if one.name == name and kind in (None, one.kind)]
    return found


def numbers(layer):
    return (layer.mac, layer.dense_mac, layer.ac, layer.dense_ac)


FRAMES = torch.tensor([0.0, 2.0, 3.0, 0.0]).view(1, 1, 1, 2, 2).repeat(4, 2, 1, 1, 1)  # 16 numbers a sample, 8 zeros


# Inference mode


@pytest.mark.parametrize(
    "name", ["rsnn-gesture-cla", "convlstm-gesture-cl-lstm", "slayer-gesture", "stbp-gesture", "cnnsnn-gesture"]
)
def test_inference_mode_changes_nothing(name):
    """There convolutions and linear layers are not in pieces yet when they are seen."""
    torch.manual_seed(0)
    model = rsnn.create_model(name, frame_size=(32, 32), num_frames=3)
    frames = (torch.rand(3, 2, 2, 32, 32) < 0.2).float()
    report = energy_report(model, frames)
    with torch.inference_mode():
        assert energy_report(model, frames).to_dict() == report.to_dict()


def test_a_frozen_part_that_runs_in_inference_mode():
    def run(self, frames):
        spikes = (frames > 2.5).float().flatten(0, 1)
        with torch.inference_mode():
            features = self.pool(self.convolution(spikes)) * 0.0 + self.pool(spikes)
            spikes = torch.nn.functional.max_pool2d(spikes, 1)
        return self.after(spikes), features

    model = Net(run, convolution=nn.Conv2d(1, 3, 1), pool=nn.AdaptiveMaxPool2d(2), after=nn.Conv2d(1, 5, 1))
    report = energy_report(model, FRAMES)
    assert not report.not_counted
    assert numbers(layer(report, "convolution")) == (0, 0, 4 * 3, 16 * 3)
    assert numbers(layer(report, "after")) == (0, 0, 4 * 5, 16 * 5)  # still spikes


def test_repeated_weights_are_stored_once():
    model = Net(lambda self, frames: torch.bmm(frames.flatten(0, 1).flatten(2), self.w.expand(8, 4, 3)))
    model.w = nn.Parameter(torch.ones(4, 3))
    assert layer(energy_report(model, FRAMES), "w").weights == 12


# Scripted modules


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning", "ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_part_is_counted_and_left_whole():
    optimized = []

    def run(self, frames):
        optimized.append(torch._C._get_graph_executor_optimize())
        return self.head(self.lif(self.encoder(frames)[0])[0].flatten(2))

    head = torch.jit.script(nn.Sequential(nn.Linear(8, 3), nn.Sigmoid()))
    model = Net(run, encoder=ConvLSTM(1, 2), lif=LIF(), head=head)
    wanted = model(FRAMES)
    report = energy_report(model, FRAMES)
    assert not report.not_counted
    assert layer(report, "head.0").dense_ac == 4 * 8 * 3
    assert layer(report, "Net", "function").mac == 4 * 3
    torch.testing.assert_close(model(FRAMES), wanted, rtol=0, atol=0)
    assert optimized == [True, False, True]


def test_hooks_that_cannot_be_put_on_leave_none_behind(monkeypatch):
    class Refuses(nn.Linear):
        def register_forward_hook(self, *_args, **_kwargs):
            raise RuntimeError("no hooks here")

    model = Net(lambda self, frames: self.head(self.lif(frames)[0].flatten(2)), lif=LIF(), head=Refuses(4, 3))
    with pytest.raises(RuntimeError, match="no hooks here"):
        energy_report(model, FRAMES)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model(FRAMES).shape == (4, 2, 3)


# State


def whole(module):
    return Net(lambda self, x: self.layer(x)[0], layer=module)


def by_steps(module):
    def run(self, x):
        state = None
        for step in x.split(1):
            _, state = self.layer(step, state)
        return state

    return Net(run, layer=module)


def by_samples(module):
    return Net(lambda self, x: [self.layer(one)[0] for one in x.split(1, dim=1)], layer=module)


@pytest.mark.parametrize("run", [whole, by_steps, by_samples])
@pytest.mark.parametrize(
    ("make", "elements"),
    [
        (lambda: ConvLSTM(1, 3), 2 * 3 * 4),  # hidden state and cell
        (LIF, 4),
        (lambda: ConcatFrames(4), 4 * 4),  # all four frames, at the last step
        (lambda: Net(lambda self, x, state=None: self.lstm(x.flatten(2), state), lstm=nn.LSTM(4, 5)), 2 * 5),
        (lambda: Net(lambda self, x, state=None: self.gru(x.flatten(2), state), gru=nn.GRU(4, 5, 2)), 2 * 5),
    ],
)
def test_a_state_is_what_a_sample_needs_at_a_time(run, make, elements):
    module = make()
    if isinstance(module, Net):
        module.forward = module.run.__get__(module)
    assert energy_report(run(module), FRAMES).total.state_bytes == 4 * elements


def test_cells_carry_all_they_return():
    for cell, elements in ((nn.GRUCell(4, 5), 5), (nn.LSTMCell(4, 5), 10)):
        model = Net(lambda self, x: [self.cell(step.flatten(1)) for step in x], cell=cell)
        assert energy_report(model, FRAMES).total.state_bytes == 4 * elements


def test_what_comes_back_is_a_state_and_nothing_else():
    class Two(nn.Module):
        def forward(self, x, before=None):
            return x, x + 1 if before is None else x + before, x * 2

    class Sum(nn.Module):
        def forward(self, x, total):
            return x + total

    def feed_back(self, frames):
        total = torch.zeros_like(frames[0])
        before = None
        for x in frames:
            _, before, _ = self.two(x, before)
            total = self.sum(x, total)
        return total

    assert energy_report(Two(), FRAMES).total.state_bytes == 0
    report = energy_report(Net(feed_back, two=Two(), sum=Sum()), FRAMES)
    assert layer(report, "two").state_bytes == layer(report, "sum").state_bytes == 4 * 4
    # Neither weights of attention nor a layer that takes its own output is a state.
    model = Net(lambda self, x: self.a(*[self.a(*[x[0].flatten(2)] * 3)[0]] * 3)[0], a=nn.MultiheadAttention(4, 2))
    assert energy_report(model, FRAMES).total.state_bytes == 0


# SpikingJelly


def jelly(node=None):
    conv = sj_layer.Conv2d(1, 3, 1, step_mode="m", bias=False)
    nn.init.constant_(conv.weight, 0.3)
    run = lambda self, x: self.fc(self.node(self.conv(x)).flatten(2))  # noqa: E731
    return Net(run, conv=conv, node=node or neuron.LIFNode(step_mode="m"), fc=nn.Linear(12, 2))


def test_neurons_that_keep_their_state_start_afresh_and_get_it_back():
    model = jelly()
    wanted = energy_report(model, FRAMES).to_dict()
    assert layer(energy_report(model, FRAMES), "node", "neuron").state_bytes == 12 * 4
    assert energy_report(model, FRAMES).to_dict() == wanted
    assert energy_report(model, [FRAMES] * 3).to_dict() == wanted | {"samples": 6}
    model.node.store_v_seq = True
    with torch.no_grad():
        model(FRAMES)
    v, sequence = model.node.v, model.node.v_seq
    before = v.clone()
    assert energy_report(model, FRAMES).to_dict() == wanted
    assert model.node.v is v
    assert model.node.v_seq is sequence
    assert torch.equal(v, before)


def test_a_reset_value_that_is_a_tensor_does_not_write_into_the_state():
    model = jelly()
    state = torch.full((2, 3, 2, 2), 0.75)
    model.node.set_reset_value("v", torch.zeros_like(state))
    model.node.v = state
    energy_report(model, FRAMES)
    assert model.node.v is state
    assert (state == 0.75).all()


def test_a_failure_gives_the_state_back():
    model = jelly()
    model.node.v = state = torch.ones(2, 3, 2, 2)
    with pytest.raises(RuntimeError):
        energy_report(model, torch.ones(2, 2, 9, 2, 2))
    assert model.node.v is state


# Operations


@pytest.mark.parametrize(
    "make",
    [
        lambda: Net(
            lambda self, x: self.c(x.flatten(0, 1)), c=prune.random_unstructured(nn.Conv2d(1, 3, 2), "weight", 2)
        ),
        lambda: Net(lambda self, x: self.c(x.flatten(0, 1)), c=parametrizations.weight_norm(nn.Conv2d(1, 3, 2))),
        lambda: Net(lambda self, x: self.c(x.flatten(2)), c=parametrizations.spectral_norm(nn.Linear(4, 3))),
        lambda: jelly(neuron.ParametricLIFNode(step_mode="m")),
    ],
)
def test_what_is_done_to_weights_alone_folds_into_them(make):
    torch.manual_seed(0)
    model = make().eval()
    one, many = (energy_report(model, FRAMES[:, :1].expand(-1, n, -1, -1, -1)) for n in (1, 8))
    assert not one.not_counted
    assert [numbers(row) for row in one.layers] == [numbers(row) for row in many.layers]
    if hasattr(model, "c"):
        assert all(row.kind in ("convolution", "linear", "product", "parameters") for row in one.layers)
        assert one.total.dense_mac == 4 * 3 * 4


def test_a_state_made_from_a_weights_shape_or_written_into_a_buffer_is_no_weight():
    def run(self, frames):
        total = self.c.weight.new_zeros(frames.shape[1:])
        self.kept.copy_(frames[0, 0])
        return total * 0.5 + frames[0] * 0.5 + self.kept * 0.5

    model = Net(run, c=nn.Conv2d(1, 1, 1))
    model.register_buffer("kept", torch.ones(1, 2, 2))
    assert energy_report(model, FRAMES[:, :1]).total.dense_mac == 3 * 4


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("pad", "convolution"),
    [
        ((1, 2, 1, 2), nn.Conv2d(1, 3, 4, bias=False)),
        ((2, 0, 0, 1), nn.Conv2d(1, 3, (2, 3), stride=(1, 2), padding=(0, 1), bias=False)),
        ((1, 3), nn.Conv2d(1, 3, (1, 3), dilation=(1, 2), bias=False)),
        ((1, 0, 2, 1), nn.ConvTranspose2d(1, 3, 3, stride=2, padding=1, bias=False)),
        (None, nn.Conv2d(1, 3, 4, padding="same", bias=False)),
    ],
)
def test_padding_put_on_beforehand_is_not_counted(pad, convolution):
    def run(self, frames):
        padded = frames if pad is None else nn.functional.pad(frames, pad)
        return self.convolution(padded.flatten(0, 1))

    torch.manual_seed(0)
    frames = torch.rand(1, 1, 1, 5, 6) * (torch.rand(1, 1, 1, 5, 6) < 0.5)
    counted = layer(energy_report(Net(run, convolution=convolution), frames), "convolution")
    with torch.no_grad():
        convolution.weight.fill_(1.0)
        dense, mac = (Net(run, convolution=convolution)(x) for x in (torch.ones_like(frames), (frames != 0).float()))
    assert (counted.mac, counted.dense_mac) == (mac.sum().item(), dense.sum().item())
    assert (counted.inputs, counted.nonzero_inputs) == (30, (frames != 0).sum().item())


def test_what_is_no_padding_is_counted():
    def product(change):
        run = lambda self, x: self.convolution(change(nn.functional.pad(x.flatten(0, 1), (1, 1, 0, 0))))  # noqa: E731
        return energy_report(Net(run, convolution=nn.Conv2d(1, 1, 1)), FRAMES[:1]).total.dense_mac

    assert product(lambda x: x) == 4
    assert product(lambda x: x.add_(1)) == 8
    run = lambda self, x: self.convolution(nn.functional.pad(x.flatten(0, 1), (1, 1), value=1.0))  # noqa: E731
    assert energy_report(Net(run, convolution=nn.Conv2d(1, 1, 1)), FRAMES[:1]).total.dense_mac == 8
    pooled = Net(lambda _self, x: nn.functional.avg_pool2d(nn.functional.pad(x.flatten(0, 1), (1, 1, 1, 1)), 2))
    assert energy_report(pooled, FRAMES[:1]).total.dense_ac == 4


def test_accumulating_values_adds_them():
    def run(_self, frames):
        zeros, places = frames.new_zeros(3, 4), torch.tensor([0, 0, 1])
        values = (frames[0, 0].flatten() > 2.5).float()  # one of four is a one
        total = zeros.index_put((places,), values, accumulate=True)
        total.index_put_((places, places), values[:1], accumulate=True)
        return torch.nn.functional.linear(total, weight)

    weight = torch.ones(1, 4)
    report = energy_report(Net(run), FRAMES[:, :1])
    assert not report.not_counted
    assert numbers(layer(report, "Net", "pointwise")) == (0, 0, 3 + 0, 12 + 3)
    assert layer(report, "Net", "product").dense_mac == 12  # sums of spikes are none


@pytest.mark.parametrize(
    ("add", "counts"),
    [
        (lambda x, _s: torch.add(x, x.clone(), alpha=0.5), (2, 4, 2, 4)),
        (lambda x, _s: x.clone().sub_(x, alpha=2), (2, 4, 2, 4)),
        (lambda x, _s: torch.rsub(x, x.clone() + 0, alpha=3), (2, 4, 2, 4 + 4)),
        (lambda x, _s: torch.add(x, x.clone(), alpha=-1), (0, 0, 2, 4)),
        (lambda x, s: torch.add(x, s, alpha=0.5), (0, 0, 1 + 1, 4 + 4)),  # spikes select
        (lambda x, _s: torch.add(x, 3, alpha=2), (0, 0, 2, 4)),  # with a constant
    ],
)
def test_a_term_that_is_scaled_is_multiplied(add, counts):
    def run(_self, frames):
        x = frames[0]
        return add(x, (x > 2.5).float())

    assert numbers(energy_report(Net(run), FRAMES[:, :1]).total) == counts


def test_products_that_are_scaled():
    def run(_self, frames):
        x = frames[0, :, 0]
        return torch.baddbmm(x.clone(), x, x, beta=0.5, alpha=0.25)

    product = 2  # [[0, 2], [3, 0]] by itself: [[6, 0], [0, 6]]
    total = energy_report(Net(run), FRAMES[:, :1]).total
    assert numbers(total) == (product + 4 + 2, 8 + 4 + 4, 0, 0)
    model = Net(lambda self, frames: torch.addmm(self.w[0], frames[0, :, 0, 0], self.w, beta=0.5, alpha=0.25))
    model.w = nn.Parameter(torch.ones(2, 2))
    assert energy_report(model, FRAMES[:, :1]).total.dense_mac == 4  # of weights they fold
