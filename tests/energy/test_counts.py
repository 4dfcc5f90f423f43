"""Networks small enough to count by hand, and the same networks counted by others."""

import numpy as np
import pytest
import torch
from torch import nn

import rsnn
from rsnn.energy import energy_models, energy_report
from rsnn.nn import LIF, ConvLSTM


class PerStep(nn.Module):
    """Runs a module on the steps as a batch."""

    def __init__(self, *modules):
        super().__init__()
        self.body = nn.Sequential(*modules)

    def forward(self, frames):
        return self.body(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


class Spikes(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = LIF()
        self.pool = nn.MaxPool2d(2)
        self.after = nn.Conv2d(1, 3, 1, bias=False)
        self.average = nn.AvgPool2d(2)
        self.last = nn.Conv2d(1, 3, 1, bias=False)

    def forward(self, frames):
        spikes, _ = self.lif(frames)
        pooled = self.pool(spikes.flatten(0, 1))
        return self.after(pooled), self.last(self.average(pooled))


def half_cleared(x):
    x[..., 0].zero_()
    return x


def half_set(x, value):
    x[..., 0] = value
    return x


def layer(report, name, kind=None):
    (found,) = [one for one in report.layers if one.name == name and kind in (None, one.kind)]
    return found


def test_border_pixels_have_fewer_operations():
    model = PerStep(nn.Conv2d(1, 2, 3, padding=1, bias=False))
    frames = torch.zeros(1, 1, 1, 3, 3)
    frames[..., 0, 0] = 5.0  # a corner: within reach of 4 outputs
    frames[..., 1, 1] = 1.0  # the centre: of all 9
    counted = layer(energy_report(model, frames), "body.0")
    # Of each output channel, taps per row of a 3-pixel axis: 2 + 3 + 2 = 7, so 7 x 7 without the padding.
    assert (counted.dense_mac, counted.mac) == (2 * 49, 2 * (4 + 9))
    assert (counted.dense_ac, counted.ac) == (0, 0)
    assert counted.activation_sparsity == pytest.approx(7 / 9)
    with torch.no_grad():
        model.body[0].weight[0] = 0.0  # one output channel less
    pruned = layer(energy_report(model, frames), "body.0")
    assert (pruned.dense_mac, pruned.mac, pruned.weight_sparsity) == (98, 13, 0.5)
    assert pruned.joules == pytest.approx(13 * 4.6e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        lambda: nn.Conv2d(4, 4, (3, 2), dilation=(2, 1), padding=(2, 0)),
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    ],
)
def test_convolution_of_masks(make):
    torch.manual_seed(0)
    convolution = make()
    with torch.no_grad():
        convolution.weight[torch.rand_like(convolution.weight) < 0.3] = 0.0
    frames = torch.rand(2, 3, 4, 7, 6) * (torch.rand(2, 3, 4, 7, 6) < 0.4)
    counted = layer(energy_report(PerStep(convolution), frames), "body.0")
    mask = make().requires_grad_(False)
    mask.bias.zero_()
    mask.weight.copy_(convolution.weight != 0)
    assert counted.mac == pytest.approx(mask((frames.flatten(0, 1) != 0).float()).sum().item() / 3)
    mask.weight.fill_(1.0)
    assert counted.dense_mac == pytest.approx(mask(torch.ones(6, 4, 7, 6)).sum().item() / 3)


def test_spikes_accumulate_and_averages_multiply():
    frames = torch.zeros(2, 1, 1, 4, 4)
    frames[:, :, :, :2, :2] = 8.0  # four neurons fire at both steps; max pooling leaves one of four pixels
    report = energy_report(Spikes(), frames)
    neurons, after, last = layer(report, "lif"), layer(report, "after"), layer(report, "last")
    assert (neurons.spikes, neurons.neuron_steps, neurons.firing_rate) == (8, 32, 0.25)
    assert neurons.mac == 32  # one update a neuron and step
    assert neurons.state_bytes == 16 * 4
    assert (after.ac, after.dense_ac, after.mac, after.dense_mac) == (2 * 3, 2 * 4 * 3, 0, 0)
    assert (last.ac, last.mac) == (0, 2 * 3)  # one averaged pixel a step, real-valued
    assert not report.not_counted


def test_structure_decides_and_not_the_values():
    frames = torch.ones(2, 1, 1, 4, 4)  # binary values, which nothing guarantees
    report = energy_report(PerStep(nn.Conv2d(1, 1, 1, bias=False)), frames)
    assert (report.total.mac, report.total.ac) == (32, 0)


def test_convlstm_by_hand():
    frames = torch.ones(2, 1, 1, 1, 1)
    report = energy_report(ConvLSTM(1, 1, kernel_size=1), frames)
    inputs, hidden = layer(report, "input_gates"), layer(report, "hidden_gates")
    assert (inputs.mac, inputs.dense_mac) == (2 * 4, 2 * 4)
    # The first step's state is zero: its 4 products do not happen, and do not make the layer binary.
    assert (hidden.mac, hidden.dense_mac, hidden.dense_ac) == (4, 8, 0)
    # A step: f o c, i o g and o o tanh(c) multiply; input + hidden gates (4) and the new cell (1) add. At the first
    # step neither f o c nor what adds it or the hidden gates has anything to do.
    gates = layer(report, "ConvLSTM", "pointwise")
    assert (gates.dense_mac, gates.dense_ac) == (2 * 3, 2 * 5)
    assert (gates.mac, gates.ac) == (2 * 3 - 1, 2 * 5 - 5)
    assert layer(report, "ConvLSTM", "function").mac == 2 * 5  # three sigmoids, two tanh
    assert gates.state_bytes == 2 * 4
    assert report.total.parameters == 4 + 4 + 4


def test_lstm_and_attention():
    lstm = rsnn.nn.LSTMHead(1, 2, in_size=(4, 4), votes=1)  # 16 -> 4 -> 1 -> 2
    report = energy_report(lstm, torch.rand(3, 1, 1, 4, 4) + 0.1)
    assert layer(report, "layers.0.weight_ih_l0").mac == 3 * 16 * 16
    assert layer(report, "layers.0.weight_hh_l0").mac == 2 * 4 * 16  # the first state is zero
    attention = rsnn.nn.attention.PixelAttention(2)
    counted = energy_report(attention, torch.rand(1, 1, 2, 2, 2) + 0.1)
    assert layer(counted, "query").mac == 4 * 2 * 2  # 4 pixels, 2 x 2 weights
    assert layer(counted, "PixelAttention", "attention QK").mac == 4 * 4 * 2
    assert layer(counted, "PixelAttention", "attention AV").mac == 4 * 4 * 2
    assert not report.not_counted
    assert not counted.not_counted


@pytest.mark.parametrize("name", ["rsnn-nmnist-cl", "rsnn-nmnist-cla", "scnn-nmnist"])
def test_batch_size_changes_nothing(name):
    torch.manual_seed(0)
    model = rsnn.create_model(name)
    size = model.preprocessing.frame_size
    frames = (torch.rand(3, 1, 2, *size) < 0.2).float()
    one, many = energy_report(model, frames), energy_report(model, frames.expand(-1, 64, -1, -1, -1))
    assert many.samples == 64
    for a, b in zip(one.layers, many.layers, strict=True):
        # Summation order may move a potential across its threshold, never an operation between the columns.
        assert a.name == b.name
        assert (a.dense_mac, a.dense_ac) == (b.dense_mac, b.dense_ac)
        assert (a.mac, a.ac) == pytest.approx((b.mac, b.ac), rel=1e-3)
    assert one.total.parameters == sum(p.numel() for p in model.parameters())
    assert not one.not_counted
    assert set(one.parts) >= {"encoder", "classifier"} or name.startswith("scnn")


def test_functions_in_place_are_functions():
    class Logarithm(nn.Module):
        def forward(self, frames):
            return (frames + 1).log_()

    frames = torch.tensor([0.0, 2.0, 0.0, 5.0]).view(1, 1, 1, 2, 2)
    report = energy_report(Logarithm(), frames)
    assert not report.not_counted
    # The sum has two terms that are not zero where the frame is not.
    assert (report.total.ac, report.total.dense_ac) == (2, 4)
    assert (report.total.mac, report.total.dense_mac) == (4, 4)


def test_recordings_that_come_alone_run_together():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.batches = PerStep(nn.Conv2d(1, 2, 3)), []

        def forward(self, frames):
            self.batches.append(frames.shape[1])
            return self.layer(frames)

    model, frames = Seen(), torch.rand(2, 20, 1, 4, 5).round()
    alone = energy_report(model, [*frames.split(1, dim=1), torch.ones(3, 1, 1, 4, 5), torch.ones(3, 2, 1, 4, 5)])
    assert model.batches == [16, 2, 4, 1]  # a whole batch passes those that wait for others of their shape
    assert alone.samples == 23
    together = energy_report(model, [frames, torch.ones(3, 3, 1, 4, 5)])
    assert alone.total == together.total


def test_unknown_operations_are_listed():
    class Odd(nn.Module):
        def forward(self, frames):
            return torch.special.i0(frames)

    assert list(energy_report(Odd(), torch.ones(1, 1, 1, 2, 2)).not_counted) == ["special_i0 in the model"] or list(
        energy_report(Odd(), torch.ones(1, 1, 1, 2, 2)).not_counted
    ) == ["i0 in the model"]


def test_model_is_left_as_it_was():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(1, 1)

        def forward(self, frames):
            raise RuntimeError("broken")

    model = Fails().train()
    model.lstm.eval()
    with pytest.raises(RuntimeError, match="broken"):
        energy_report(model, torch.ones(1, 1, 1, 2, 2))
    assert model.training
    assert not model.lstm.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_inputs_and_energy_models():
    model = PerStep(nn.Conv2d(1, 1, 1))
    frames = torch.ones(2, 3, 1, 2, 2)
    expected = energy_report(model, frames).to_dict()
    assert energy_report(model, frames.numpy()).to_dict() == expected
    assert energy_report(model, frames.numpy()[::-1][::-1].astype(">f4")).to_dict() == expected
    assert energy_report(model, frames.numpy()[:, ::-1]).to_dict() == expected  # the samples in another order
    assert energy_report(model, [(frames[:, :1], 0), (frames[:, 1:], 0)]).to_dict() == expected
    assert energy_report(model, np.ones((2, 1, 2, 2), np.float32)).samples == 1
    assert "body.0" in str(energy_report(model, frames))
    for name in energy_models():
        assert energy_report(model, frames, energy=name).total.joules > 0
    # By hand: 8 products; weight, input and output memories are all below 8 KiB, 5 pJ a word.
    remembered = energy_report(model, frames, energy="lemaire").total.joules
    assert remembered == pytest.approx((8 * 3.2 + 8 * 2 * 5 + 8 * 5) * 1e-12)
    # Maps of 64 x 64 words: 16 KiB, a third of the way from 8 KiB (10 pJ a pair of words) to 32 KiB (20 pJ), however
    # many steps there are.
    for steps in (1, 3):
        large = energy_report(model, torch.ones(steps, 2, 1, 64, 64), energy="lemaire").total.joules
        word = (10 + 10 / 3) / 2
        assert large == pytest.approx(steps * 4096 * (3.2 + 5 + word + word) * 1e-12)
    for bad in ("x", None, [], torch.ones(2, 2), [None]):
        with pytest.raises(rsnn.RSNNError):
            energy_report(model, bad)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(rsnn.RSNNError, match="frames with NaN or infinite numbers; expected counts"):
            energy_report(nn.Identity(), torch.full((2, 1, 2, 3, 3), bad))
    with pytest.raises(rsnn.RSNNError, match="horowitz"):
        energy_report(model, frames, energy="horowits")


@pytest.mark.parametrize(
    ("after", "binary"),
    [
        (lambda s: s * 0.5, False),
        (lambda s: s * 1.0, True),
        (lambda s: s * s, True),
        (lambda s: s + s, False),
        (lambda s: torch.where(s > 0, s, 0.3), False),
        (lambda s: nn.functional.pad(s, (1, 1)), True),
        (lambda s: nn.functional.pad(s, (1, 1), value=0.5), False),
        (lambda s: torch.cat((s, s)).flip(0)[::2], True),
        (lambda s: s.mean(0), False),
        (lambda s: s.amax(0, keepdim=True), True),
        (lambda s: s[:, :, [1, 0]], True),
        (lambda s: (s * 0.5)[:, :, [1, 0]], False),
        (lambda s: s.index_select(2, torch.tensor([1, 0])), True),
        (lambda s: s.gather(3, torch.zeros(2, 1, 2, 2, dtype=torch.long)), True),
        (lambda s: s.masked_select(s >= 0), True),
        (lambda s: s.index_put((torch.tensor([0]),), torch.tensor(1.0)), True),
        (lambda s: s.index_put((torch.tensor([0]),), torch.tensor(0.5)), False),
        (lambda s: nn.functional.channel_shuffle(s.reshape(1, 4, 1, 2), 2), True),
        (lambda s: s.masked_fill(s > 0, 1.0), True),
        (lambda s: s.masked_fill(s > 0, 0.5), False),
        (lambda s: s.masked_fill(s > 0, torch.tensor(0.0)), True),
        (lambda s: torch.heaviside(s - 0.5, torch.tensor(1.0)), True),
        (lambda s: torch.heaviside(s - 0.5, torch.zeros_like(s)), True),
        (lambda s: torch.heaviside(s - 0.5, torch.tensor(0.5)), False),
        (lambda s: torch.heaviside(s - 0.5, s * 0.5), False),
        (lambda s: half_cleared(s.clone()), True),
        (lambda s: half_cleared(s * 0.5), False),
        (lambda s: half_set(s.clone(), 1), True),
        (lambda s: half_set(s.clone(), 0.5), False),
        (lambda s: half_set(s * 0.5, 1), False),
    ],
)
def test_what_stays_binary(after, binary):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)

        def forward(self, frames):
            return self.conv(after((frames > 0.5).float().flatten(0, 1)).reshape(-1, 1, 1, 2))

    counted = layer(energy_report(Net(), torch.ones(2, 1, 1, 2, 2)), "conv")
    assert (counted.dense_ac > 0, counted.dense_mac > 0) == (binary, not binary)


