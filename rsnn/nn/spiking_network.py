"""Spiking networks from a list of layers, in the notation of the papers they come from.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
import re
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rsnn.checks import is_number
from rsnn.errors import InputError
from rsnn.kernels import Rectangle
from rsnn.kernels.watched import is_exporting
from rsnn.nn.checks import check_positive, check_sizes, weight_of
from rsnn.nn.lif import LIF
from rsnn.nn.neunorm import NeuNorm
from rsnn.nn.srm import SRM
from rsnn.nn.voting import RateClassifier, Voting, resized_output

# Five digits are more than any published network needs, and few enough for sizes that torch can multiply.
_LAYER = re.compile(
    r"(?P<channels>[1-9]\d{0,4})C(?P<kernel>[1-9]?[13579])"
    r"|(?P<pool>[AMS]P)(?P<side>[1-9]\d?)"
    r"|(?P<units>[1-9]\d{0,4})FC"
)

# What an incoming spike adds to a neuron of SLAYER's aggregation layers, in thresholds: enough to fire by itself.
AGGREGATION = 1.1


def iterative_lif(decay: float, v_threshold: float, width: float = 0.5) -> LIF:
    """Return the neurons of STBP (Wu et al. 2018, 2019): the iterative LIF model with a rectangular surrogate.

    u(t) = decay u(t-1) (1 - s(t-1)) + x(t)
    s(t) = [u(t) >= v_threshold]
    ds/du = 1 / width where |u - v_threshold| < width / 2, else 0

    In the terms of [`LIF`][rsnn.nn.LIF], u is tau H with tau = 1 / (1 - decay): the same spikes from a threshold, and
    the same gradients from a rectangle, tau times smaller. Backward goes through the reset, as in the authors' code.

    Args:
        decay: share of the potential that is left after a step, between 0 and 1.
        v_threshold: firing threshold of u.
        width: a in the source, width of the rectangle.

    """
    if not is_number(decay) or not 0 < decay < 1:
        raise InputError(f"decay={decay!r}: expected a number between 0 and 1")
    tau = 1 / (1 - decay)
    return LIF(tau, v_threshold / tau, 0.0, Rectangle(tau / width), detach_reset=False)


class SpikingLayerState(NamedTuple):
    """What a layer carries on: its neurons' state, and its NeuNorm's where it has one."""

    neuron: Any
    norm: Tensor | None


class SumPool(nn.Module):
    """Sums over windows of `side` x `side`, times `gain`: SLAYER's aggregation, whose weights are all the same."""

    def __init__(self, side: int, gain: float) -> None:
        super().__init__()
        self.side = side
        self.gain = gain

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
        """Return the sums."""
        if is_exporting():  # torch's exporter to ONNX leaves a divisor out without a word
            return self.gain * self.side**2 * F.avg_pool2d(x, self.side)
        return self.gain * F.avg_pool2d(x, self.side, divisor_override=1)


class SpikingLayer(nn.Module):
    """Synapses (a convolution, a fully connected layer or a pooling), then neurons, then NeuNorm where there is one."""

    def __init__(
        self, synapses: nn.Module, neuron: LIF | SRM, dropout: float = 0.0, norm: NeuNorm | None = None
    ) -> None:
        super().__init__()
        self.synapses = synapses
        self.flattens = isinstance(synapses, nn.Linear)  # whatever may come to wrap it
        self.neuron = deepcopy(neuron)
        self.dropout = dropout
        self.norm = norm

    def forward(
        self, x: Float[Tensor, "T N ..."], state: SpikingLayerState | None = None
    ) -> tuple[Float[Tensor, "T N ..."], SpikingLayerState]:
        """Return the (normalised) spikes of every step, and the state after the last one."""
        before = SpikingLayerState(None, None) if state is None else state
        if self.training and self.dropout:
            x = x * F.dropout(torch.ones_like(x[0]), self.dropout)
        flat = x.flatten(0, 1)
        current = self.synapses(flat.flatten(1) if self.flattens else flat)
        spikes, neuron = self.neuron(current.unflatten(0, x.shape[:2]), before.neuron)
        norm = None
        if self.norm is not None:
            spikes, norm = self.norm(spikes, before.norm)
        return spikes, SpikingLayerState(neuron, norm)


