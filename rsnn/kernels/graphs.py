"""CUDA graphs: a function's kernels recorded once a shape of its inputs, then launched all at once.

With small batches a GPU waits for Python most of the time; a graph takes Python out. It is asked for, not automatic:
a graph keeps the memory of its intermediate results, and runs no hooks. In training a call is two graphs, forward and
backward, which autograd sees as one function of inputs and parameters.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rsnn.checks import is_whole
from rsnn.errors import InputError
from rsnn.kernels import gpu
from rsnn.kernels.nested import mapped, tensors_in
from rsnn.kernels.recording import (
    check_copied,
    check_reached,
    left_alone,
    record,
    record_training,
    twins,
    without_cached_casts,
)
from rsnn.kernels.selection import selected
from rsnn.kernels.watched import is_watched, sees_no_steps

Result = TypeVar("Result")

# Modules that talk to other processes, each in its own time.
_DISTRIBUTED = (nn.parallel.DistributedDataParallel, nn.DataParallel, nn.SyncBatchNorm)


def graphed(function: Callable[..., Result], *, most: int = 4) -> Graphed[Result]:
    """Return `function`, a model say, so that calls of it on a GPU are replays of CUDA graphs.

        fast = rsnn.kernels.graphed(model.cuda())
        loss = F.cross_entropy(fast(frames), labels)  # the first call of a shape records, the next ones replay
        loss.backward()                               # a replay as well
        optimizer.step()
        with torch.no_grad():
            model.eval()
            logits = fast(frames)                     # recorded for itself

    Results, gradients, buffers (the running statistics of a normalization) and random numbers (of dropout) are those
    of the function itself, in tensors of their own. Every call that cannot be a replay is an ordinary one: on the CPU,
    of a model with hooks, within torch.compile or another recording, without gradients in training mode, and with
    gradients

    - of a function that is no module, or whose gradients reach tensors besides its inputs and parameters;
    - of a model that trains on several GPUs (`DistributedDataParallel`, `SyncBatchNorm`);
    - while an earlier call of the same shape waits for its backward.

    Weights that moved (`model.to`, new parameters), other ones that require gradients, another mode, autocast,
    precision of products or choice of kernels are noticed and recorded anew; without gradients so are weights that
    changed in place. With gradients these change at every step, and a replay reads them where they are.

    What the function does besides computing on its device (printing, counting calls, drawing numbers on the CPU)
    happens while it is recorded only. Arguments other than tensors, and tuples, lists and dicts of them, count as part
    of the shape; with one that cannot be compared a call is an ordinary one, and with a result of another kind all
    are. Backward goes through a replay once, and has no second derivative; a result that the loss leaves out has a
    gradient of zeros.

    A graph keeps its memory until it goes (`graphs.clear()`): with gradients, that of all activations of a call, for
    each shape.

    Args:
        function: what to call; of a module, its parameters, buffers, mode and hooks are watched.
        most: graphs kept, one for each shape; beyond that the one unused for longest goes.

    Raises:
        InputError: `most` is not a positive whole number, or `function` no function.

    """
    return Graphed(function, most)


class Graphed(Generic[Result]):
    """A function whose calls are replays of CUDA graphs where they can be; made by [`graphed`][rsnn.kernels.graphed].

    Attributes:
        function: what was given.
        graphs: the recorded graphs by what they were recorded for, the one used last at the end.

    """

    def __init__(self, function: Callable[..., Result], most: int) -> None:
        if not callable(function):
            raise InputError(f"graphed() got a {type(function).__name__}; expected a model or another function")
        if not is_whole(most) or most < 1:
            raise InputError(f"most={most!r}: expected a positive whole number, of graphs to keep")
        self.function = function
        self.most = most
        self.graphs: OrderedDict[object, _Graph | _TrainingGraph] = OrderedDict()
        self._lock = threading.Lock()
        self._failed: set[bool] = set()  # with gradients (True), without

    def __call__(self, *inputs: Any) -> Result:
        """Return `function(*inputs)`."""
        tensors, training = tensors_in(inputs), torch.is_grad_enabled()
        if training in self._failed or torch.compiler.is_compiling() or not _on_one_gpu(tensors):
            return self.function(*inputs)
        if not all(map(sees_no_steps, tensors)):
            return self.function(*inputs)
        called = _called(inputs, tensors[0].device)
        with self._lock:  # the tensors of a graph are its own: one call at a time
            likely = None if training else self._begin(called, tensors)
            graph = self._graph_of(inputs, called, tensors)
            if isinstance(graph, _Graph):
                return graph.replay(None if graph is likely else tensors)
            if graph is not None and not graph.waits():
                return graph.replay(inputs)
        return self.function(*inputs)

    def _begin(self, called: object, tensors: list[Tensor]) -> _Graph | None:
        """Return the graph that is likely of this call, whose inputs are on their way while the rest is compared."""
        for graph in reversed(self.graphs.values()):
            if isinstance(graph, _Graph) and graph.called == called:
                graph.static.take(tensors)
                return graph
        return None

    def _graph_of(
        self, inputs: tuple[Any, ...], called: object, tensors: list[Tensor]
    ) -> _Graph | _TrainingGraph | None:
        """Return the graph of a call, recorded if there is none yet; None where the call has to be an ordinary one."""
        members = _members(self.function)
        if not _can_replay(self.function, members, tensors):
            return None
        device, training = tensors[0].device, torch.is_grad_enabled()
        key = _key(members, called, tensors, device)
        if key is None:
            return None
        graph = self.graphs.pop(key, None)
        if graph is None:
            while len(self.graphs) >= self.most:
                self.graphs.popitem(last=False)
            try:
                graph = (
                    _TrainingGraph(self.function, inputs, device) if training else _Graph(self.function, inputs, device)
                )
            except RuntimeError as error:
                self._failed.add(training)
                kind = "training calls" if training else "calls"
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                warnings.warn(f"graphed: not recorded, {kind} stay ordinary ones: {reason}", stacklevel=3)
                return None
        self.graphs[key] = graph
        return graph


class _Static:
    """The tensors that a recording reads, and when they may be written to again.

    `write` writes a call's tensor into one of them.
    """

    def __init__(
        self, inputs: tuple[Any, ...], device: torch.device, write: Callable[[Tensor, Tensor], object] = Tensor.copy_
    ) -> None:
        self.inputs = mapped(lambda x: x.detach().clone().requires_grad_(x.requires_grad), inputs)
        self.own = tensors_in(self.inputs)
        self.device = device
        self.write = write
        self.stream: torch.cuda.Stream | None = None  # of the call before
        self.done: torch.cuda.Event | None = None  # there

    def take(self, tensors: Sequence[Tensor]) -> None:
        """Copy the inputs of a call, after what calls on other streams have launched."""
        stream = torch.cuda.current_stream(self.device)
        if self.stream is not None and self.stream != stream:
            if self.done is None:
                stream.wait_stream(self.stream)
            else:
                stream.wait_event(self.done)
        self.stream, self.done = stream, None
        for own, given in zip(self.own, tensors, strict=True):
            self.write(own, given)

    def release(self) -> None:
        """Let other streams write to the tensors once what was launched so far is done."""
        self.stream = torch.cuda.current_stream(self.device)
        self.done = self.stream.record_event()


class _Graph:
    """A recorded call without gradients: the tensors that it reads and writes, and how to run it again."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> None:
        self.called = _called(inputs, device)
        # So that any later call may write to the tensors.
        with torch.inference_mode(False), torch.no_grad(), left_alone(function, device):
            self.static, function = _entered(function, inputs, device)
            self.run, self.outputs = record(without_cached_casts(function, device), self.static.inputs, device)
            check_copied(self.outputs)

    def replay(self, tensors: Sequence[Tensor] | None) -> Any:
        """Run the graph on `tensors`, None if it has them already, and return copies of its outputs."""
        if tensors is not None:
            self.static.take(tensors)
        self.run()
        outputs = mapped(torch.clone, self.outputs)
        self.static.release()
        return outputs


