"""Modules that are counted as a whole, from what goes in and what comes out, however they compute it.

Their insides may be a fused operator, on one device and not on another, of which no single operation shows. What they
do is known all the same: it follows from the equations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from rsnn.energy.arithmetic import nonzero, nonzero_map
from rsnn.energy.ledger import Ledger
from rsnn.nn import LIF, SRM, ConvLSTM, MeanFrames, SumFrames
from rsnn.nn.stages import SpikingConv

_COUNTS = ("number", "places")  # names of the arguments into which modules count

# Each rule gets the ledger, the module's name and itself, the call, its output, and whether the input
# can only hold zeros and ones.
Rule = Callable[[Ledger, str, Any, "Call", Any, bool], None]


@dataclass(frozen=True)
class Whole:
    """How a kind of module is counted.

    Attributes:
        rule: what counts it.
        spikes: whether its output can only hold zeros and ones.
        neurons: name of the submodule that has the state, where it is not the module itself.

    """

    rule: Rule
    spikes: bool
    neurons: str = ""


def find(module: nn.Module) -> Whole | None:
    """Return how a module is counted as a whole; None for one whose operations are counted one by one."""
    for kind, whole in _RULES.items():
        # A subclass that computes something else is not what the rule is about.
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return whole if _as_made(module) else None
    return None


@dataclass(frozen=True)
class Call:
    """A call of such a module.

    Attributes:
        x: its input.
        state: its state before, None for a fresh one.
        counted: what the module counts itself, as its output may be pooled: how often each hidden state of a `ConvLSTM`
            is not zero, (D, H, W); the spikes of a `SpikingConv`.
        wanted: where its caller wanted that added, if anywhere.

    """

    x: Any
    state: Any
    counted: Tensor
    wanted: Tensor | None = None

    def over(self) -> None:
        """Add what was counted where the caller wanted it."""
        if self.wanted is not None:
            self.wanted.add_(self.counted)


@cache
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)


def watched(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """Return a call, and the arguments to call with instead, which ask the module to count what pooling hides."""
    asked = _signature(type(module).forward).bind(module, *args, **kwargs).arguments
    del asked["self"]
    x, *rest = (value for name, value in asked.items() if name not in ("pool", *_COUNTS))
    counted, wanted = torch.zeros((), dtype=torch.int64, device="cpu"), None
    if isinstance(module, SpikingConv):
        wanted = asked.get("number")
        counted = asked["number"] = counted.to(module.conv.weight.device)
    elif isinstance(module, ConvLSTM) and isinstance(x, Tensor) and x.ndim == 5:
        wanted = asked.get("places")
        counted = asked["places"] = x.new_zeros(module.hidden_channels, *x.shape[3:], dtype=torch.int64)
    return Call(x, rest[0] if rest else None, counted, wanted), asked


def _neurons(ledger: Ledger, name: str, neurons: int, spikes: int, size: int, *, mac: int = 0, ac: int = 0) -> None:
    """Count an update of so many neurons, of `size` bytes each, with `mac` and `ac` operations a neuron."""
    layer = ledger.pointwise(name, "neuron", neurons, size, mac=mac * neurons, ac=ac * neurons)
    layer.spikes += spikes
    layer.neuron_steps += neurons


def _lif(ledger: Ledger, name: str, _module: LIF, _call: Call, output: Any, _binary: bool) -> None:
    # V + (X - V) / tau is one multiply-accumulate a neuron and step once 1 / tau is in the weights.
    spikes = output[0]
    _neurons(ledger, name, spikes.numel(), nonzero(spikes), spikes.element_size(), mac=1)


def _srm(ledger: Ledger, name: str, _module: SRM, _call: Call, output: Any, _binary: bool) -> None:
    # Two traces a t + x and two responses a (r + t), of input and of spikes; the potential g r + g' r'.
    spikes = output[0]
    _neurons(ledger, name, spikes.numel(), nonzero(spikes), spikes.element_size(), mac=6, ac=2)


def _gates(ledger: Ledger, name: str, steps: int, last: Tensor, outputs: int, cell: Tensor | None) -> None:
    """Count what an LSTM does besides its products.

    Its hidden states of so many steps, the last of them `last`, of which `outputs` are not zero, came from `cell`, or
    zeros where that is None.

    cell = f o cell + i o g;  hidden = o o tanh(cell);  i, f, o = sigmoid, g = tanh of input's sum + hidden's sum
    """
    each, size = steps * last.numel(), last.element_size()
    later = each - last.numel()  # a fresh state is zero
    forgets = later + (0 if cell is None else nonzero(cell))
    products, sums = forgets + each + outputs, later if cell is None else each
    ledger.pointwise(name, "pointwise", 8 * each, size, mac=(products, 3 * each), ac=(4 * sums + forgets, 5 * each))
    ledger.pointwise(name, "function", 5 * each, size, mac=5 * each)


def _convlstm(ledger: Ledger, name: str, module: ConvLSTM, call: Call, output: Any, binary: bool) -> None:
    frames, state, last = call.x, call.state, output[1].hidden
    T, N = frames.shape[:2]
    before = (module.kernel_size - 1) // 2
    how = {
        "stride": (1, 1),
        "padding": (before, before),
        "dilation": (1, 1),
        "bytes_per_element": last.element_size(),
    }
    prefix = f"{name}." if name else ""
    size = last.shape[2:]
    ledger.convolution(
        f"{prefix}input_gates",
        module.input_gates.weight,
        nonzero_map(frames.flatten(0, 1), binary=binary),
        T * N,
        size,
        binary=binary,
        **how,
    )
    earlier = call.counted - nonzero_map(last)
    if state is not None:
        earlier += nonzero_map(state[0])
    ledger.convolution(f"{prefix}hidden_gates", module.hidden_gates.weight, earlier, T * N, size, binary=False, **how)
    _gates(ledger, name, T, last, int(call.counted.sum()), None if state is None else state[1])


def _spiking_conv(ledger: Ledger, name: str, module: SpikingConv, call: Call, output: Any, binary: bool) -> None:
    x, conv = call.x, module.conv
    spikes, potential = output
    prefix = f"{name}." if name else ""
    ledger.convolution(
        f"{prefix}conv",
        conv.weight,
        nonzero_map(x.flatten(0, 1), binary=binary),
        x.shape[0] * x.shape[1],
        potential.shape[2:],
        stride=conv.stride,
        padding=cast("tuple[int, int]", conv.padding),
        dilation=conv.dilation,
        groups=conv.groups,
        binary=binary,
        bytes_per_element=spikes.element_size(),
    )
    _neurons(ledger, f"{prefix}lif", len(x) * potential.numel(), int(call.counted), spikes.element_size(), mac=1)


def _as_made(module: nn.Module) -> bool:
    """Tell whether the rule fits: an LSTM whose hidden states are all in its output, a stage nobody has rebuilt."""
    if isinstance(module, ConvLSTM):
        sides = {module.input_gates.kernel_size, module.hidden_gates.kernel_size} if module._is_plain() else set()
        return sides == {(module.kernel_size, module.kernel_size)}
    if isinstance(module, nn.LSTM):
        return module.num_layers == 1 and not module.bidirectional and not module.proj_size
    if isinstance(module, SpikingConv):
        conv = module.conv
        zeros = type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        return zeros and (type(module.norm), type(module.lif)) == (nn.BatchNorm2d, LIF)
    return True


def _lstm(ledger: Ledger, name: str, module: nn.LSTM, call: Call, output: Any, binary: bool) -> None:
    x, state, hidden = call.x, call.state, output[0]
    prefix = f"{name}." if name else ""
    if module.batch_first and x.ndim == 3:
        x, hidden = x.transpose(0, 1), hidden.transpose(0, 1)
    rows, size = x[..., 0].numel(), hidden.element_size()
    # Pruned and reparametrized ones are no parameters.
    w_input, w_hidden = (cast("Tensor", getattr(module, name)) for name in ("weight_ih_l0", "weight_hh_l0"))
    ledger.linear(
        f"{prefix}weight_ih_l0",
        w_input,
        nonzero_map(x.flatten(0, -2), binary=binary),
        rows,
        binary=binary,
        bytes_per_element=size,
    )
    states = nonzero_map(hidden.flatten(0, -2))
    earlier = states - nonzero_map(hidden[-1:].flatten(0, -2))
    if state is not None:
        earlier += nonzero_map(state[0].flatten(0, -2))
    ledger.linear(
        f"{prefix}weight_hh_l0",
        w_hidden,
        earlier,
        rows,
        binary=False,
        bytes_per_element=size,
    )
    _gates(ledger, name, len(hidden), hidden[-1], int(states.sum()), None if state is None else state[1])


def _sum(ledger: Ledger, name: str, module: nn.Module, call: Call, output: Any, _binary: bool) -> None:
    # What is added to a sum that begins empty; the mean divides it as well.
    total = output[0]
    divides = (nonzero(total), total.numel()) if isinstance(module, MeanFrames) else 0
    ledger.pointwise(
        name, "pointwise", total.numel(), total.element_size(), mac=divides, ac=(nonzero(call.x), call.x.numel())
    )


_RULES: dict[type[nn.Module], Whole] = {
    LIF: Whole(_lif, spikes=True),
    SRM: Whole(_srm, spikes=True),
    ConvLSTM: Whole(_convlstm, spikes=False),
    SpikingConv: Whole(_spiking_conv, spikes=True, neurons="lif"),
    nn.LSTM: Whole(_lstm, spikes=False),
    SumFrames: Whole(_sum, spikes=False),
    MeanFrames: Whole(_sum, spikes=False),
}
