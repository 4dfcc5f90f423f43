"""A whole sequence through a ConvLSTM layer on the CPU in C++ (`csrc/convlstm.cpp`), forward and backward.

Backward computes the gates anew from the hidden states and cells, which are all that is kept.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels import native
from rsnn.kernels.memory import kept
from rsnn.kernels.watched import are_plain, nothing_looks, sees_no_steps

_REALS = {torch.float32: "float", torch.float64: "double"}


def supports(frames: Tensor, w_input: Tensor, w_hidden: Tensor, bias: Tensor | None) -> bool:
    """Tell whether this kernel takes these tensors: plain ones, with weights of float32 or float64 and one size.

    And with gradients, that they can be had too.
    """
    given = [x for x in (w_input, w_hidden, bias) if x is not None]
    dtypes = {x.dtype for x in given}
    C, (D, *sides) = frames.shape[2], w_hidden.shape[1:]
    fit = (
        w_input.shape == (4 * D, C, *sides)
        and w_hidden.shape == (4 * D, D, sides[0], sides[0])
        and (bias is None or bias.shape == (4 * D,))
    )
    if not (fit and len(dtypes) == 1 and w_input.dtype in _REALS and sees_no_steps(frames) and are_plain(*given)):
        return False
    real = _REALS[w_input.dtype]
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in (frames, *given))
    return native.has("convlstm", real) and (not trains or native.has("convlstm_backward", real))


def convlstm(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    pool: int = 1,
    *,
    reduced: bool = False,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `frames` (T, N, C, H, W) through the layer; see [`rsnn.kernels.convlstm`][].

    Args:
        reduced: let the convolutions round frames, hidden states and weights to bfloat16, where the processor has
            products of pairs of them; sums, gates and states stay in float32, and so does all of backward.
        places: how often each hidden state is not zero is added to it, where it is given and
            [`nothing_looks`][rsnn.kernels.watched.nothing_looks].

    Returns:
        the hidden states (T, N, D, H, W), or with `pool` their maxima in windows, and the last hidden state and cell.

    """
    tensors = (frames, w_input, w_hidden, bias, hidden, cell)
    if places is not None:
        whole, _, pooled, hidden, cell = _forward(*tensors, pool, pool == 1, False, reduced, places)
        return (whole if pool == 1 else pooled), hidden, cell
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    run = _forward if nothing_looks() else torch.ops.rsnn.convlstm
    whole, _, pooled, hidden, cell = run(*tensors, pool, keep or pool == 1, keep, reduced)
    return (whole if pool == 1 else pooled), hidden, cell


def _sizes(frames: Tensor, w_hidden: Tensor, pool: int) -> tuple[int, ...]:
    T, N, C, H, W = frames.shape
    return T, N, C, w_hidden.shape[1], H, W, w_hidden.shape[2], pool


