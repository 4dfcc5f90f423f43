"""Every part of the library's networks, by hand and by loops that know nothing of the library's way of counting."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.prune import l1_unstructured

import rsnn
from rsnn.energy import EnergyModel, energy_report
from rsnn.errors import InputError
from rsnn.nn import (
    LIF,
    SCNN,
    SRM,
    ConcatFrames,
    ConvClassifier,
    ConvLSTM,
    ConvLSTMEncoder,
    DecisionHead,
    LastFrame,
    MeanFrames,
    NeuNorm,
    SumFrames,
)
from rsnn.nn.spiking_network import SumPool
from rsnn.nn.stages import SpikingConv


class Spiking(nn.Module):
    """Spikes where the frames are above a half, then some module."""

    def __init__(self, module, flat=False):
        super().__init__()
        self.module = module
        self.flat = flat

    def forward(self, frames):
        spikes = (frames > 0.5).float()
        return self.module(spikes.flatten(0, 1) if self.flat else spikes)


def layer(report, name, kind=None):
    (found,) = [one for one in report.layers if one.name == name and kind in (None, one.kind)]
    return found


def numbers(layer):
    return (layer.mac, layer.dense_mac, layer.ac, layer.dense_ac)


# Decision heads


def test_reductions_over_time():
    features = torch.zeros(3, 1, 2, 2, 2)
    features[0, 0, 0, 0, 0] = features[2, 0, 1] = 1.0  # 5 of 24
    assert energy_report(LastFrame(), features).layers == ()
    assert energy_report(ConcatFrames(3), features).total.mac == 0
    # The sum adds what is not zero; the mean divides it too, where there is anything.
    assert numbers(energy_report(SumFrames(), features).total) == (0, 0, 5, 24)
    assert numbers(energy_report(MeanFrames(), features).total) == (5, 8, 5, 24)


@pytest.mark.parametrize("reduction", [LastFrame(), SumFrames(), MeanFrames(), ConcatFrames(3)])
def test_a_head_on_a_map_of_one_pixel(reduction):
    """Of a 3 x 3 kernel one tap meets the pixel: C -> 4 -> 4 FC(1) -> 2 classes x 2 votes."""
    channels = reduction.out_channels(2)
    head = DecisionHead(reduction, ConvClassifier(channels, 2, (1, 1), (4,), (1,), votes=2), 2)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(0.5)
    report = energy_report(head, torch.ones(3, 1, 2, 1, 1))
    assert layer(report, "classifier.convs.0").mac == channels * 4
    assert layer(report, "classifier.hidden").mac == 4
    assert layer(report, "classifier.output").mac == 4
    assert numbers(layer(report, "classifier.voting")) == (2, 2, 4, 4)
    assert layer(report, "classifier.convs.0").dense_ac == 0  # ReLU and its like are real-valued
    assert not report.not_counted


# The baselines


def test_spike_response_neurons():
    frames = torch.full((4, 1, 1, 2, 2), 10.0)
    report = energy_report(SRM(), frames)
    neurons = layer(report, "SRM", "neuron")
    # Four sums over the past (two of input, two of spikes) and the potential: 6 multiplications, 2 additions of their
    # own besides those that a multiply-accumulate has.
    assert numbers(neurons) == (6 * 16, 6 * 16, 2 * 16, 2 * 16)
    assert neurons.state_bytes == 4 * 4 * 4
    assert 0 < neurons.spikes <= neurons.neuron_steps == 16


def test_neunorm():
    """Two maps of one pixel, spikes 1 and 0 at each of 2 steps; U = 1."""
    frames = torch.tensor([[1.0, 0.0]] * 2)[:, None, :, None, None]
    report = energy_report(Spiking(NeuNorm(2, (1, 1))), frames)
    norm = layer(report, "module")
    # A step: the sum over maps adds 1 of 2, its scale multiplies 1; the decay multiplies 1 and adds 1, from the second
    # step on; U multiplies 2; taking that off the spikes is an addition where there is a spike, 1 of 2.
    assert numbers(norm) == (2 * (1 + 2) + 1, 2 * 4, 2 * (1 + 1) + 1, 2 * 5)
    after = Spiking(nn.ModuleList())
    after.module = _NormThenConvolution()
    counted = layer(energy_report(after, frames), "module.convolution")
    assert (counted.mac, counted.ac) == (4, 0)  # spikes less something are no spikes


class _NormThenConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = NeuNorm(2, (1, 1))
        self.convolution = nn.Conv2d(2, 1, 1, bias=False)

    def forward(self, spikes):
        return self.convolution(self.norm(spikes)[0].flatten(0, 1))


def test_aggregation_layers_add_spikes():
    """SLAYER's pooling: sums of 2 x 2 spikes, each sum times one weight."""
    frames = torch.zeros(1, 1, 1, 4, 4)
    frames[..., :2, :3] = 1.0
    assert numbers(energy_report(Spiking(SumPool(2, 1.1), flat=True), frames).total) == (2, 4, 6, 16)