def _entered(
    function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device
) -> tuple[_Static, Callable[..., Any]]:
    """Return what a recording is to read, and what to record.

    A module may have the first thing that it does done while its input is copied: one pass over it less.
    """
    halves = getattr(function, "split_forward", lambda: None)()
    if halves is not None and len(inputs) == 1 and isinstance(inputs[0], Tensor):
        (given,), (first, rest) = inputs, halves
        entered = first(given)
        if (entered.shape, entered.dtype) == (given.shape, given.dtype):
            return _Static((entered,), device, lambda own, given: first(given, out=own)), rest
    return _Static(inputs, device), function


class _TrainingGraph:
    """A recorded call with gradients: forward, backward, and the tensors that they read and write."""

    def __init__(self, module: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> None:
        assert isinstance(module, nn.Module)
        self.module = module
        with torch.inference_mode(False), left_alone(module, device), twins(module) as parameters:
            self.static = _Static(inputs, device)
            self.sources = (*tensors_in(self.static.inputs), *parameters)
            buffers = [(x, x._version) for x in module.buffers() if not x.is_inference()]
            wanted = [x for x in self.sources if x.requires_grad]
            run = without_cached_casts(module, device)

            def call() -> Any:
                outputs = run(*self.static.inputs)
                check_copied(outputs)
                check_reached(tensors_in(outputs), wanted)
                return outputs

            recorded = record_training(call, wanted, device)
            self.forward, self.backward, self.outputs, self.output_grads, self.gradients = recorded
            self.written = [x for x, version in buffers if x._version != version]
        self.last: weakref.ref[_Call] | None = None

    def waits(self) -> bool:
        """Tell whether a call's backward is still to come, and will read what its forward left."""
        last = None if self.last is None else self.last()
        return last is not None and not last.over

    def replay(self, inputs: tuple[Any, ...]) -> Any:
        """Run forward on `inputs` and return copies of its outputs; their gradients run backward."""
        results = iter(_Replay.apply(self, *tensors_in(inputs), *self.module.parameters()))
        return mapped(lambda _: next(results), self.outputs)

    def run_forward(self, call: _Call, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run forward for a call and return copies of its outputs."""
        self.static.take(tensors[: len(self.static.own)])
        self.forward()
        if self.written:
            torch.autograd.graph.increment_version(self.written)  # as the single operations do
        outputs = tuple(x.clone() for x in tensors_in(self.outputs))
        self.static.release()
        self.last = weakref.ref(call)
        return outputs

    def run_backward(self, call: _Call, output_grads: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
        """Run backward for a call and return copies of the gradients by inputs and parameters."""
        if call.over:
            raise RuntimeError(
                "backward goes through a call of a graphed function once: its activations are gone. Call the function "
                "itself where it is to go through it again"
            )
        call.over = True
        for own, given in zip(self.output_grads, output_grads, strict=True):
            if own is not None:
                own.zero_() if given is None else own.copy_(given)
        self.backward()
        # Copies, for a gradient becomes a parameter's `grad`, which the next backward is to add to, not to write to.
        found = [x for x in self.gradients if x is not None]
        copies = iter(torch._foreach_mul(found, 1) if found else ())
        self.static.release()
        gradients = iter([None if x is None else next(copies) for x in self.gradients])
        return (next(gradients) if x.requires_grad else None for x in self.sources)


class _Call:
    """A replay of a forward graph, alive as long as autograd may ask for its backward."""

    over = False


class _Replay(torch.autograd.Function):
    """Forward and backward of a recorded call, for autograd."""

    @staticmethod
    def forward(ctx: Any, graph: _TrainingGraph, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.graph, ctx.call = graph, _Call()
        ctx.set_materialize_grads(False)
        outputs = graph.run_forward(ctx.call, tensors)
        constants = (x for x, grad in zip(outputs, graph.output_grads, strict=True) if grad is None)
        ctx.mark_non_differentiable(*constants)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *ctx.graph.run_backward(ctx.call, gradients)


class _Members(NamedTuple):
    """What a module consists of, each once; nothing where a function is none."""

    modules: list[nn.Module]
    parameters: list[nn.Parameter]
    buffers: list[Tensor]


def _members(function: Callable[..., Any]) -> _Members:
    """Return the members of a function; `parameters()` and the like go by names, and take several times as long."""
    waiting = [function] if isinstance(function, nn.Module) else []
    modules: dict[int, nn.Module] = {}
    while waiting:
        module = waiting.pop()
        if id(module) not in modules:
            modules[id(module)] = module
            waiting += [child for child in module._modules.values() if child is not None]
    parameters = {id(x): x for m in modules.values() for x in m._parameters.values() if x is not None}
    buffers = {id(x): x for m in modules.values() for x in m._buffers.values() if x is not None}
    return _Members(list(modules.values()), list(parameters.values()), list(buffers.values()))


def _can_replay(function: Callable[..., Any], members: _Members, tensors: list[Tensor]) -> bool:
    """Tell whether a call with these tensors, on one GPU, can be a replay."""
    training = torch.is_grad_enabled()
    if not isinstance(function, nn.Module):
        return not training
    if is_watched(*members.modules):
        return False
    if not training:
        return not any(module.training for module in members.modules)
    return (
        any(x.requires_grad for x in (*tensors, *members.parameters))
        and not any(isinstance(module, _DISTRIBUTED) for module in members.modules)
        and all(type(x) is nn.Parameter for x in members.parameters)
        and _on_one_gpu([*tensors, *members.parameters])
    )


def _on_one_gpu(tensors: list[Tensor]) -> bool:
    if len({x.device for x in tensors}) != 1 or not tensors[0].is_cuda:
        return False
    return not torch.cuda.is_current_stream_capturing()


def _called(inputs: tuple[Any, ...], device: torch.device) -> object:
    """Return what is known of a recording before anything takes time."""
    kind = device.type
    return _shape(inputs), torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _key(members: _Members, called: object, tensors: list[Tensor], device: torch.device) -> object:
    """Return all that a recording depends on, None where an argument cannot be compared."""
    kernels = (selected(device, "lif"), selected(device, "convlstm"))
    called = called, kernels, gpu.tf32_is_allowed(), torch.backends.cuda.matmul.fp32_precision
    try:
        hash(called)
    except TypeError:  # an array, a set
        return None
    if not torch.is_grad_enabled():
        # Where the weights lie, and how often each was written to.
        weights = [(x.data_ptr(), x.dtype, 0 if x.is_inference() else x._version) for y in members[1:] for x in y]
        return called, tuple(weights)
    modes = [module.training for module in members.modules]
    needed = [x.requires_grad for x in (*tensors, *members.parameters)]
    places = [(x.data_ptr(), x.dtype) for tensors in members[1:] for x in tensors]
    return called, tuple(places), tuple(modes), tuple(needed)


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _shape(item)) for name, item in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_shape, value))
    return type(value), value  # 1, 1.0 and True are equal