def _run(
    function: str, source: str, sizes: tuple[int, ...], dtype: torch.dtype, tensors: tuple[Tensor | None, ...]
) -> None:
    run = getattr(native.library(source, _REALS[dtype]), function)
    if run((ctypes.c_int * len(sizes))(*sizes), torch.get_num_threads(), *map(native.pointer, tensors)):
        raise MemoryError("the ConvLSTM kernel found no memory")


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _outputs(frames: Tensor, w_hidden: Tensor, pool: int, whole: bool, keep: bool) -> tuple[Tensor, ...]:
    T, N, _, D, H, W, _, _ = _sizes(frames, w_hidden, pool)
    return (
        frames.new_empty((T, N, D, H, W) if whole else (0,)),
        frames.new_empty((T, N, D, H, W) if keep else (0,)),
        frames.new_empty((T, N, D, H // pool, W // pool) if pool > 1 else (0,)),
        frames.new_empty((N, D, H, W)),
        frames.new_empty((N, D, H, W)),
    )


def _forward(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    pool: int,
    whole: bool,
    keep: bool,
    reduced: bool,
    places: Tensor | None = None,
) -> tuple[Tensor, ...]:
    outputs = tuple(map(kept, _outputs(frames, w_hidden, pool, whole, keep)))
    inputs = [_dense(x) for x in (w_input, w_hidden, bias, frames, hidden, cell)]
    reduced = reduced and frames.dtype == torch.float32 and bool(native.library("convlstm").convlstm_has_pairs())
    function = "convlstm_forward_pairs" if reduced else "convlstm_forward"
    counts = None if places is None else places.new_zeros(places.shape, dtype=frames.dtype)  # exact below 2^24
    _run(function, "convlstm", _sizes(frames, w_hidden, pool), frames.dtype, (*inputs, *outputs, counts))
    if places is not None and counts is not None:
        places += counts.to(places.dtype)
    return outputs


def _gradients(
    frames: Tensor, w_input: Tensor, w_hidden: Tensor, d_frames: bool, N: int, D: int, H: int, W: int
) -> tuple[Tensor, ...]:
    return (
        frames.new_empty(frames.shape if d_frames else (0,)),
        w_input.new_empty(w_input.shape),
        w_hidden.new_empty(w_hidden.shape),
        w_hidden.new_empty(4 * D),
        frames.new_empty(N, D, H, W),
        frames.new_empty(N, D, H, W),
    )


def _backward(
    frames: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    all_hidden: Tensor,
    all_cells: Tensor,
    d_whole: Tensor | None,
    d_pooled: Tensor | None,
    d_hidden: Tensor | None,
    d_cell: Tensor | None,
    pool: int,
    d_frames: bool,
) -> tuple[Tensor, ...]:
    sizes = _sizes(frames, w_hidden, pool)
    outputs = tuple(map(kept, _gradients(frames, w_input, w_hidden, d_frames, sizes[1], *sizes[3:6])))
    given = (w_input, w_hidden, bias, frames, hidden, cell, all_hidden, all_cells, d_whole, d_pooled, d_hidden, d_cell)
    inputs = [_dense(x) for x in given]  # kept until the call is over
    _run("convlstm_backward", "convlstm_backward", sizes, frames.dtype, (*inputs, *outputs))
    return outputs


_library = torch.library.Library("rsnn", "FRAGMENT")
_library.define(
    "convlstm(Tensor frames, Tensor w_input, Tensor w_hidden, Tensor? bias, Tensor? hidden, Tensor? cell, int pool, "
    "bool whole, bool keep, bool reduced) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "convlstm_backward(Tensor frames, Tensor w_input, Tensor w_hidden, Tensor? bias, Tensor? hidden, Tensor? cell, "
    "Tensor all_hidden, Tensor all_cells, Tensor? d_whole, Tensor? d_pooled, Tensor? d_hidden, Tensor? d_cell, "
    "int pool, bool d_frames) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("convlstm", _forward, "CPU")
_library.impl("convlstm_backward", _backward, "CPU")


@torch.library.register_fake("rsnn::convlstm", lib=_library)  # type: ignore[untyped-decorator]
def _fake_forward(
    frames: Tensor,
    w_input: Tensor,  # noqa: ARG001
    w_hidden: Tensor,
    bias: Tensor | None,  # noqa: ARG001
    hidden: Tensor | None,  # noqa: ARG001
    cell: Tensor | None,  # noqa: ARG001
    pool: int,
    whole: bool,
    keep: bool,
    reduced: bool,  # noqa: ARG001
) -> tuple[Tensor, ...]:
    return _outputs(frames, w_hidden, pool, whole, keep)


@torch.library.register_fake("rsnn::convlstm_backward", lib=_library)  # type: ignore[untyped-decorator]
def _fake_backward(frames: Tensor, w_input: Tensor, w_hidden: Tensor, *others: Any) -> tuple[Tensor, ...]:
    sizes = _sizes(frames, w_hidden, 1)
    return _gradients(frames, w_input, w_hidden, others[-1], sizes[1], *sizes[3:6])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    frames, w_input, w_hidden, bias, hidden, cell, ctx.pool, *_ = inputs
    ctx.save_for_backward(frames, w_input, w_hidden, bias, hidden, cell, output[0], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward_of(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    d_whole, _, d_pooled, d_hidden, d_cell = gradients
    *tensors, whole, cells = ctx.saved_tensors
    results = torch.ops.rsnn.convlstm_backward(
        *tensors, whole, cells, d_whole, d_pooled, d_hidden, d_cell, ctx.pool, ctx.needs_input_grad[0]
    )
    wanted = zip(results, ctx.needs_input_grad, strict=False)
    return (*(result if needed else None for result, needed in wanted), *[None] * 4)


torch.library.register_autograd("rsnn::convlstm", _backward_of, setup_context=_setup_context, lib=_library)
torch.library.register_autograd("rsnn::convlstm_backward", native.no_second_derivatives, lib=_library)