@pytest.mark.parametrize(
    ("pool", "windows", "outputs"),
    [
        (nn.AvgPool2d(2), 16, 4),
        (nn.AvgPool2d(3, stride=1, padding=1), 100, 16),  # 2 + 3 + 3 + 2 a side
        (nn.AvgPool2d(3, stride=2, ceil_mode=True), 25, 4),  # 3 + 2 a side: what hangs over is not there
        (nn.AdaptiveAvgPool2d(3), 36, 9),  # from 0, 1, 2 to 2, 3, 4: two each, the middle ones twice
        (nn.AdaptiveAvgPool2d(1), 16, 1),
        (nn.AvgPool2d(4, divisor_override=1), 16, 1),
    ],
)
def test_average_pooling_adds_each_input_once_a_window(pool, windows, outputs):
    ones = torch.ones(1, 2, 1, 4, 4)
    total = energy_report(Spiking(pool, flat=True), ones).total
    divides = 0 if getattr(pool, "divisor_override", None) == 1 else outputs
    assert numbers(total) == (divides, divides, windows, windows)
    assert energy_report(Spiking(pool, flat=True), ones * 0).total.ac == 0


# Whole networks by loops


def loops(x, weight, out_size, padding):
    """Count products of a convolution (stride 1) with two non-zero factors, one by one; and all that meet a pixel."""
    effective = dense = 0
    for frame in x:
        for d, c, i, j, dy, dx in product(*map(range, (*weight.shape[:2], *out_size, *weight.shape[2:]))):
            row, column = i + dy - padding, j + dx - padding
            if 0 <= row < frame.shape[1] and 0 <= column < frame.shape[2]:
                dense += 1
                effective += bool(frame[c, row, column] != 0 and weight[d, c, dy, dx] != 0)
    return effective, dense


def prune(model, share=0.2):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand_like(parameter) < share] = 0.0


