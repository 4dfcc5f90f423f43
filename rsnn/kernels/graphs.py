"""CUDA graphs for inference: a function's kernels recorded once a shape of its inputs, then launched all at once.

With small batches a GPU waits for Python most of the time; a graph takes Python out. It is asked for, not automatic:
a graph keeps the memory of its intermediate results, and runs no hooks.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from rsnn.errors import InputError
from rsnn.kernels.selection import selected

Result = TypeVar("Result")


def graphed(function: Callable[..., Result], *, most: int = 4) -> Graphed[Result]:
    """Return `function`, a model say, so that calls of it without gradients on a GPU are replays of a CUDA graph.

        fast = rsnn.kernels.graphed(model.eval().cuda())
        with torch.no_grad():
            logits = fast(frames)     # the first call of a shape records, the next ones replay

    Results are the function's, in tensors of their own. Every call that cannot be a replay is an ordinary one: on the
    CPU, with gradients enabled, of a model in training mode or with hooks, within torch.compile or another recording.
    New weights, in place or not, another autocast or another choice of kernels are noticed and recorded anew.

    What the function does besides computing on its device (printing, counting calls, drawing numbers on the CPU)
    happens while it is recorded only. Arguments other than tensors, and tuples, lists and dicts of them, count as part
    of the shape.

    Args:
        function: what to call; of a module, its parameters, mode and hooks are watched.
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
        if not isinstance(most, int) or most < 1:
            raise InputError(f"most={most!r}: expected a positive whole number, of graphs to keep")
        self.function = function
        self.most = most
        self.graphs: OrderedDict[object, _Graph] = OrderedDict()
        self._lock = threading.Lock()
        self._failed = False

    def __call__(self, *inputs: Any) -> Result:
        """Return `function(*inputs)`."""
        tensors = [leaf for leaf in _leaves(inputs) if isinstance(leaf, Tensor)]
        if self._failed or not _can_replay(self.function, tensors):
            return self.function(*inputs)
        key = _key(self.function, inputs, tensors[0].device)
        with self._lock:  # the tensors of a graph are its own: one call at a time
            graph = self.graphs.pop(key, None)
            if graph is None:
                while len(self.graphs) >= self.most:
                    self.graphs.popitem(last=False)
                try:
                    graph = _Graph(self.function, inputs, tensors[0].device)
                except RuntimeError as error:
                    self._failed = True
                    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    warnings.warn(f"graphed: not recorded, calls stay ordinary ones: {reason}", stacklevel=2)
            if graph is not None:
                self.graphs[key] = graph
                return graph.replay(inputs)
        return self.function(*inputs)


class _Graph:
    """A recorded call: the tensors that it reads and writes, and how to run it again."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> None:
        with torch.inference_mode(False), torch.no_grad():  # so that any later call may write to the tensors
            self.inputs = _map(torch.clone, inputs)
            self.run, self.outputs = _record(function, self.inputs, device)
        self.device = device
        self.done: torch.cuda.Event | None = None

    def replay(self, inputs: tuple[Any, ...]) -> Any:
        """Run the graph on `inputs` and return copies of its outputs."""
        stream = torch.cuda.current_stream(self.device)
        if self.done is not None:
            stream.wait_event(self.done)  # the call before may have been on another stream
        for own, given in zip(_leaves(self.inputs), _leaves(inputs), strict=True):
            if isinstance(own, Tensor):
                own.copy_(given)
        self.run()
        outputs = _map(torch.clone, self.outputs)
        self.done = stream.record_event()
        return outputs


def _record(
    function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device
) -> tuple[Callable[[], None], Any]:
    """Return a way to run `function(*inputs)` again on what the tensors then hold, and its outputs, always the same."""
    with torch.cuda.device(device):
        # What happens once only (compiling, choosing algorithms, allocating workspaces) is no part of the recording.
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(2):
                function(*inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads (of a data loader, say) may go on using the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = function(*inputs)
    return graph.replay, outputs


def _can_replay(function: Callable[..., Any], tensors: list[Tensor]) -> bool:
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not _on_one_gpu(tensors):
        return False
    if not isinstance(function, nn.Module):
        return True
    return not any(
        module.training or module._forward_hooks or module._forward_pre_hooks for module in function.modules()
    ) and not (nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks)


def _on_one_gpu(tensors: list[Tensor]) -> bool:
    if len({x.device for x in tensors}) != 1 or not tensors[0].is_cuda:
        return False
    return not torch.cuda.is_current_stream_capturing()


def _key(function: Callable[..., Any], inputs: tuple[Any, ...], device: torch.device) -> object:
    """Return all that a recording depends on."""
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    kernels = (selected(device, "lif"), selected(device, "convlstm"))
    return _shape(inputs), autocast, kernels, _weights(function) if isinstance(function, nn.Module) else ()


def _weights(module: nn.Module) -> tuple[object, ...]:
    """Return where the parameters and buffers lie and how often each was written to."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple((x.data_ptr(), x.dtype, 0 if x.is_inference() else x._version) for x in tensors)


def _shape(value: Any) -> object:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _shape(item)) for name, item in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_shape, value))
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return the same structure with every tensor replaced by `function` of it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: _map(function, item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(function, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_map(function, item) for item in value)
    return value
