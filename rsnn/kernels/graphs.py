"""CUDA graphs: a function's kernels recorded once a shape of its inputs, then launched all at once.

With small batches a GPU waits for Python most of the time; a graph takes Python out. It is asked for, not automatic:
a graph keeps the memory of its intermediate results, and runs no hooks. In training a call is two graphs, forward and
backward, which autograd sees as one function of inputs and parameters.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rsnn.checks import is_whole
from rsnn.errors import InputError
from rsnn.kernels.selection import selected
from rsnn.kernels.watched import is_watched, sees_no_steps

Result = TypeVar("Result")

WARM_UPS = 2  # runs before a recording: what happens once only (compiling, choosing algorithms) is no part of it
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

    Weights that moved (`model.to`, new parameters), other ones that require gradients, another mode, autocast or
    choice of kernels are noticed and recorded anew; without gradients so are weights that changed in place. With
    gradients these change at every step, and a replay reads them where they are.

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
        tensors, training = _tensors(inputs), torch.is_grad_enabled()
        if training in self._failed or torch.compiler.is_compiling() or not _on_one_gpu(tensors):
            return self.function(*inputs)
        members = _members(self.function)
        if not _can_replay(self.function, members, tensors):
            return self.function(*inputs)
        device = tensors[0].device
        key = _key(members, inputs, device)
        if key is None:
            return self.function(*inputs)
        with self._lock:  # the tensors of a graph are its own: one call at a time
            graph = self.graphs.pop(key, None)
            if graph is None:
                while len(self.graphs) >= self.most:
                    self.graphs.popitem(last=False)
                try:
                    graph = (_TrainingGraph if training else _Graph)(self.function, inputs, device)
                except RuntimeError as error:
                    self._failed.add(training)
                    kind = "training calls" if training else "calls"
                    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    warnings.warn(f"graphed: not recorded, {kind} stay ordinary ones: {reason}", stacklevel=2)
            if graph is not None:
                self.graphs[key] = graph
                if not graph.waits():
                    return graph.replay(inputs)
        return self.function(*inputs)


class _Static:
    """The tensors that a recording reads, and when they may be written to again."""

    def __init__(self, inputs: tuple[Any, ...], device: torch.device) -> None:
        self.inputs = _map(lambda x: x.detach().clone().requires_grad_(x.requires_grad), inputs)
        self.device = device
        self.done: torch.cuda.Event | None = None

    def take(self, tensors: Sequence[Tensor]) -> torch.cuda.Stream:
        """Copy the inputs of a call, and return the stream that the replay is to be on."""
        stream = torch.cuda.current_stream(self.device)
        if self.done is not None:
            stream.wait_event(self.done)  # the call before may have been on another stream
        for own, given in zip(_tensors(self.inputs), tensors, strict=True):
            own.copy_(given)
        return stream


class _Graph:
    """A recorded call without gradients: the tensors that it reads and writes, and how to run it again."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> None:
        # So that any later call may write to the tensors.
        with torch.inference_mode(False), torch.no_grad(), _left_alone(function, device):
            self.static = _Static(inputs, device)
            self.run, self.outputs = _record(_without_cached_casts(function, device), self.static.inputs, device)
            _check_copied(self.outputs)

    def waits(self) -> bool:
        """Tell whether the tensors are needed as they are; never."""
        return False

    def replay(self, inputs: tuple[Any, ...]) -> Any:
        """Run the graph on `inputs` and return copies of its outputs."""
        stream = self.static.take(_tensors(inputs))
        self.run()
        outputs = _map(torch.clone, self.outputs)
        self.static.done = stream.record_event()
        return outputs