def test_an_rsnn_by_loops():
    """Encoder of two layers and a spiking CNN on frames of 4 x 4: the inputs of each layer are caught by hooks."""
    torch.manual_seed(0)
    encoder = ConvLSTMEncoder(2, (2, 3), pool=2)
    classifier = SCNN(3, 2, (2, 2), pools=(1, 2), channels=4, votes=2)
    model = rsnn.RSNN(encoder, classifier)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.mul_(8.0)
    prune(model)
    frames = torch.rand(3, 2, 2, 8, 8) * (torch.rand(3, 2, 2, 8, 8) < 0.3)
    report = energy_report(model, frames)
    caught = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _m, args, out, name=name: caught.__setitem__(
                name, (args[0], out[0] if isinstance(out, tuple) else out)
            )
        )
    with torch.no_grad():
        model.eval()(frames)
    for k, cell in enumerate(encoder.layers):
        x, hidden = caught[f"encoder.layers.{k}"]
        size = x.shape[3:]
        row = layer(report, f"encoder.layers.{k}.input_gates")
        wanted = loops(x.flatten(0, 1), cell.input_gates.weight, size, 1)
        assert (row.mac * 2, row.dense_mac * 2, row.dense_ac) == (*wanted, 0)
        row = layer(report, f"encoder.layers.{k}.hidden_gates")
        before = torch.cat((torch.zeros_like(hidden[:1]), hidden[:-1])).flatten(0, 1)
        wanted = loops(before, cell.hidden_gates.weight, size, 1)
        assert (row.mac * 2, row.dense_mac * 2, row.dense_ac) == (*wanted, 0)
    for k, stage in enumerate(classifier.convs):
        x, _ = caught[f"classifier.convs.{k}.conv"]
        wanted = loops(x, stage.conv.weight, x.shape[2:], 1)
        row = layer(report, f"classifier.convs.{k}.conv")
        assert wanted[0] > 0
        # The features are real-valued, the spikes of the first stage are not.
        assert ((row.ac, row.dense_ac) if k else (row.mac, row.dense_mac)) == (wanted[0] / 2, wanted[1] / 2)
        assert row.dense_mac * row.dense_ac == 0
        spikes = caught[f"classifier.convs.{k}.lif"][1]
        neurons = layer(report, f"classifier.convs.{k}.lif")
        assert neurons.spikes == spikes.sum().item() / 2
        assert neurons.mac == neurons.neuron_steps == spikes.numel() / 2
    for name in ("hidden", "output"):
        x, _ = caught[f"classifier.{name}.linear"]
        weight = getattr(classifier, name).linear.weight
        row = layer(report, f"classifier.{name}.linear")
        products = sum(int(((frame != 0) & (weight != 0)).sum()) for frame in x.flatten(0, 1))
        assert (row.ac * 2, row.dense_ac * 2, row.dense_mac) == (products, weight.numel() * 6, 0)
    assert report.total.parameters == sum(p.numel() for p in model.parameters())
    assert set(report.parts) == {"encoder", "classifier", "other"}  # other: the logits' scale
    assert sum(part.joules for part in report.parts.values()) == pytest.approx(report.total.joules)


class PlainConvLSTM(nn.Module):
    """A ConvLSTM by operations of its own, none of which the library has written."""

    def __init__(self, cell):
        super().__init__()
        self.input_gates = nn.Conv2d(cell.in_channels, 4 * cell.hidden_channels, 3, padding=1)
        self.hidden_gates = nn.Conv2d(cell.hidden_channels, 4 * cell.hidden_channels, 3, padding=1, bias=False)
        self.load_state_dict(cell.state_dict())

    def forward(self, frames):
        _, N, _, H, W = frames.shape
        channels = self.hidden_gates.in_channels
        h = c = torch.zeros(N, channels, H, W)
        for x in frames:
            gates = self.input_gates(x) + self.hidden_gates(h)
            i, f, o, g = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


def test_a_module_as_a_whole_is_the_sum_of_its_operations():
    torch.manual_seed(0)
    cell = ConvLSTM(2, 3)
    prune(cell)
    frames = torch.rand(4, 2, 2, 5, 6) * (torch.rand(4, 2, 2, 5, 6) < 0.5)
    whole, plain = energy_report(cell, frames), energy_report(PlainConvLSTM(cell), frames)
    assert {(one.kind, *numbers(one), one.activation_bytes, one.joules) for one in whole.layers} == {
        (one.kind, *numbers(one), one.activation_bytes, one.joules) for one in plain.layers
    }


