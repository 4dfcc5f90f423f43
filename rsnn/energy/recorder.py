"""Watches a forward pass from outside: every tensor operation, and the module that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from rsnn.energy import arithmetic, modules, rules
from rsnn.energy.ledger import Ledger
from rsnn.energy.padding import Padding
from rsnn.energy.states import States
from rsnn.energy.tensors import storage, tensors_in

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class _Hook:
    """What a module calls before it runs, or after."""

    run: Callable[..., Any]
    name: str
    whole: modules.Whole | None
    takes: ClassVar = frozenset({"pooling"})  # see `rsnn.kernels.watched.is_watched`

    def __call__(self, module: nn.Module, *call: Any) -> Any:
        return self.run(self.name, self.whole, module, *call)


class Recorder(TorchDispatchMode):
    """Counts what a model runs while it is `watching`, over all samples, from `attach` on until `close`.

    Attributes:
        takes: our kernels that may run as one operation before its eyes (see `rsnn.kernels.watched`).

    Modules that `modules.find` knows are counted as a whole, and their insides run unwatched; the operations of all
    others are counted one by one, those of a `torch.jit.ScriptModule`, which takes no hooks, as its parent's. Whether a
    tensor is binary belongs to its storage, so views inherit it; every operation that writes sets it anew.

    """

    takes = frozenset({"attention"})

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger(model)
        self._model = model
        self._samples = 0  # in this pass
        self._path: list[str] = []
        self._calls: list[modules.Call] = []  # of modules that are counted as a whole and run now
        self._comparing: set[str] = set()
        self._binary: set[int] = set()
        self._constants: set[int] = set()  # a state that starts at zero is no spike train
        self._accumulated: set[int] = set()  # fresh outputs of convolutions and products: batch norms fold into them
        self._weights: list[Tensor] = []  # parameters and buffers, kept so that nothing else takes their storage
        self._fixed: set[int] = set()  # they, and what is made of nothing else: the same for every sample
        self._padded: dict[int, Padding] = {}
        self._states = States()
        self._onednn: list[bool] = []
        self._hooks: list[Any] = []

    def attach(self) -> None:
        """Put the hooks on the model."""
        known: list[str] = []
        for name, module in self._model.named_modules():
            if any(name.startswith(f"{outer}." if outer else "") for outer in known):
                continue  # a hook in there would keep it from running as one operation
            if isinstance(module, torch.jit.ScriptModule):
                continue
            whole = modules.find(module)
            if whole is not None:
                known.append(name)
            enter, leave = _Hook(self._enter, name, whole), _Hook(self._leave, name, whole)
            self._hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(leave, always_call=True, with_kwargs=True))

    def close(self) -> None:
        """Take the hooks off, and forget what belongs to one pass."""
        for hook in self._hooks:
            hook.remove()
        while self._onednn:
            torch._C._set_mkldnn_enabled(self._onednn.pop())
        self._forget()

    @contextmanager
    def watching(self, samples: int) -> Iterator[None]:
        """Count one pass of so many samples."""
        self._forget()
        self._samples = samples
        self._weights = [*self._model.parameters(), *self._model.buffers()]
        self._fixed.update(map(storage, self._weights))
        self.__enter__()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            if self._calls:  # interrupted inside a module that is counted as a whole, which runs unwatched
                self._calls.clear()
            else:
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.ledger.finish(samples)

    def _forget(self) -> None:
        """Forget what belongs to one pass: storages are reused by the next."""
        for of_one_pass in (
            *(self._path, self._binary, self._accumulated, self._constants, self._comparing),
            *(self._weights, self._fixed, self._padded),
        ):
            of_one_pass.clear()
        self._states.forget()

    # Modules

    def _enter(self, name: str, whole: modules.Whole | None, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._path.append(name)
        if isinstance(module, _RECURRENT):
            # oneDNN runs a whole network as one operation; without it, it comes apart into products and functions.
            self._onednn.append(torch._C._get_mkldnn_enabled())
            if whole is None:
                torch._C._set_mkldnn_enabled(False)
        if whole is None:
            self._states.take_back(name, args, kwargs)
            return None
        call, watched = modules.watched(module, args, kwargs)
        if not self._calls:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._calls.append(call)
        return (), watched

    def _leave(
        self, name: str, whole: modules.Whole | None, module: nn.Module, _args: Any, _kwargs: Any, output: Any
    ) -> None:
        self._path.pop()
        if isinstance(module, _RECURRENT):
            torch._C._set_mkldnn_enabled(self._onednn.pop())
        if whole is not None:
            call = self._calls.pop()
            call.over()
            if self._calls:
                return
            try:
                if output is not None:  # None: it failed
                    self._count_whole(name, module, whole, call, output)
            finally:
                self.__enter__()  # type: ignore[no-untyped-call]
        if not self._calls and output is not None:
            self._outcome(name, module, output)

    def _count_whole(self, name: str, module: nn.Module, whole: modules.Whole, call: modules.Call, output: Any) -> None:
        if isinstance(call.x, Tensor):
            whole.rule(self.ledger, name, module, call, output, self._is_binary(call.x))
        else:
            what = f"{type(module).__name__} of a {type(call.x).__name__} in {name or 'the model'}"
            self.ledger.not_counted[what] += 1
        for parameter in module.parameters():
            self.ledger.use(parameter)
        for tensor in tensors_in(output):
            self._mark(tensor, binary=False)
        if whole.spikes:
            self._mark(output[0], binary=True)

    def _outcome(self, name: str, module: nn.Module, output: Any) -> None:
        """Count spikes of neurons made of a user's operations, and the state that a module carries to its next call."""
        first = next(iter(tensors_in(output)), None)
        if first is None:
            return
        if name in self._comparing:
            self._comparing.discard(name)
            if self._is_binary(first) and first.dtype.is_floating_point:
                layer = self.ledger.layer(name, "neuron")
                with _disable_current_modes():
                    layer.spikes += arithmetic.nonzero(first)
                layer.neuron_steps += first.numel()
        self._carry(name, module, output)

    def _carry(self, name: str, module: nn.Module, output: Any) -> None:
        size = self._states.size(name, module, output, self._samples)
        if not size:
            return
        whole = modules.find(module)
        row = ".".join(filter(None, (name, "" if whole is None else whole.neurons)))
        spikes = (whole is not None and whole.spikes) or (row, "neuron") in self.ledger.layers
        self.ledger.carries(self.ledger.layer(row, "neuron" if spikes else "pointwise"), size)

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):  # in inference mode torch leaves that to us
            with self:
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__
        inputs = tensors_in(args)
        for tensor in inputs:
            if tensor.ndim > 1:
                self.ledger.use(tensor)
        made_of = (*inputs, *tensors_in((*kwargs.values(),)))
        fixed = bool(made_of) and name not in rules.CONSTANTS and self._is_fixed(*made_of)
        if name in rules.PLAIN:
            binary = constant = self._constant_binary(name, args, kwargs)
            if name in rules.FILLS_IN_PLACE and not _is_whole(args[0]):  # the rest stays what it is
                binary = binary and self._is_binary(args[0])
                constant = binary and storage(args[0]) in self._constants
            out = func(*args, **kwargs)
            if not func.is_view and name != "detach":
                for tensor in tensors_in(out):
                    self._mark(tensor, binary=binary, fixed=fixed)
                    if constant:
                        self._constants.add(storage(tensor))
            return out
        binaries = [self._is_binary(tensor) for tensor in inputs]
        binary = name in rules.BINARY or (name in rules.KEEPS_BINARY and self._stays_binary(name, args))
        binary = binary and not _accumulates(name, args)
        biased = name in ("add", "add_") and self._is_biased(*args[:2])
        accumulated = biased or (bool(inputs) and storage(inputs[0]) in self._accumulated)
        # In place it changes what it is given: looked at before it runs.
        both = _both(args[0], args[1]) if name in rules.ADDITIONS else 0
        out = func(*args, **kwargs)
        if func.is_view:
            return out
        if name in rules.COMPARISONS and self._path:
            self._comparing.add(self._path[-1])
        if not biased and not fixed:  # what is made of weights alone is a weight
            self._count(name, args, kwargs, out, inputs, binaries, accumulated, both)
        for position, tensor in enumerate(tensors_in(out)):
            one_binary = binary and not position if name in rules.WITH_INDICES else binary
            self._mark(tensor, binary=one_binary, fixed=fixed)
        if name == "constant_pad_nd" and not (len(args) > 2 and args[2]):
            self._padded[storage(out)] = Padding.of(out, args[1])
        if name in rules.ACCUMULATED or biased or (accumulated and name in ("_unsafe_view", "clone")):
            self._accumulated.update(storage(tensor) for tensor in tensors_in(out))
        return out

    def _count(
        self,
        name: str,
        args: Any,
        kwargs: Any,
        out: Any,
        inputs: list[Tensor],
        binaries: list[bool],
        accumulated: bool,
        both: int,
    ) -> None:
        """Add one operation to its layer, or to what is not counted."""
        made = next(iter(tensors_in(out)), None)
        if made is None:
            return
        each = made.numel()
        if _accumulates(name, args):
            added = torch.ops.aten.index.Tensor(args[0], args[1]).numel()
            values = args[2]  # broadcast
            nonzero = arithmetic.nonzero(values) * added // max(1, values.numel())
            self.ledger.pointwise(self._here(), "pointwise", added, made.element_size(), ac=(nonzero, added))
        elif name in rules.FREE:
            return
        elif name in rules.CONVOLUTIONS:
            self._convolution(args, made, binaries[0])
        elif name in rules.PRODUCTS:
            left, right = args[1:3] if name.startswith(("add", "badd")) else args[:2]
            self.ledger.product(self._here(), left, right, made, binary=self._is_binary(left) or self._is_binary(right))
            if not self._is_fixed(left) and not self._is_fixed(right):
                self._scale(made, kwargs.get("alpha", 1))
            self._scale(args[0], kwargs.get("beta", 1) or 1)
        elif name in rules.ATTENTION:
            self._attention(args, made)
        elif name in rules.NORMS | rules.LAYER_NORMS:
            batch_statistics = name in rules.LAYER_NORMS or (len(args) > 5 and args[5] is True)
            if batch_statistics or not accumulated:
                self._pointwise("normalization", made, mac=each * (3 if batch_statistics else 1))
        elif name in rules.MULTIPLICATIONS:
            if all(binaries) and name.startswith("mul") and _by_binary(name, args):
                return  # a logical and
            selects = any(b and storage(t) not in self._constants for t, b in zip(inputs, binaries, strict=True))
            times = rules.MULTIPLICATIONS[name]
            count = (times * arithmetic.nonzero(made), times * each)
            self._pointwise("pointwise", made, **{"ac" if selects and name.startswith("mul") else "mac": count})
        elif name in rules.ADDITIONS:
            self._pointwise("pointwise", made, ac=(both, each))
            scaled = args[0 if name == "rsub" else 1]
            self._scale(scaled, kwargs.get("alpha", args[2] if len(args) > 2 else 1))
        elif name in rules.FUNCTIONS:
            self._pointwise("function", made, mac=each)
        elif name in rules.SUMS:
            self._pointwise("pointwise", made, ac=(arithmetic.nonzero(inputs[0]), inputs[0].numel()))
        elif name in rules.MEANS:
            added = (arithmetic.nonzero(inputs[0]), inputs[0].numel())
            self._pointwise("pointwise", made, ac=added, mac=(arithmetic.nonzero(made), each))
        elif name in rules.AVERAGE_POOLS:
            self._average_pool(name, args, made)
        elif name in rules.SOFTMAX:
            self._pointwise("function", made, mac=2 * each, ac=each)
        else:
            self.ledger.not_counted[f"{name} in {self._here() or 'the model'}"] += 1

    def _convolution(self, args: Any, out: Tensor, binary: bool) -> None:
        x, weight, _, stride, padding, dilation, transposed, _, groups = args[:9]
        axes = x.ndim - 2
        stride, padding, dilation = ([*v] * axes if len(v) == 1 else v for v in (stride, padding, dilation))
        x, before = self._unpadded(x, axes)
        steps = (-s for s in stride) if transposed else [1] * axes
        padding = [border + step * b for border, step, b in zip(padding, steps, before, strict=True)]
        self.ledger.convolution(
            self.ledger.name_of(weight, self._here()),
            weight,
            arithmetic.nonzero_map(x, binary=binary),
            x.shape[0],
            out.shape[2:],
            stride=stride,
            padding=padding,
            dilation=dilation,
            transposed=transposed,
            groups=groups,
            binary=binary,
            bytes_per_element=out.element_size(),
        )

    def _attention(self, args: Any, out: Tensor) -> None:
        query, key, value = args[:3]
        pairs = query[..., 0].numel() * key.shape[-2]
        ledger, here = self.ledger, self._here()
        scores = ledger.layer(here, "attention QK")
        rows, columns = ledger.rows(query), ledger.rows(key)
        ledger.split(
            scores,
            self._is_binary(query) or self._is_binary(key),
            arithmetic.matrix_product(rows, columns),
            pairs * query.shape[-1],
        )
        scores.inputs, scores.nonzero_inputs = scores.inputs + query.numel(), scores.nonzero_inputs + int(rows.sum())
        ledger.pointwise(here, "attention softmax", pairs, out.element_size(), mac=2 * pairs, ac=pairs)
        mixed = ledger.layer(here, "attention AV")
        nonzero = arithmetic.nonzero(value)
        ledger.split(mixed, self._is_binary(value), query.shape[-2] * nonzero, pairs * value.shape[-1])
        mixed.inputs, mixed.nonzero_inputs = mixed.inputs + value.numel(), mixed.nonzero_inputs + nonzero
        ledger.wrote(mixed, out.numel(), out.element_size())

    def _average_pool(self, name: str, args: Any, out: Tensor) -> None:
        x, axes, divisor = args[0], int(name[-2]), None
        before = [0] * axes
        if not name.startswith("_adaptive"):
            x, before = self._unpadded(x, axes)
        sizes, out_sizes = x.shape[-axes:], out.shape[-axes:]
        if name.startswith("_adaptive"):
            covers = [arithmetic.adaptive_windows(*pair, x.device) for pair in zip(sizes, out_sizes, strict=True)]
        else:
            stride = args[2] if len(args) > 2 and args[2] else args[1]
            padding = args[3] if len(args) > 3 else [0]
            how = ([*v] * axes if len(v) == 1 else v for v in (args[1], stride, padding))
            divisor = args[6] if len(args) > 6 else None
            covers = [
                arithmetic.windows(size, out_size, side, step, border + b, x.device)
                for size, out_size, side, step, border, b in zip(sizes, out_sizes, *how, before, strict=True)
            ]
        places = arithmetic.nonzero_map(x.reshape(-1, *sizes))
        everywhere = x.numel() // places.numel() * arithmetic.pooled(torch.ones_like(places), covers)
        added = (arithmetic.pooled(places, covers), everywhere)
        scaled = (0, 0) if divisor == 1 else (arithmetic.nonzero(out), out.numel())
        self._pointwise("pointwise", out, ac=added, mac=scaled)

    def _pointwise(self, kind: str, out: Tensor, **counts: int | tuple[int, int]) -> None:
        self.ledger.pointwise(self._here(), kind, out.numel(), out.element_size(), **counts)

    def _scale(self, term: Any, factor: float) -> None:
        """Count the product of a term of a sum with a number; that of a weight folds into it."""
        if factor in (1, -1) or not isinstance(term, Tensor) or self._is_fixed(term):
            return
        selects = self._is_binary(term) and storage(term) not in self._constants
        self._pointwise("pointwise", term, **{"ac" if selects else "mac": (arithmetic.nonzero(term), term.numel())})

    # Book-keeping

    def _here(self) -> str:
        return self._path[-1] if self._path else ""

    def _constant_binary(self, name: str, args: Any, kwargs: Any) -> bool:
        if name in rules.FILLS:
            value = kwargs.get("fill_value", args[0] if name == "scalar_tensor" else args[1] if len(args) > 1 else None)
            return value in (0, 1) if isinstance(value, int | float) else _is_zero_or_one(value)
        return name in rules.ZEROS_AND_ONES

    def _is_binary(self, tensor: Tensor) -> bool:
        return tensor.dtype == torch.bool or storage(tensor) in self._binary

    def _is_fixed(self, *tensors: Tensor) -> bool:
        return all(storage(tensor) in self._fixed for tensor in tensors)

    def _unpadded(self, x: Tensor, axes: int) -> tuple[Tensor, list[int]]:
        """Return x without the zeros that were put around it along its last axes, and how many came before it there."""
        padding = self._padded.get(storage(x))
        return (x, [0] * axes) if padding is None else padding.cut_off(x, axes)

    def _stays_binary(self, name: str, args: Any) -> bool:
        """Tell whether all that an operation of `rules.KEEPS_BINARY` makes its output of are zeros and ones."""
        values = [args[place] for place in rules.VALUES[name]] if name in rules.VALUES else list(args)
        if name in rules.WITH_CONSTANT and _is_zero_or_one(values[-1]):
            del values[-1]
        elif not tensors_in(values):
            return False
        return all(map(self._is_binary, tensors_in(values))) and _by_binary(name, args)

    def _is_biased(self, left: Any, right: Any) -> bool:
        """Tell whether a sum is that of a product and its bias, which torch adds on its own to some inputs."""
        for product, bias in ((left, right), (right, left)):
            if not isinstance(product, Tensor) or not isinstance(bias, Tensor):
                return False
            along_one_axis = bias.ndim > 0 and bias.numel() == max(bias.shape)
            if storage(product) in self._accumulated and along_one_axis and self.ledger.is_parameter(bias):
                return True
        return False

    def _mark(self, tensor: Tensor, *, binary: bool, fixed: bool = False) -> None:
        key = storage(tensor)
        self._accumulated.discard(key)
        self._constants.discard(key)
        self._padded.pop(key, None)
        for known, kind in ((binary, self._binary), (fixed, self._fixed)):
            if known:
                kind.add(key)
            else:
                kind.discard(key)


@cache
def _is_composite(func: Any) -> bool:
    """Tell whether an operation is made of others, which it comes apart into."""
    return func._can_decompose()


def _accumulates(name: str, args: Any) -> bool:
    return name in rules.ACCUMULATE and len(args) > 3 and bool(args[3])


def _both(left: Any, right: Any) -> int:
    """Return at how many places of a sum both terms are not zero."""
    tensors = [term for term in (left, right) if isinstance(term, Tensor)]
    if len(tensors) < 2:
        number = right if isinstance(left, Tensor) else left
        return arithmetic.nonzero(tensors[0]) if number else 0
    return arithmetic.nonzero(torch.logical_and(left, right.to(left.device)))


def _by_binary(name: str, args: Any) -> bool:
    """Tell whether the numbers among the arguments leave zeros and ones what they are."""
    if name == "constant_pad_nd":
        return len(args) < 3 or args[2] in (0, 1)
    return name not in rules.WITH_NUMBERS or all(n in (0, 1) for n in args if isinstance(n, int | float))


def _is_zero_or_one(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and float(value) in (0, 1)


def _is_whole(tensor: Tensor) -> bool:
    """Tell whether a tensor is all that is in its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