class _TrainingGraph:
    """A recorded call with gradients: forward, backward, and the tensors that they read and write."""

    def __init__(self, module: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> None:
        assert isinstance(module, nn.Module)
        self.module = module
        with torch.inference_mode(False), _left_alone(module, device), _twins(module) as parameters:
            self.static = _Static(inputs, device)
            self.sources = (*_tensors(self.static.inputs), *parameters)
            buffers = [(x, x._version) for x in module.buffers() if not x.is_inference()]
            wanted = [x for x in self.sources if x.requires_grad]
            run = _without_cached_casts(module, device)

            def call() -> Any:
                outputs = run(*self.static.inputs)
                _check_copied(outputs)
                _check_reached(_tensors(outputs), wanted)
                return outputs

            recorded = _record_training(call, wanted, device)
            self.forward, self.backward, self.outputs, self.output_grads, self.gradients = recorded
            self.written = [x for x, version in buffers if x._version != version]
        self.last: weakref.ref[_Call] | None = None

    def waits(self) -> bool:
        """Tell whether a call's backward is still to come, and will read what its forward left."""
        last = None if self.last is None else self.last()
        return last is not None and not last.over

    def replay(self, inputs: tuple[Any, ...]) -> Any:
        """Run forward on `inputs` and return copies of its outputs, whose gradient function runs backward."""
        results = iter(_Replay.apply(self, *_tensors(inputs), *self.module.parameters()))
        return _map(lambda _: next(results), self.outputs)

    def run_forward(self, call: _Call, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run forward for a call and return copies of its outputs."""
        own = len(_tensors(self.static.inputs))
        stream = self.static.take(tensors[:own])
        self.forward()
        if self.written:
            torch.autograd.graph.increment_version(self.written)  # as the single operations do
        outputs = tuple(x.clone() for x in _tensors(self.outputs))
        self.static.done = stream.record_event()
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
        self.static.done = torch.cuda.current_stream(self.static.device).record_event()
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


def _record(
    function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device
) -> tuple[Callable[[], None], Any]:
    """Return a way to run `function(*inputs)` again on what the tensors then hold, and its outputs, always the same."""
    with torch.cuda.device(device):
        with _warming_up(device):
            for _ in range(WARM_UPS):
                function(*inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads (of a data loader, say) may go on using the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = function(*inputs)
    return graph.replay, outputs


_Recorded = tuple[Callable[[], None], Callable[[], None], Any, list[Tensor | None], list[Tensor | None]]


def _record_training(call: Callable[[], Any], wanted: list[Tensor], device: torch.device) -> _Recorded:
    """Return ways to run `call` and its backward again, and what these read and write, always the same tensors.

    Returns:
        forward and backward, the outputs of `call`, the gradients by them that backward starts from (None for what has
        none), and the gradients by `wanted` that it writes (None for what the outputs do not depend on).

    """
    with torch.cuda.device(device):
        with _warming_up(device) as stream:
            for _ in range(WARM_UPS):
                outputs = _tensors(call())
                _back(outputs, [_like_gradient(x) for x in outputs], wanted)
                del outputs
        # Both on one stream and from one pool: backward reads there what forward has left.
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, stream=stream, capture_error_mode="thread_local"):
            results = call()
        outputs = _tensors(results)
        output_grads = [_like_gradient(x) for x in outputs]
        with torch.cuda.graph(backward, pool=forward.pool(), stream=stream, capture_error_mode="thread_local"):
            gradients = _back(outputs, output_grads, wanted)
    return forward.replay, backward.replay, _map(Tensor.detach, results), output_grads, gradients


@contextlib.contextmanager
def _warming_up(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Give a stream beside the current one, on which a recording may be tried."""
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield stream
    current.wait_stream(stream)


def _like_gradient(output: Tensor) -> Tensor | None:
    return torch.zeros_like(output) if output.requires_grad else None


def _back(outputs: list[Tensor], output_grads: list[Tensor | None], wanted: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients by `wanted`, None for what the outputs do not depend on."""
    given = [x for x in output_grads if x is not None]
    roots = [x for x in outputs if x.requires_grad]
    with torch.autocast(roots[0].device.type, enabled=False):  # as where `backward` is usually called
        return list(torch.autograd.grad(roots, wanted, given, allow_unused=True))


_COPIED = (Tensor, bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def _check_copied(outputs: Any) -> None:
    """Raise RuntimeError where a result may hold tensors that would be the graph's own."""
    for leaf in _leaves(outputs):
        if leaf is not None and not isinstance(leaf, _COPIED):
            raise RuntimeError(f"it returns a {type(leaf).__name__}; expected tensors, in tuples, lists or dicts")


def _check_reached(outputs: list[Tensor], wanted: list[Tensor]) -> None:
    """Raise RuntimeError unless gradients go from the outputs to some of `wanted`, and to nothing else."""
    nodes: list[Any] = [torch.autograd.graph.get_gradient_edge(x).node for x in outputs if x.requires_grad]
    if not nodes:
        raise RuntimeError("nothing that it returns has a gradient")
    known, seen = {id(x) for x in wanted}, set(nodes)
    while nodes:
        node = nodes.pop()
        if id(getattr(node, "variable", wanted[0])) not in known:
            raise RuntimeError("its gradients reach a tensor that is neither an input nor a parameter of it")
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        nodes += following


def _without_cached_casts(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Return `function` so that autocast casts weights at every call: a cast from before is no part of a recording."""
    kind = device.type
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def run(*inputs: Any) -> Any:
        torch.clear_autocast_cache()
        with torch.autocast(kind, dtype, enabled, cache_enabled=False):
            outputs = function(*inputs)
        torch.clear_autocast_cache()  # what a context within the function has left
        return outputs

    return run


@contextlib.contextmanager
def _left_alone(function: Callable[..., Any], device: torch.device) -> Iterator[None]:
    """Bring the buffers of a module and the random state back to what they were, whatever is computed meanwhile.

    Raises:
        RuntimeError: a buffer is another tensor than before.

    """
    modules = function.modules() if isinstance(function, nn.Module) else ()
    kept = [(m._buffers, name, x, x.clone()) for m in modules for name, x in m._buffers.items() if x is not None]
    replaced = None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for buffers, name, x, before in kept:
                if buffers.get(name) is not x:
                    replaced, buffers[name] = name, x
                with torch.inference_mode(x.is_inference()):
                    x.data.copy_(before)  # past its count of changes: it is what it was
    if replaced is not None:
        raise RuntimeError(f"it puts another tensor in the place of its buffer {replaced!r}")


@contextlib.contextmanager
def _twins(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Give a module other parameters, in the memory of its own ones, for the time of a recording.

    What autograd may still hold of its own ones, from calls before, would bind the recording to those calls' streams.

    Raises:
        RuntimeError: the module moved its parameters.

    """
    twins = {id(x): nn.Parameter(x.detach(), x.requires_grad) for x in module.parameters()}
    places = [(m, name, x) for m in module.modules() for name, x in m._parameters.items() if x is not None]
    moved = False
    try:
        for owner, name, x in places:
            setattr(owner, name, twins[id(x)])
        yield list(twins.values())
    finally:
        for owner, name, x in places:
            moved |= twins[id(x)].data_ptr() != x.data_ptr()
            setattr(owner, name, x)
    if moved:
        raise RuntimeError("it moves its parameters")


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
    if not all(map(sees_no_steps, tensors)):
        return False
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


def _key(members: _Members, inputs: tuple[Any, ...], device: torch.device) -> object:
    """Return all that a recording depends on, None where an argument cannot be compared."""
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    kernels = (selected(device, "lif"), selected(device, "convlstm"))
    shape = _shape(inputs), autocast, kernels
    try:
        hash(shape)
    except TypeError:  # an array, a set
        return None
    if not torch.is_grad_enabled():
        # Where the weights lie, and how often each was written to.
        weights = [(x.data_ptr(), x.dtype, 0 if x.is_inference() else x._version) for y in members[1:] for x in y]
        return shape, tuple(weights)
    modes = [module.training for module in members.modules]
    needed = [x.requires_grad for x in (*_tensors(inputs), *members.parameters)]
    places = [(x.data_ptr(), x.dtype) for tensors in members[1:] for x in tensors]
    return shape, tuple(places), tuple(modes), tuple(needed)


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _shape(item)) for name, item in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_shape, value))
    return type(value), value  # 1, 1.0 and True are equal


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return the same structure with every tensor replaced by `function` of it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        mapped = copy(value)  # of its own kind
        for name, item in value.items():
            mapped[name] = _map(function, item)
        return mapped
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_map(function, item) for item in value)
    return value
