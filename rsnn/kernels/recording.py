"""How a call is recorded as CUDA graphs: tried first, beside what the device does, and leaving everything as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rsnn.kernels.nested import leaves, mapped, tensors_in

WARM_UPS = 2  # runs before a recording: what happens once only (compiling, choosing algorithms) is no part of it


def record(
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


Recorded = tuple[Callable[[], None], Callable[[], None], Any, list[Tensor | None], list[Tensor | None]]


def record_training(call: Callable[[], Any], wanted: list[Tensor], device: torch.device) -> Recorded:
    """Return ways to run `call` and its backward again, and what these read and write, always the same tensors.

    Returns:
        forward and backward, the outputs of `call`, the gradients by them that backward starts from (None for what has
        none), and the gradients by `wanted` that it writes (None for what the outputs do not depend on).

    """
    with torch.cuda.device(device):
        with _warming_up(device) as stream:
            for _ in range(WARM_UPS):
                outputs = tensors_in(call())
                _back(outputs, [_like_gradient(x) for x in outputs], wanted)
                del outputs
        # Both on one stream and from one pool: backward reads there what forward has left.
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, stream=stream, capture_error_mode="thread_local"):
            results = call()
        outputs = tensors_in(results)
        output_grads = [_like_gradient(x) for x in outputs]
        with torch.cuda.graph(backward, pool=forward.pool(), stream=stream, capture_error_mode="thread_local"):
            gradients = _back(outputs, output_grads, wanted)
    return forward.replay, backward.replay, mapped(Tensor.detach, results), output_grads, gradients


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


def check_copied(outputs: Any) -> None:
    """Raise RuntimeError where a result may hold tensors that would be the graph's own."""
    for leaf in leaves(outputs):
        if leaf is not None and not isinstance(leaf, _COPIED):
            raise RuntimeError(f"it returns a {type(leaf).__name__}; expected tensors, in tuples, lists or dicts")


def check_reached(outputs: list[Tensor], wanted: list[Tensor]) -> None:
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


def without_cached_casts(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
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
def left_alone(function: Callable[..., Any], device: torch.device) -> Iterator[None]:
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
def twins(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Give a module other parameters, in the memory of its own ones, for the time of a recording.

    What autograd may still hold of its own ones, from calls before, would bind the recording to those calls' streams.

    Raises:
        RuntimeError: the module moved its parameters.

    """
    others = {id(x): nn.Parameter(x.detach(), x.requires_grad) for x in module.parameters()}
    places = [(m, name, x) for m in module.modules() for name, x in m._parameters.items() if x is not None]
    moved = False
    try:
        for owner, name, x in places:
            setattr(owner, name, others[id(x)])
        yield list(others.values())
    finally:
        for owner, name, x in places:
            moved |= others[id(x)].data_ptr() != x.data_ptr()
            setattr(owner, name, x)
    if moved:
        raise RuntimeError("it moves its parameters")