def test_a_bias_is_free_however_torch_adds_it():
    class Rows(nn.Module):
        def __init__(self, move):
            super().__init__()
            self.linear, self.move = nn.Linear(3, 4), move

        def forward(self, frames):
            return self.linear(self.move(frames))

    frames = torch.rand(2, 1, 4, 3, 3) + 0.1
    whole = energy_report(Rows(lambda x: x), frames).total
    apart = energy_report(Rows(lambda x: x.transpose(3, 4)), frames).total  # a product, then a sum
    assert (whole.mac, whole.ac) == (apart.mac, apart.ac) == (72 * 4, 0)

    class Shifted(Rows):
        def forward(self, frames):
            return frames + self.linear.weight[0]  # of no product

    assert energy_report(Shifted(None), frames).total.ac == 72


@pytest.mark.parametrize("part", ["", "encoder"])
@pytest.mark.parametrize("wrap", [True, False])
def test_a_compiled_model_is_counted_as_it_was_written(part, wrap):
    def model():
        torch.manual_seed(0)
        head = rsnn.nn.SCNN(2, 3, (6, 5), (2,), channels=4, votes=2)
        return rsnn.RSNN(rsnn.nn.ConvLSTMEncoder(2, (2,), pool=2), head).eval()

    frames = torch.rand(2, 1, 2, 12, 10)
    plain, compiled = energy_report(model(), frames).to_dict(), model()
    if not wrap:
        compiled.get_submodule(part).compile(backend="eager")
    elif part:
        compiled.encoder = torch.compile(compiled.encoder, backend="eager")
    else:
        compiled = torch.compile(compiled, backend="eager")
    assert energy_report(compiled, frames).to_dict() == plain
