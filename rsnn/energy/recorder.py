"""Watches a forward pass from outside: every tensor operation, and the module that runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rsnn.energy import arithmetic, rules
from rsnn.energy.report import LayerEnergy
from rsnn.nn import LIF

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass
class _Convolution:
    """Calls of one convolution on inputs of one shape: their non-zero inputs summed (C, *S), and how many samples."""

    layer: LayerEnergy
    taps: Tensor
    every: int
    how: tuple[Any, ...]
    nonzero: Tensor
    samples: int = 0


class Recorder(TorchDispatchMode):
    """Counts what runs while it is active, over all samples; `close` takes its hooks off the model.

    Whether a tensor is binary belongs to its storage, so views inherit it; every operation that writes sets it anew.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: dict[tuple[str, str], LayerEnergy] = {}
        self.not_counted: Counter[str] = Counter()
        self._owners = {
            tensor.data_ptr(): (owner, owner if key == "weight" else f"{owner}.{key}".lstrip("."))
            for owner, module in model.named_modules()
            for key, tensor in module.named_parameters(recurse=False)
        }
        self._path: list[str] = []
        self._resting = 0  # inside modules that have a rule as a whole
        self._comparing: set[str] = set()
        self._binary: set[int] = set()
        self._constants: set[int] = set()  # a state that starts at zero is no spike train
        self._accumulated: set[int] = set()  # fresh outputs of convolutions and products: batch norms fold into them
        self._weight_masks: dict[tuple[Any, ...], Tensor] = {}
        self._convolutions: dict[tuple[Any, ...], _Convolution] = {}
        self._state_paths: set[str] = set()
        self._hooks: list[Any] = []
        self._onednn: list[bool] = []
        for name, module in model.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._enter(name)))
            self._hooks.append(module.register_forward_hook(self._leave(name), always_call=True))

    def close(self) -> None:
        """Take the hooks off, and forget what belongs to one pass."""
        for hook in self._hooks:
            hook.remove()
        while self._onednn:
            torch._C._set_mkldnn_enabled(self._onednn.pop())
        self.start()

    def start(self) -> None:
        """Forget what belongs to one pass: storages are reused by the next."""
        self._path.clear()
        self._binary.clear()
        self._accumulated.clear()
        self._constants.clear()
        self._comparing.clear()
        self._resting = 0

    # Modules

    def _enter(self, name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any) -> None:
            self._path.append(name)
            if isinstance(module, LIF):
                self._resting += 1
            if isinstance(module, _RECURRENT):
                # oneDNN runs a whole LSTM as one operation; without it, it comes apart into products and functions.
                self._onednn.append(torch._C._get_mkldnn_enabled())
                torch._C._set_mkldnn_enabled(False)

        return hook

    def _leave(self, name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            self._path.pop()
            if isinstance(module, _RECURRENT):
                torch._C._set_mkldnn_enabled(self._onednn.pop())
            if isinstance(module, LIF):
                self._resting -= 1
            if not self._resting:
                with torch.utils._python_dispatch._disable_current_modes():
                    self._outcome(name, module, output)

        return hook

    def _outcome(self, name: str, module: nn.Module, output: Any) -> None:
        spikes = next(iter(_tensors(output)), None)
        if spikes is None:
            return
        if isinstance(module, LIF):
            # V + (X - V) / tau is one multiply-accumulate a neuron and step once 1 / tau is in the weights.
            layer = self._layer(name, "neuron")
            layer.dense_mac += spikes.numel()
            layer.mac += spikes.numel()
            self._wrote(layer, spikes)
            self._mark(spikes, binary=True)
        fires = name in self._comparing and self._is_binary(spikes) and spikes.dtype.is_floating_point
        if isinstance(module, LIF) or fires:
            layer = self._layer(name, "neuron")
            layer.spikes += int(spikes.count_nonzero())
            layer.neuron_steps += spikes.numel()
        self._comparing.discard(name)
        state = list(_tensors(output[1:])) if isinstance(output, tuple | list) else []
        inside = any(other.startswith(f"{name}." if name else "") for other in self._state_paths if other != name)
        if state and not inside:
            self._state_paths.add(name)
            kind = "neuron" if isinstance(module, LIF) else "pointwise"
            self._layer(name, kind).state_bytes += sum(s.numel() * s.element_size() for s in state)

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if self._resting or name in rules.FREE - rules.KEEPS_BINARY - rules.COMPARISONS:
            binary = not self._resting and self._constant_binary(name, args, kwargs)
            out = func(*args, **kwargs)
            if not func.is_view and name != "detach":
                for tensor in _tensors(out):
                    self._mark(tensor, binary=binary)
                    if binary:
                        self._constants.add(_storage(tensor))
            return out
        inputs = list(_tensors(args))
        binaries = [self._is_binary(tensor) for tensor in inputs]
        accumulated = bool(inputs) and _storage(inputs[0]) in self._accumulated
        out = func(*args, **kwargs)
        if func.is_view:
            return out
        binary = name in rules.BINARY or (
            name in rules.KEEPS_BINARY and bool(binaries) and all(binaries) and _by_binary(name, args)
        )
        if name in rules.COMPARISONS and self._path:
            self._comparing.add(self._path[-1])
        self._count(name, args, out, inputs, binaries, accumulated)
        for position, tensor in enumerate(_tensors(out)):
            self._mark(tensor, binary=binary and not position if name in rules.WITH_INDICES else binary)
        if name in rules.CONVOLUTIONS | rules.PRODUCTS or (accumulated and name in ("_unsafe_view", "clone")):
            self._accumulated.update(_storage(tensor) for tensor in _tensors(out))
        return out

    def _count(
        self, name: str, args: Any, out: Any, inputs: list[Tensor], binaries: list[bool], accumulated: bool
    ) -> None:
        """Add one operation to its layer, or to what is not counted."""
        made = next(iter(_tensors(out)), None)
        if name in rules.FREE or made is None:
            return
        if name in rules.CONVOLUTIONS:
            self._convolution(args, made, binaries[0])
        elif name in rules.PRODUCTS:
            self._product(name, args, made)
        elif name in rules.ATTENTION:
            self._attention(args, made)
        elif name in rules.NORMS | rules.LAYER_NORMS:
            batch_statistics = name in rules.LAYER_NORMS or (len(args) > 5 and args[5] is True)
            if batch_statistics or not accumulated:
                self._pointwise("normalization", made, mac=made.numel() * (3 if batch_statistics else 1))
        elif name in rules.MULTIPLICATIONS:
            if all(binaries) and name.startswith("mul"):
                return
            selects = any(b and _storage(t) not in self._constants for t, b in zip(inputs, binaries, strict=True))
            anded = selects and name.startswith("mul")
            self._pointwise("pointwise", made, **{"ac" if anded else "mac": made.numel()})
        elif name in rules.ADDITIONS:
            self._pointwise("pointwise", made, ac=made.numel())
        elif name in rules.FUNCTIONS:
            self._pointwise("function", made, mac=made.numel())
        elif name in rules.SUMS:
            self._pointwise("pointwise", made, ac=inputs[0].numel())
        elif name in rules.MEANS:
            self._pointwise("pointwise", made, ac=inputs[0].numel(), mac=made.numel())
        elif name in rules.SOFTMAX:
            self._pointwise("function", made, mac=2 * made.numel(), ac=made.numel())
        else:
            where = self._path[-1] if self._path else ""
            self.not_counted[f"{name} in {where or 'the model'}"] += 1

    def _convolution(self, args: Any, out: Tensor, binary: bool) -> None:
        x, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
        layer = self._layer(*self._site(weight, "convolution"), weight=weight)
        axes = x.ndim - 2
        stride, padding, dilation = ([*v] * axes if len(v) == 1 else v for v in (stride, padding, dilation))
        taps = self._mask(weight, ("taps", groups, transposed))
        nonzero = x.count_nonzero(0) if x.shape[0] > 1 else (x[0] != 0).long()
        every = weight.shape[1] if transposed else weight.shape[0] // groups
        how = (tuple(out.shape[2:]), tuple(stride), tuple(padding), tuple(dilation), transposed)
        self._add(layer, binary, 0, 0, x, int(nonzero.sum()))
        # The products are linear in the map of non-zero inputs: steps of one convolution are counted together.
        key = (id(layer), id(taps), tuple(nonzero.shape), *how)
        known = self._convolutions.setdefault(key, _Convolution(layer, taps, every, how, torch.zeros_like(nonzero)))
        known.nonzero += nonzero
        known.samples += x.shape[0]
        self._wrote(layer, out)

    def finish(self) -> None:
        """Add the convolutions that were collected to their layers."""
        for one in self._convolutions.values():
            effective = arithmetic.convolution(one.nonzero, one.taps, *one.how)
            everywhere = torch.ones_like(one.nonzero)
            dense = arithmetic.convolution(everywhere, torch.full_like(one.taps, one.every), *one.how) * one.samples
            if one.layer.binary:
                one.layer.ac, one.layer.dense_ac = one.layer.ac + effective, one.layer.dense_ac + dense
            else:
                one.layer.mac, one.layer.dense_mac = one.layer.mac + effective, one.layer.dense_mac + dense
        self._convolutions.clear()

    def _product(self, name: str, args: Any, out: Tensor) -> None:
        left, right = args[1:3] if name.startswith(("add", "badd")) else args[:2]
        weight = next((t for t in (right, left) if t.data_ptr() in self._owners), None)
        layer = self._layer(*self._site(weight, "linear" if weight is not None else "product"), weight=weight)
        activation = left if weight is not left else right
        binary = self._is_binary(left) or self._is_binary(right)
        if weight is not None and left is weight:
            rows = self._mask(left, ("rows",))
        else:
            rows = left.count_nonzero(-2) if left.ndim > 1 else (left != 0).long()
        if weight is not None and right is weight:
            columns = self._mask(right, ("columns",))
        else:
            columns = right.count_nonzero(-1) if right.ndim > 1 else (right != 0).long()
        dense = left.numel() * (right.shape[-1] if right.ndim > 1 else 1)
        nonzero = int((rows if activation is left else columns).sum())
        self._add(layer, binary, arithmetic.matrix_product(rows, columns), dense, activation, nonzero)
        self._wrote(layer, out)

    def _attention(self, args: Any, out: Tensor) -> None:
        query, key, value = args[:3]
        pairs = query[..., 0].numel() * key.shape[-2]
        scores = self._layer(self._here(), "attention QK")
        effective = arithmetic.matrix_product(query.count_nonzero(-2), key.count_nonzero(-2))
        binary, dense = self._is_binary(query) or self._is_binary(key), pairs * query.shape[-1]
        self._add(scores, binary, effective, dense, query, int(query.count_nonzero()))
        softmax = self._layer(self._here(), "attention softmax")
        for field, each in (("mac", 2), ("dense_mac", 2), ("ac", 1), ("dense_ac", 1)):
            setattr(softmax, field, getattr(softmax, field) + each * pairs)
        mixed = self._layer(self._here(), "attention AV")
        nonzero = int(value.count_nonzero())
        self._add(mixed, self._is_binary(value), query.shape[-2] * nonzero, pairs * value.shape[-1], value, nonzero)
        self._wrote(mixed, out)

    def _pointwise(self, kind: str, out: Tensor, *, mac: int = 0, ac: int = 0) -> None:
        layer = self._layer(self._here(), kind)
        layer.mac, layer.dense_mac = layer.mac + mac, layer.dense_mac + mac
        layer.ac, layer.dense_ac = layer.ac + ac, layer.dense_ac + ac
        self._wrote(layer, out)

    # Book-keeping

    def _here(self) -> str:
        return self._path[-1] if self._path else ""

    def _site(self, weight: Tensor | None, kind: str) -> tuple[str, str]:
        owner = None if weight is None else self._owners.get(weight.data_ptr())
        return (self._here() if owner is None else owner[1]), kind

    def _layer(self, name: str, kind: str, weight: Tensor | None = None) -> LayerEnergy:
        layer = self.layers.get((name, kind))
        if layer is None:
            layer = self.layers[name, kind] = LayerEnergy(
                name, kind, binary=kind in ("convolution", "linear", "product")
            )
            if weight is not None:
                layer.weights, layer.nonzero_weights = weight.numel(), int(weight.count_nonzero())
        return layer

    def _add(self, layer: LayerEnergy, binary: bool, effective: int, dense: int, x: Tensor, nonzero: int) -> None:
        # A layer whose input is real-valued at one call is real-valued: earlier calls (a state of zeros) move over.
        if not binary and (layer.binary or layer.dense_ac):
            layer.mac, layer.dense_mac = layer.mac + layer.ac, layer.dense_mac + layer.dense_ac
            layer.ac = layer.dense_ac = 0.0
        layer.binary = binary and layer.binary
        if layer.binary:
            layer.ac, layer.dense_ac = layer.ac + effective, layer.dense_ac + dense
        else:
            layer.mac, layer.dense_mac = layer.mac + effective, layer.dense_mac + dense
        layer.inputs += x.numel()
        layer.nonzero_inputs += nonzero

    def _wrote(self, layer: LayerEnergy, out: Tensor) -> None:
        layer.outputs += out.numel()
        layer.activation_bytes += out.numel() * out.element_size()

    def _mask(self, weight: Tensor, how: tuple[Any, ...]) -> Tensor:
        """Return the sums of a weight's non-zero mask; a parameter's once for the whole measurement."""
        key = (weight.data_ptr(), tuple(weight.shape), tuple(weight.stride()), *how)
        if key in self._weight_masks:
            return self._weight_masks[key]
        if how[0] == "taps":
            sums = arithmetic.nonzero_per_tap(weight, how[1], how[2])
        else:
            sums = weight.count_nonzero(-2 if how[0] == "rows" else -1)
        if weight.data_ptr() in self._owners:
            self._weight_masks[key] = sums
        return sums

    def _constant_binary(self, name: str, args: Any, kwargs: Any) -> bool:
        if name in rules.FILLS:
            value = kwargs.get("fill_value", args[0] if name == "scalar_tensor" else args[1] if len(args) > 1 else None)
            return isinstance(value, int | float) and value in (0, 1)
        return name in rules.ZEROS_AND_ONES

    def _is_binary(self, tensor: Tensor) -> bool:
        return tensor.dtype == torch.bool or _storage(tensor) in self._binary

    def _mark(self, tensor: Tensor, *, binary: bool) -> None:
        storage = _storage(tensor)
        self._accumulated.discard(storage)
        self._constants.discard(storage)
        if binary:
            self._binary.add(storage)
        else:
            self._binary.discard(storage)


def _by_binary(name: str, args: Any) -> bool:
    """Tell whether the numbers among the arguments leave zeros and ones what they are."""
    if name == "constant_pad_nd":
        return len(args) < 3 or args[2] in (0, 1)
    return name not in rules.WITH_NUMBERS or all(n in (0, 1) for n in args if isinstance(n, int | float))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from _tensors(branch)
