"""States: what modules carry from one call to the next, and how large it is a sample."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import ref

from torch import Tensor, nn

from rsnn.energy.tensors import storage, tensors_in
from rsnn.nn import LIF, SRM, ConcatFrames, ConvLSTM, MeanFrames, NeuNorm, SumFrames
from rsnn.nn.stages import SpikingConv

# Where the samples are in the states of the library's modules that have one of their own.
_SAMPLES_AXIS: dict[type[nn.Module], int] = {
    **dict.fromkeys((LIF, SRM, ConvLSTM, SpikingConv, NeuNorm, SumFrames, MeanFrames), 0),
    ConcatFrames: 1,
}


class States:
    """Finds the states of modules by what they return and get back, call after call.

    What a module returns of its parts' states is theirs.
    """

    def __init__(self) -> None:
        self._returned: dict[str, list[ref[Tensor]]] = {}  # by modules, at their last call
        self._fed: dict[str, int] = {}  # bytes of it that a module has got back at the call that runs
        self._found: set[str] = set()  # modules with a state of their own

    def forget(self) -> None:
        """Forget the tensors of a pass: storages are reused by the next."""
        self._returned.clear()
        self._fed.clear()

    def take_back(self, name: str, args: Any, kwargs: Any) -> None:
        """Note what a module gets beside its input of what it returned at its last call: a state, whatever it is."""
        if len(args) + len(kwargs) < 2 or name not in self._returned:
            return
        returned = {storage(tensor) for tensor in (alive() for alive in self._returned[name]) if tensor is not None}
        returned.difference_update(map(storage, tensors_in(args[:1])))
        given = tensors_in((args[1:], tuple(kwargs.values())))
        self._fed[name] = sum(tensor.nbytes for tensor in given if storage(tensor) in returned)

    def size(self, name: str, module: nn.Module, output: Any, samples: int) -> float:
        """Return the bytes a sample, of so many in this pass, of the state that a module carries to its next call."""
        fed = self._fed.pop(name, 0)
        kept = memories(module)
        if kept is not None:
            size = sum(tensor.nbytes for tensor in tensors_in(tuple(kept.values())))
        else:
            self._returned[name] = [ref(tensor) for tensor in tensors_in(output)]
            if any(other != name and other.startswith(f"{name}." if name else "") for other in self._found):
                return 0
            returned = _returned_state(module, output, samples)
            size = fed if returned is None else sum(tensor.nbytes for tensor in returned[0])
            if returned is not None:
                samples = min(samples, max(1, returned[1]))  # it may take them one by one
        if size:
            self._found.add(name)
        return size / samples


def memories(module: nn.Module) -> dict[str, Any] | None:
    """Return what a module of SpikingJelly keeps between its calls, by name; None for a module of another kind."""
    kept = vars(module).get("_memories")
    return kept if isinstance(kept, dict) and callable(getattr(module, "reset", None)) else None


def _returned_state(module: nn.Module, output: Any, samples: int) -> tuple[list[Tensor], int] | None:
    """Return what of its output a module takes back at its next call, and how many samples that is the state of.

    None where nothing tells: it is no recurrent layer of torch, and its `forward` takes no `state` as the library's do.
    """
    axis = next((axis for kind, axis in _SAMPLES_AXIS.items() if isinstance(module, kind)), None)
    if isinstance(module, nn.RNNCellBase):
        after = tensors_in(output)  # all of it
    elif not isinstance(output, tuple | list):
        return None
    elif axis is not None or isinstance(module, nn.RNNBase) or _takes_state(type(module).forward):
        after = tensors_in(output[1:])
    else:
        return None
    if after and isinstance(module, nn.RNNBase | nn.RNNCellBase):  # (layers, N, F) or (layers, F); (N, F) or (F,)
        layers = len(after[0]) if isinstance(module, nn.RNNBase) else 1
        samples = after[0].numel() // (layers * after[0].shape[-1])
    elif after and axis is not None and after[0].ndim > axis:
        samples = after[0].shape[axis]
    return after, samples


@cache
def _takes_state(forward: Callable[..., Any]) -> bool:
    return "state" in inspect.signature(forward).parameters