def test_a_wrapper_of_the_gates_is_counted_by_its_operations():
    class Wrapped(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(x)

    torch.manual_seed(0)
    cell = ConvLSTM(2, 3)
    frames = torch.rand(4, 2, 2, 5, 6) * (torch.rand(4, 2, 2, 5, 6) < 0.5)
    whole = energy_report(cell, frames)
    cell.hidden_gates = Wrapped(cell.hidden_gates)
    single = energy_report(cell, frames)
    assert numbers(layer(single, "input_gates")) == numbers(layer(whole, "input_gates"))
    assert numbers(layer(single, "hidden_gates.conv")) == numbers(layer(whole, "hidden_gates"))
    assert single.total.joules == pytest.approx(whole.total.joules)


def test_a_whole_module_goes_on_from_its_state():
    """State given: the first step has recurrent products too."""
    cell = ConvLSTM(1, 1, kernel_size=1)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, frames):
            state = None
            for chunk in frames.split(1):
                _, state = self.cell(state=state, frames=chunk)
            return state

    frames = torch.ones(3, 1, 1, 2, 2)
    split, whole = energy_report(Twice(), frames), energy_report(cell, frames)
    for name in ("input_gates", "hidden_gates"):
        assert numbers(layer(split, f"cell.{name}")) == numbers(layer(whole, name))
    assert numbers(layer(split, "cell", "pointwise")) == numbers(layer(whole, "ConvLSTM", "pointwise"))


