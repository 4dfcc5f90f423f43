"""Modules that are counted as a whole, from what goes in and what comes out, however they compute it.

Their insides may be a fused operator, on one device and not on another, of which no single operation shows. What they
do is known all the same: it follows from the equations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from rsnn.energy import arithmetic
from rsnn.energy.arithmetic import nonzero, nonzero_map
from rsnn.energy.ledger import Ledger
from rsnn.nn import LIF, SRM, ConvLSTM, MeanFrames, SumFrames
from rsnn.nn.scnn import SpikingConv

# Each rule gets the ledger, the module's name and itself, its input, its state before (None: fresh), its output, and
# whether the input can only hold zeros and ones.
Rule = Callable[[Ledger, str, Any, Tensor, Any, Any, bool], None]


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
        pool: side of the windows whose maxima it was asked for instead of its output.

    """

    x: Any
    state: Any
    pool: int


def unpooled(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """Return a call, and the arguments to call with instead: the rules need outputs that were not pooled.

    `restore` has to follow.
    """
    given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
    _, x, *rest = given.values()
    pool = given.get("pool", 1)
    if isinstance(module, SpikingConv):
        pool, module.pool = module.pool, 1
    names = [name for name in given if name not in ("self", "pool")]
    return Call(x, rest[0] if len(names) > 1 else None, pool), {name: given[name] for name in names}


def restore(module: nn.Module, call: Call) -> None:
    """Undo what `unpooled` did to the module."""
    if isinstance(module, SpikingConv):
        module.pool = call.pool


def pooled(output: Any, pool: int) -> Any:
    """Return a module's output (T, N, C, H, W) with the maxima it was asked for."""
    if pool == 1:
        return output
    x, *rest = output
    return (arithmetic.max_pool(x, pool), *rest)


def _neurons(ledger: Ledger, name: str, spikes: Tensor, mac: int, ac: int) -> None:
    each = spikes.numel()
    layer = ledger.pointwise(name, "neuron", each, spikes.element_size(), mac=mac * each, ac=ac * each)
    layer.spikes += arithmetic.spikes(spikes)
    layer.neuron_steps += each


def _lif(ledger: Ledger, name: str, _module: LIF, _x: Tensor, _state: Any, output: Any, _binary: bool) -> None:
    # V + (X - V) / tau is one multiply-accumulate a neuron and step once 1 / tau is in the weights.
    _neurons(ledger, name, output[0], mac=1, ac=0)


def _srm(ledger: Ledger, name: str, _module: SRM, _x: Tensor, _state: Any, output: Any, _binary: bool) -> None:
    # Two traces a t + x and two responses a (r + t), of input and of spikes; the potential g r + g' r'.
    _neurons(ledger, name, output[0], mac=6, ac=2)


def _gates(ledger: Ledger, name: str, hidden: Tensor, outputs: int, cell: Tensor | None) -> None:
    """Count what an LSTM does besides its products.

    Its hidden states (T, ...), of which `outputs` are not zero, came from `cell`, or zeros where that is None.

    cell = f o cell + i o g;  hidden = o o tanh(cell);  i, f, o = sigmoid, g = tanh of input's sum + hidden's sum
    """
    each, size = hidden.numel(), hidden.element_size()
    later = each - hidden[0].numel()  # a fresh state is zero
    forgets = later + (0 if cell is None else nonzero(cell))
    products, sums = forgets + each + outputs, later if cell is None else each
    ledger.pointwise(name, "pointwise", 8 * each, size, mac=(products, 3 * each), ac=(4 * sums + forgets, 5 * each))
    ledger.pointwise(name, "function", 5 * each, size, mac=5 * each)


def _convlstm(
    ledger: Ledger, name: str, module: ConvLSTM, frames: Tensor, state: Any, output: Any, binary: bool
) -> None:
    hidden = output[0]
    T, N = frames.shape[:2]
    before = (module.kernel_size - 1) // 2
    how = {
        "stride": (1, 1),
        "padding": (before, before),
        "dilation": (1, 1),
        "bytes_per_element": hidden.element_size(),
    }
    prefix = f"{name}." if name else ""
    size = hidden.shape[3:]
    ledger.convolution(
        f"{prefix}input_gates",
        module.input_gates.weight,
        nonzero_map(frames.flatten(0, 1)),
        T * N,
        size,
        binary=binary,
        **how,
    )
    states = nonzero_map(hidden.flatten(0, 1))
    earlier = states - nonzero_map(hidden[-1])
    if state is not None:
        earlier += nonzero_map(state[0])
    ledger.convolution(f"{prefix}hidden_gates", module.hidden_gates.weight, earlier, T * N, size, binary=False, **how)
    _gates(ledger, name, hidden, int(states.sum()), None if state is None else state[1])


def _spiking_conv(
    ledger: Ledger, name: str, module: SpikingConv, x: Tensor, _state: Any, output: Any, binary: bool
) -> None:
    spikes, conv = output[0], module.conv
    prefix = f"{name}." if name else ""
    ledger.convolution(
        f"{prefix}conv",
        conv.weight,
        nonzero_map(x.flatten(0, 1)),
        x.shape[0] * x.shape[1],
        spikes.shape[3:],
        stride=conv.stride,
        padding=cast("tuple[int, int]", conv.padding),
        dilation=conv.dilation,
        groups=conv.groups,
        binary=binary,
        bytes_per_element=spikes.element_size(),
    )
    _neurons(ledger, f"{prefix}lif", spikes, mac=1, ac=0)


def _as_made(module: nn.Module) -> bool:
    """Tell whether the rule fits: an LSTM whose hidden states are all in its output, a stage nobody has rebuilt."""
    if isinstance(module, nn.LSTM):
        return module.num_layers == 1 and not module.bidirectional and not module.proj_size
    if isinstance(module, SpikingConv):
        conv = module.conv
        zeros = type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        return zeros and (type(module.norm), type(module.lif)) == (nn.BatchNorm2d, LIF)
    return True


def _lstm(ledger: Ledger, name: str, module: nn.LSTM, x: Tensor, state: Any, output: Any, binary: bool) -> None:
    hidden = output[0]
    prefix = f"{name}." if name else ""
    if module.batch_first and x.ndim == 3:
        x, hidden = x.transpose(0, 1), hidden.transpose(0, 1)
    rows, size = x[..., 0].numel(), hidden.element_size()
    ledger.linear(
        f"{prefix}weight_ih_l0",
        module.get_parameter("weight_ih_l0"),
        nonzero_map(x.flatten(0, -2)),
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
        module.get_parameter("weight_hh_l0"),
        earlier,
        rows,
        binary=False,
        bytes_per_element=size,
    )
    _gates(ledger, name, hidden, int(states.sum()), None if state is None else state[1])


def _sum(ledger: Ledger, name: str, module: nn.Module, x: Tensor, _state: Any, output: Any, _binary: bool) -> None:
    # What is added to a sum that begins empty; the mean divides it as well.
    total = output[0]
    divides = (nonzero(total), total.numel()) if isinstance(module, MeanFrames) else 0
    ledger.pointwise(name, "pointwise", total.numel(), total.element_size(), mac=divides, ac=(nonzero(x), x.numel()))


_RULES: dict[type[nn.Module], Whole] = {
    LIF: Whole(_lif, spikes=True),
    SRM: Whole(_srm, spikes=True),
    ConvLSTM: Whole(_convlstm, spikes=False),
    SpikingConv: Whole(_spiking_conv, spikes=True, neurons="lif"),
    nn.LSTM: Whole(_lstm, spikes=False),
    SumFrames: Whole(_sum, spikes=False),
    MeanFrames: Whole(_sum, spikes=False),
}