class SpikingNetwork(RateClassifier):
    """Feed-forward spiking network from a list of layers: what the published baselines are made of.

    Layers are written as in the papers:

    - `"64C3"`: convolution 3 x 3 to 64 channels, stride 1, padded to keep the size; neurons.
    - `"512FC"`: fully connected layer to 512 neurons.
    - `"AP2"`: neurons on average pooling by 2.
    - `"SP2"`: neurons on sums over 2 x 2, 1.1 thresholds a spike: SLAYER's aggregation, `2a` in its notation.
    - `"MP4"`: max pooling by 4, without neurons.

    They are followed by K x `votes` fully connected output neurons. Sizes that are no multiple of a pooling lose the
    rest at the lower and right edge.

    Args:
        in_channels: channels of a frame.
        num_classes: K.
        in_size: (height, width) of a frame.
        layers: every layer but the output, as above; fully connected layers come last.
        neuron: the neurons of every layer; each layer has its own copy.
        votes: output neurons of each class, whose rates are averaged.
        dropout: share of the inputs of convolutions and fully connected layers, the first of them excepted, left out
            in training, the same ones at every step.
        bias: whether convolutions and fully connected layers have biases.
        neunorm: decay of a [`NeuNorm`][rsnn.nn.NeuNorm] after every convolution's neurons; None leaves it out.
        conv_gain, linear_gain: the initial weights and biases of convolutions and of fully connected layers are
            PyTorch's times this.

    Raises:
        InputError: a layer cannot be read, a size is out of range, or pooling leaves nothing of `in_size`.

    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        in_size: tuple[int, int],
        layers: tuple[str, ...],
        neuron: LIF | SRM,
        votes: int = 1,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        neunorm: float | None = None,
        conv_gain: float = 1.0,
        linear_gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, num_classes=num_classes, votes=votes)
        check_sizes("in_size", in_size, "(height, width)", length=2)
        if not isinstance(neuron, LIF | SRM):
            raise InputError(f"neuron is a {type(neuron).__name__}; expected a rsnn.nn.LIF or a rsnn.nn.SRM")
        if not is_number(dropout) or not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout!r}: expected a share from 0 to below 1")
        for name, gain in (("conv_gain", conv_gain), ("linear_gain", linear_gain)):
            if not is_number(gain) or not 0 < gain < math.inf:
                raise InputError(f"{name}={gain!r}: expected a number above 0")
        parsed = _parsed(layers)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.in_size = tuple(in_size)
        self.layers = tuple(layers)
        self.votes = votes
        self.dropout = float(dropout)
        self.bias = bias
        self.neunorm = neunorm
        self.conv_gain = float(conv_gain)
        self.linear_gain = float(linear_gain)

        self.stages = nn.ModuleList()
        channels, (height, width) = in_channels, in_size
        share = 0.0  # nothing of the frames themselves is left out
        for layer in parsed:
            if layer["pool"]:
                side = int(layer["side"])
                height, width = height // side, width // side
                if not height or not width:
                    raise InputError(
                        f"layers={self.layers} leave no pixel of in_size={self.in_size}; expected larger frames or "
                        f"less pooling than {layer[0]!r}"
                    )
                self.stages.append(_pooling(layer["pool"], side, neuron))
            elif layer["channels"]:
                out, kernel = int(layer["channels"]), int(layer["kernel"])
                conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=bias)
                norm = None if neunorm is None else NeuNorm(out, (height, width), neunorm)
                self.stages.append(SpikingLayer(_scaled(conv, conv_gain), neuron, share, norm))
                channels, share = out, self.dropout
            else:
                linear = nn.Linear(channels * height * width, int(layer["units"]), bias=bias)
                self.stages.append(SpikingLayer(_scaled(linear, linear_gain), neuron, share))
                channels, height, width, share = linear.out_features, 1, 1, self.dropout
        linear = nn.Linear(channels * height * width, num_classes * votes, bias=bias)
        self.output = SpikingLayer(_scaled(linear, linear_gain), neuron, share)
        self.voting = Voting(votes)

    @property
    def neuron(self) -> LIF | SRM:
        """The output's neurons; those of all layers were made alike."""
        neuron: LIF | SRM = self.output.neuron
        return neuron

    def step_votes(
        self, features: Float[Tensor, "T N C H W"], layers: tuple[SpikingLayerState, ...] | None = None
    ) -> tuple[Float[Tensor, "T N K"], tuple[SpikingLayerState, ...]]:
        """Return each step's share of firing outputs per class, and every layer's state after the last."""
        stages = [*self.stages, self.output]
        spiking = sum(isinstance(stage, SpikingLayer) for stage in stages)
        self._check(features, weight_of(self.output.synapses), layers, spiking)
        before = iter(layers or [None] * spiking)
        after = []
        x = features
        for stage in stages:
            if isinstance(stage, SpikingLayer):
                x, layer = stage(x, next(before))
                after.append(layer)
            else:
                x = stage(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.voting(x), tuple(after)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a new one for `num_classes` classes, with fresh weights."""
        self.output.synapses = _scaled(resized_output(self.output.synapses, num_classes, self.votes), self.linear_gain)
        self.num_classes = num_classes


def _parsed(layers: object) -> list[re.Match[str]]:
    """Return the layers' matches, all of them readable and the fully connected ones last."""
    if not isinstance(layers, tuple | list):
        raise InputError(f'layers={layers!r}: expected a tuple of layers, as in ("64C3", "AP2", "256FC")')
    parsed: list[re.Match[str]] = []
    for layer in layers:
        match = _LAYER.fullmatch(layer) if isinstance(layer, str) else None
        if match is None:
            raise InputError(
                f'layers has {layer!r}; expected layers as in "64C3" (an odd kernel), "AP2", "SP2", "MP4" and "512FC"'
            )
        if parsed and parsed[-1]["units"] and not match["units"]:
            raise InputError(f"layers has {layer!r} after {parsed[-1][0]!r}; expected fully connected layers last")
        parsed.append(match)
    return parsed


def _pooling(kind: str, side: int, neuron: LIF | SRM) -> nn.Module:
    if kind == "MP":
        return nn.MaxPool2d(side)
    average = kind == "AP"
    return SpikingLayer(nn.AvgPool2d(side) if average else SumPool(side, AGGREGATION * neuron.v_threshold), neuron)


def _scaled(synapses: nn.Module, gain: float) -> nn.Module:
    with torch.no_grad():
        for parameter in synapses.parameters():
            parameter.mul_(gain)
    return synapses