@torch.library.custom_op("rsnn_test::opaque", mutates_args=())
def opaque(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return nn.functional.conv2d(x, weight)


@pytest.mark.parametrize("kernel", rsnn.kernels.available())
@pytest.mark.parametrize("pool", [1, 2])
def test_what_computes_a_module_does_not_matter(kernel, pool):
    """Fused kernels show no single operation, and a fused pooling hides the hidden states."""
    torch.manual_seed(0)
    model = rsnn.RSNN(ConvLSTMEncoder(2, (2, 3), pool=pool), SCNN(3, 2, (8 // pool**2,) * 2, (1,), 4, 2))
    frames = torch.rand(3, 2, 2, 8, 8) * (torch.rand(3, 2, 2, 8, 8) < 0.3)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.mul_(8.0)
        with rsnn.kernels.use("torch"):
            reference, wanted = energy_report(model, frames), model.eval()(frames)
        got = []
        handle = model.register_forward_hook(lambda _m, _args, out: got.append(out))
        with rsnn.kernels.use(kernel):
            report = energy_report(model, frames)
        handle.remove()
    assert not report.not_counted
    torch.testing.assert_close(got[0], wanted, rtol=0, atol=1e-5)
    for one, other in zip(report.layers, reference.layers, strict=True):
        assert (one.name, one.kind, one.dense_mac, one.dense_ac) == (
            other.name,
            other.kind,
            other.dense_mac,
            other.dense_ac,
        )
        assert (one.mac, one.ac, one.spikes) == pytest.approx((other.mac, other.ac, other.spikes), abs=3)


def test_a_pooling_that_a_layer_does_itself():
    """What was asked for comes out, and the hidden states are counted all the same."""
    torch.manual_seed(0)
    cell = ConvLSTM(1, 2)
    frames = torch.rand(3, 2, 1, 6, 4)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, frames):
            return self.cell(frames, pool=2)

    model, got = Pooled(), []
    model.register_forward_hook(lambda _m, _args, out: got.append(out[0]))
    report = energy_report(model, frames)
    hidden = cell(frames)[0].detach()
    wanted = nn.functional.max_pool2d(hidden.flatten(0, 1), 2).unflatten(0, (3, 2))
    torch.testing.assert_close(got[0], wanted, rtol=0, atol=1e-6)
    alone = energy_report(cell, frames)
    assert [numbers(one) for one in report.layers] == [numbers(one) for one in alone.layers]


@pytest.mark.parametrize("kernel", rsnn.kernels.available())
def test_a_count_that_a_module_was_asked_for_is_still_given(kernel):
    torch.manual_seed(1)
    cell, stage = ConvLSTM(1, 2), SpikingConv(2, 3, 2, LIF(tau=2.0))

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.stage = cell, stage

        def forward(self, frames):
            hidden, _ = self.cell(frames, None, pool=1, places=self.places)
            return self.stage(hidden, None, number=self.number)[0]

    model, frames = Counting().eval(), torch.rand(3, 2, 1, 6, 4)
    nn.init.normal_(stage.conv.weight, std=20.0)
    found = []
    with rsnn.kernels.use(kernel), torch.no_grad():
        for run in (model, lambda frames: energy_report(model, frames)):
            model.places, model.number = torch.ones(2, 6, 4, dtype=torch.int64), torch.tensor(5)
            run(frames)
            found.append((model.places, model.number))
        hidden, _ = cell(frames)
    assert torch.equal(found[0][0], 1 + (hidden != 0).sum((0, 1)))
    assert torch.equal(found[0][0], found[1][0])
    assert int(found[0][1]) == int(found[1][1]) > 5


def test_operations_inside_a_whole_module_are_not_counted_again():
    cell = ConvLSTM(1, 2, kernel_size=1)
    frames = torch.rand(3, 1, 1, 2, 2) + 0.1
    assert {one.name for one in energy_report(cell, frames).layers} == {"input_gates", "hidden_gates", "ConvLSTM"}


def test_what_cannot_be_seen_is_said():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1, 1, 1))
            self.unused = nn.Linear(2, 2)

        def forward(self, frames):
            return opaque(frames.flatten(0, 1), self.weight)

    report = energy_report(Hidden(), torch.ones(1, 1, 1, 2, 2))
    assert report.not_counted == {"opaque in the model": 1, "weights unused.weight, not seen in use": 1}
    assert report.total.mac == 0
    assert "not counted: opaque" in str(report)


def test_a_users_subclass_is_looked_into():
    class Doubled(LIF):
        def forward(self, x, state=None):
            spikes, state = super().forward(x, state)
            return 2 * spikes, state

    class Net(nn.Module):
        def __init__(self, neuron):
            super().__init__()
            self.neuron = neuron
            self.convolution = nn.Conv2d(1, 1, 1, bias=False)

        def forward(self, frames):
            return self.convolution(self.neuron(frames)[0].flatten(0, 1))

    frames = torch.full((2, 1, 1, 2, 2), 3.0)
    spiking, doubled = (layer(energy_report(Net(n), frames), "convolution") for n in (LIF(), Doubled()))
    assert (spiking.ac, spiking.mac) == (8, 0)
    assert (doubled.ac, doubled.mac) == (0, 8)  # 0 and 2 are no spikes


def test_torchs_attention_and_transformers_are_counted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        def forward(self, frames):
            return self.attention(frames.flatten(0, 1).flatten(2).transpose(1, 2))

    report = energy_report(Net(), torch.rand(1, 2, 4, 2, 2) + 0.1)  # 4 pixels of 4 channels
    assert not report.not_counted
    linear = sum(one.dense_mac for one in report.layers if one.kind == "linear")
    assert linear == 4 * (4 * 4 * 4 + 2 * 4 * 8)


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_other_recurrent_layers(kind, options):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = kind(4, 3, **options)

        def forward(self, frames):
            return self.layer(frames.flatten(2))[0]

    torch.manual_seed(0)
    net = Net()
    report = energy_report(net, torch.rand(5, 2, 1, 2, 2) + 0.1)
    weights = sum(p.numel() for p in net.parameters() if p.ndim > 1)
    assert sum(one.dense_mac for one in report.layers if one.kind == "linear") == 5 * weights
    assert not report.not_counted
    assert torch._C._get_mkldnn_enabled()


# The zoo

FAMILIES = (
    "rsnn-gesture-cl",
    "rsnn-gesture-cla",
    "rsnn-cifar10dvs-cl-nopool",
    "scnn-gesture",
    *(f"convlstm-gesture-cl-{head}" for head in ("last", "sum", "mean", "concat", "lstm")),
    "convlstm-gesture-cla-mean",
    "slayer-gesture",
    "stbp-gesture",
    "cnnsnn-gesture",
    "stbp-cifar10dvs",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_counted_and_batches_are_means(name):
    """Nothing is left out; a batch's report is the mean of its samples'; the split is the structure's."""
    torch.manual_seed(0)
    model = rsnn.create_model(name, frame_size=(32, 32), num_frames=3)
    frames = (torch.rand(3, 2, 2, 32, 32) < 0.2).float() * torch.tensor([1.0, 3.0])[None, :, None, None, None]
    both = energy_report(model, frames)
    alone = [energy_report(model, frames[:, n : n + 1]) for n in range(2)]
    assert not both.not_counted
    assert both.total.parameters == sum(p.numel() for p in model.parameters())
    assert both.total.joules > 0
    for rows in zip(both.layers, *(one.layers for one in alone), strict=True):
        assert len({(row.name, row.kind, row.binary, row.dense_mac, row.dense_ac) for row in rows}) == 1
        for field in ("mac", "ac", "spikes"):
            mean = sum(getattr(row, field) for row in rows[1:]) / 2
            # The order of summation may move a potential across its threshold.
            assert getattr(rows[0], field) == pytest.approx(mean, rel=1e-2, abs=20)


def test_a_stage_that_runs_as_one_operation(monkeypatch):
    """Nothing inside a stage of the spiking CNN is hooked, so that it runs in one go, pooling included."""
    stage = SCNN(1, 2, (4, 4), pools=(2,), channels=4, votes=1).convs[0]
    inside = []

    def forward(self, x, potential, *, number=None):
        inside.append([*self.conv._forward_hooks, *self.lif._forward_hooks, self.pool])
        return reference(self, x, potential, number=number)

    reference = type(stage).forward
    model = rsnn.SCNN(rsnn.nn.FramePool(1), SCNN(1, 2, (4, 4), pools=(2,), channels=4, votes=1))
    frames = torch.full((2, 1, 1, 4, 4), 9.0)
    report = energy_report(model, frames)
    assert layer(report, "classifier.convs.0.conv").mac == 2 * 4 * 100
    assert layer(report, "classifier.convs.0.lif").neuron_steps == 2 * 4 * 16
    assert layer(report, "classifier.convs.0.lif").state_bytes == 4 * 16 * 4
    monkeypatch.setattr(type(stage), "forward", forward)
    energy_report(model, frames)
    assert inside == [[2]]

    def broken(self, x, potential, *, number=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(stage), "forward", broken)
    with pytest.raises(KeyboardInterrupt):
        energy_report(model, frames)
    assert not model.classifier.convs[0]._forward_hooks


def test_pruned_and_reparametrized_lstm_layers_are_counted():
    frames = torch.poisson(torch.full((3, 1, 2, 34, 34), 0.5))

    def counted(change):
        torch.manual_seed(0)
        model = rsnn.create_model("convlstm-nmnist-cl-lstm").eval()
        change(model.classifier.layers[0])
        return rsnn.energy_report(model, frames).total.joules

    plain = counted(lambda _: None)
    pruned = counted(lambda layer: l1_unstructured(layer, "weight_hh_l0", 0.5))
    assert 0 < pruned <= plain
    assert counted(lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0")) == pytest.approx(plain)


@pytest.mark.parametrize("memory", [(), ((8, 1.0), (4, 2.0)), ((8, 1.0), (8, 2.0))])
def test_costs_of_memory_that_are_no_table(memory):
    with pytest.raises(InputError, match="by growing bytes"):
        EnergyModel("mine", 1, 1, memory, "")


def test_one_cost_for_every_memory():
    flat = EnergyModel("mine", 1, 1, ((8192, 10.0),), "")
    assert flat.word_pj(1) == flat.word_pj(8192) == flat.word_pj(1e9) == 5.0
