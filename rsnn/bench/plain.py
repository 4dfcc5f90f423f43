"""The network as one writes it without this library: what its speed is measured against.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsnn.errors import InputError
from rsnn.kernels import ATan
from rsnn.models import RSNN
from rsnn.nn import SCNN, ConvLSTM, ConvLSTMAttention, ConvLSTMEncoder
from rsnn.nn.attention import PixelAttention
from rsnn.nn.stages import SpikingConv


class PlainConvLSTM(nn.Module):
    """A ConvLSTM layer the plain way: input and hidden state in one convolution, step after step."""

    def __init__(self, layer: ConvLSTM) -> None:
        super().__init__()
        self.channels = layer.hidden_channels
        side = layer.kernel_size
        self.gates = nn.Conv2d(layer.in_channels + self.channels, 4 * self.channels, side, padding=side // 2)
        assert self.gates.bias is not None
        assert layer.input_gates.bias is not None
        with torch.no_grad():
            self.gates.weight.copy_(torch.cat((layer.input_gates.weight, layer.hidden_gates.weight), dim=1))
            self.gates.bias.copy_(layer.input_gates.bias)

    def forward(self, frames: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the hidden state of every step, and the last hidden state and cell."""
        shape = (frames.shape[1], self.channels, *frames.shape[3:])
        h, c = state or (frames.new_zeros(shape), frames.new_zeros(shape))
        outputs = []
        for x in frames:
            i, f, o, g = self.gates(torch.cat((x, h), dim=1)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), (h, c)


class PlainAttention(nn.Module):
    """Self-attention over the pixels of each frame the plain way: PyTorch's fused attention, of one head, added."""

    def __init__(self, attention: PixelAttention) -> None:
        super().__init__()
        projections = (attention.query, attention.key, attention.value)
        widths = {each.weight.shape for each in projections}
        if attention.num_heads != 1 or attention.join != "add" or len(widths) != 1:
            raise InputError("the plain way is written for attention of one head, as wide as its input and added to it")
        self.projections = nn.Linear(attention.channels, 3 * attention.channels, bias=False)
        with torch.no_grad():
            self.projections.weight.copy_(torch.cat([each.weight for each in projections]))

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames (T, N, C, H, W) and what attention makes of them, added."""
        pixels = frames.flatten(3).transpose(2, 3)  # (T, N, H W, C)
        pixels = pixels + F.scaled_dot_product_attention(*self.projections(pixels).chunk(3, dim=3))
        return pixels.transpose(2, 3).unflatten(3, frames.shape[3:])


class PlainNetwork(nn.Module):
    """The network of an [`RSNN`][rsnn.RSNN] as one writes it without this library, with its weights.

    SpikingJelly's layers and neurons in multi-step mode, default memory format. The neurons keep their potentials
    until `reset`, as theirs do; the state of the ConvLSTM goes the same way here.

    Raises:
        InputError: the model has another encoder or classifier than those of the zoo.

    """

    def __init__(self, model: RSNN) -> None:
        super().__init__()
        from spikingjelly.activation_based import functional, layer, neuron, surrogate

        encoder, scnn = model.encoder, model.classifier
        if not isinstance(encoder, ConvLSTMEncoder) or not isinstance(scnn, SCNN):
            raise InputError(
                f"the plain way is not written for a {type(encoder).__name__} under a {type(scnn).__name__}; expected "
                "a ConvLSTMEncoder under an SCNN, as in 'rsnn-gesture-cl'"
            )
        if scnn.learn_tau or not isinstance(scnn.surrogate, ATan) or encoder.tie_hidden_gates:
            raise InputError(
                "the plain way is written for neurons of one tau with the surrogate ATan, and gates that are not tied"
            )
        self._reset_net = functional.reset_net
        self.preprocessing = model.preprocessing
        self.scale, self.votes = model.logit_scale, scnn.votes
        self.input_pool, self.pool = encoder.input_pool, encoder.pool
        self.attention, self.encoder = nn.ModuleList(), nn.ModuleList()
        for each in encoder.layers:
            attend: nn.Module = nn.Identity()
            if isinstance(each, ConvLSTMAttention):
                attend, each = PlainAttention(each.attention), each.convlstm
            assert isinstance(each, ConvLSTM)
            self.attention.append(attend)
            self.encoder.append(PlainConvLSTM(each))
        self.in_pool = scnn.in_pool
        parts: list[nn.Module] = []

        def lif() -> nn.Module:
            made: nn.Module = neuron.LIFNode(
                tau=scnn.tau,
                v_threshold=scnn.v_threshold,
                v_reset=scnn.v_reset,
                surrogate_function=surrogate.ATan(alpha=float(scnn.surrogate.alpha)),
                detach_reset=scnn.detach_reset,
                step_mode="m",
            )
            return made

        for stage in scnn.convs:
            assert isinstance(stage, SpikingConv)
            conv = layer.Conv2d(
                stage.conv.in_channels, stage.conv.out_channels, 3, padding=1, bias=False, step_mode="m"
            )
            norm = layer.BatchNorm2d(stage.norm.num_features, step_mode="m")
            conv.load_state_dict(stage.conv.state_dict())
            norm.load_state_dict(stage.norm.state_dict())
            parts += [conv, norm, lif()]
            parts += [layer.MaxPool2d(stage.pool, step_mode="m")] if stage.pool > 1 else []
        parts.append(layer.Flatten(step_mode="m"))
        for last in (scnn.hidden, scnn.output):
            linear = layer.Linear(last.linear.in_features, last.linear.out_features, bias=False, step_mode="m")
            linear.load_state_dict(last.linear.state_dict())
            parts += [linear, lif()]
        self.scnn = nn.Sequential(*parts)
        self.states: list[tuple[Tensor, Tensor] | None] = []
        self.reset()

    def reset(self) -> None:
        """Forget the sequence so far."""
        self._reset_net(self.scnn)
        self.states = [None] * len(self.encoder)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits for `frames` (T, N, 2, H, W), starting afresh."""
        self.reset()
        return self.advance(frames)

    def advance(self, frames: Tensor) -> Tensor:
        """Return the logits for `frames` (T, N, 2, H, W), going on from the frames since `reset`."""
        if self.preprocessing is not None:
            log = self.preprocessing.normalize == "log1p"
            frames = frames.log1p() if log else self.preprocessing.normalized(frames)
        if self.input_pool > 1:
            frames = F.avg_pool2d(frames.flatten(0, 1), self.input_pool).unflatten(0, frames.shape[:2])
        for number, (attend, layer) in enumerate(zip(self.attention, self.encoder, strict=True)):
            features, self.states[number] = layer(attend(frames), self.states[number])
            if self.pool > 1:
                features = F.max_pool2d(features.flatten(0, 1), self.pool).unflatten(0, features.shape[:2])
            frames = features
        if self.in_pool > 1:
            frames = F.avg_pool2d(frames.flatten(0, 1), self.in_pool).unflatten(0, frames.shape[:2])
        spikes: Tensor = self.scnn(frames)
        return spikes.mean(0).unflatten(1, (-1, self.votes)).mean(2) * self.scale
