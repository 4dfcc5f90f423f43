"""The LIF sequence in CUDA, alone (`lif.cu`) or between a normalization and a pooling (`norm_lif.cu`), through CuPy.

Shapes: T steps, N batch, C channels, H height, W width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import gpu, lif_torch
from rsnn.kernels.layout import channels_last, steps_are_dense
from rsnn.kernels.surrogate import ATan, Exponential, Rectangle, Sigmoid, Surrogate
from rsnn.kernels.watched import nothing_looks, sees_no_steps

THREADS = 128  # of a block
# Neurons next to each other share a thread, up to 16 bytes of potential, as long as there are so many threads.
THREADS_TO_FILL = 1 << 16
# Inputs that a thread has on their way while it computes: enough of them, over all threads, to keep the memory busy.
BYTES_AHEAD = 16
POOLED_BYTES_AHEAD = 64
CHUNK = 40  # inputs of a thread whose potentials the backward pass behind a normalization computes anew at once
# Threads that leave a sum of their own for each of their channels.
MOMENTS_THREADS = 1 << 18
SUMS_THREADS = 1 << 19
LARGEST_POOL = 4

_VALUES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # INPUT in lif.cu
_SURROGATES = (ATan, Sigmoid, Rectangle, Exponential)  # SURROGATE in lif.cu


@functools.cache
def unavailable() -> str | None:
    """Return why this kernel cannot run here, or None."""
    return gpu.missing("cupy", "pip install 'rsnn[cuda]'") or gpu.failure(_self_test)


def supports(x: Tensor, tau: float | Tensor, surrogate: Surrogate) -> bool:
    """Tell whether the kernel has this neuron: one time constant for all (fixed or learned), a known surrogate."""
    known = (not isinstance(tau, Tensor) or tau.numel() == 1) and type(surrogate) in _SURROGATES
    return known and sees_no_steps(x)


def supports_norm(shape: tuple[int, ...], tau: float | Tensor, pool: int) -> bool:
    """Tell whether [`norm_lif`][rsnn.kernels.lif_cupy.norm_lif] takes a step of `shape` (N, C, H, W)."""
    return not isinstance(tau, Tensor) and pool <= LARGEST_POOL and math.prod(shape) < 1 << 30


def lif(
    x: Tensor,
    v: Tensor | None,
    *,
    tau: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[Tensor, Tensor]:
    """Run `x` (T, ...), in float, double, half or bfloat16, through LIF neurons; see [`rsnn.kernels.lif`][].

    The potential is in float32 (float64 where `x` is) whatever the type of `x`; it starts at rest where `v` is None.
    Steps of `x` may lie in memory in any dense order (channels_last, say): spikes and gradients come back in the same.
    Anything else is copied first.
    """
    if x.dtype not in _VALUES:
        x = x.float()
    if not steps_are_dense(x):
        x = x.contiguous()
    spikes, v, _ = _run(_lif, _lif_forward, _LIF)(
        x,
        v,
        tau.reshape(()).to(x.device, _state(x.dtype)) if isinstance(tau, Tensor) else None,
        1.0 if isinstance(tau, Tensor) else float(tau),
        float(v_threshold),
        float(v_reset or 0.0),
        v_reset is None,
        _SURROGATES.index(type(surrogate)),
        float(surrogate.alpha),
        float(getattr(surrogate, "scale", 1.0)),
        detach_reset,
        # The potentials before the reset are for backward alone, and as large as the input.
        torch.is_grad_enabled() and any(isinstance(y, Tensor) and y.requires_grad for y in (x, v, tau)),
    )
    return spikes, v


def norm_lif(
    x: Tensor,
    v: Tensor | None,
    norm: tuple[Tensor | None, ...],
    *,
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,
    detach_reset: bool,
    batch_statistics: bool = False,
    eps: float = 0.0,
    pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run `x` (T, N, C, H, W) through a batch normalization, LIF neurons and a maximum pooling.

    Args:
        x: in float, double, half or bfloat16; copied where it is not channels_last.
        v: potential before the first step; None for rest.
        norm: weight, bias, mean and variance (C) of the normalization, each of the first two may be None.
        batch_statistics: take mean and variance from `x` instead.
        eps: added to the variance.
        pool: side of the pooling, up to 4.
        tau, v_threshold, v_reset, surrogate, detach_reset: as in [`rsnn.kernels.lif`][].

    Returns:
        (pooled) spikes in `x`'s type, channels_last, the potential after the last step, and mean and variance (biased)
        that were used.

    """
    weight, bias, mean, variance = norm
    inputs = (channels_last(x), v, weight, bias)
    spikes, after, *moments, _ = _run(_norm_lif, _norm_forward, _NormLIF)(
        *inputs,
        None if batch_statistics else mean,
        None if batch_statistics else variance,
        float(tau),
        float(v_threshold),
        float(v_reset or 0.0),
        v_reset is None,
        _SURROGATES.index(type(surrogate)),
        float(surrogate.alpha),
        float(getattr(surrogate, "scale", 1.0)),
        detach_reset,
        float(eps),
        pool,
        # Backward starts from the potentials before some steps.
        torch.is_grad_enabled() and any(y is not None and y.requires_grad for y in inputs),
    )
    if batch_statistics:
        mean, variance = moments
    assert mean is not None
    assert variance is not None
    return spikes, after, mean, variance


def _run(operator: Any, function: Callable[..., Any], with_gradients: type[torch.autograd.Function]) -> Any:
    """Return what computes an operator: itself where something looks, else one of the faster two."""
    if nothing_looks():
        return function
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return operator
    return with_gradients.apply


def _state(dtype: torch.dtype) -> torch.dtype:
    """Return the type of the potential for inputs of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _lif_forward(
    x: Tensor,
    v: Tensor | None,
    tau: Tensor | None,
    tau_value: float,
    v_threshold: float,
    v_rest: float,
    soft: bool,
    kind: int,
    alpha: float,  # noqa: ARG001  (backward's, as the next one)
    scale: float,  # noqa: ARG001
    detach: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return spikes, the last potential, and the potentials before the reset (empty unless `keep`)."""
    spikes, end, charged = _lif_outputs(x, keep)
    start = None if v is None else _in_order_of(end, v, end.dtype)
    _launch_lif(
        "lif_forward",
        neuron_macros(x.dtype, None if tau is not None else tau_value, kind, soft, detach),
        (x, start, tau, tau_value, v_threshold, v_rest),
        (x.shape[0], end.numel()),
        (spikes, end, charged if keep else None),
    )
    return spikes, end, charged


# Operators of PyTorch's, so that torch.compile and torch.export take each as one node of their graphs.
_lif = torch.library.custom_op("rsnn::lif_cupy", mutates_args=())(_lif_forward)


@_lif.register_fake
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _lif_outputs(x, others[-1])


def _lif_outputs(x: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    state = _state(x.dtype)
    charged = torch.empty_like(x, dtype=state) if keep else x.new_empty(0, dtype=state)
    return torch.empty_like(x), torch.empty_like(x[0], dtype=state), charged


def _backward(
    spikes_grad: Tensor | None,
    v_grad: Tensor | None,
    charged: Tensor,
    dtype: torch.dtype,
    tau: Tensor | None,
    tau_value: float,
    v_threshold: float,
    v_rest: float,
    soft: bool,
    kind: int,
    alpha: float,
    scale: float,
    detach: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients by the input and by the first potential."""
    spikes_grad = None if spikes_grad is None else _in_order_of(charged, spikes_grad, dtype)
    v_grad = None if v_grad is None else _in_order_of(charged[0], v_grad, charged.dtype)
    x_grad = torch.empty_like(charged, dtype=dtype)
    start_grad = torch.empty_like(charged[0])
    _launch_lif(
        "lif_backward",
        neuron_macros(dtype, None if tau is not None else tau_value, kind, soft, detach),
        (spikes_grad, v_grad, charged, tau, tau_value, v_threshold, v_rest, alpha, scale),
        (charged.shape[0], start_grad.numel()),
        (x_grad, start_grad),
    )
    return x_grad, start_grad


_lif_backward = torch.library.custom_op("rsnn::lif_cupy_backward", mutates_args=())(_backward)


@_lif_backward.register_fake
def _(_spikes_grad: Any, _v_grad: Any, charged: Tensor, dtype: torch.dtype, *_constants: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(charged, dtype=dtype), torch.empty_like(charged[0])


def _lif_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, v, tau, *ctx.constants, _keep = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(v, tau, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _lif_gradients(ctx: Any, spikes_grad: Tensor | None, v_grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    v, tau, charged = ctx.saved_tensors
    run = _backward if nothing_looks() else _lif_backward
    x_grad, start_grad = run(spikes_grad, v_grad, charged, ctx.dtype, tau, *ctx.constants)
    tau_grad = None
    if ctx.needs_input_grad[2]:
        # dH/dtau = -(X - (V - V_rest)) / tau^2 = -(H - V) / tau, and dL/dX is dL/dH / tau.
        _, v_threshold, v_rest, soft, *_rest = ctx.constants
        fired = charged[:-1] >= v_threshold
        after = charged[:-1] - v_threshold if soft else torch.full_like(charged[:-1], v_rest)
        v = torch.full_like(charged[0], v_rest) if v is None else v
        before = torch.cat((v[None], torch.where(fired, after, charged[:-1])))
        tau_grad = -(x_grad * (charged - before)).sum()
    return x_grad, start_grad if ctx.needs_input_grad[1] else None, tau_grad, *[None] * 9


_lif.register_autograd(_lif_gradients, setup_context=_lif_setup)


class _LIF(torch.autograd.Function):
    forward = staticmethod(_lif_forward)
    setup_context = staticmethod(_lif_setup)
    backward = staticmethod(_lif_gradients)


def _norm_forward(
    x: Tensor,
    v: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    tau: float,
    v_threshold: float,
    v_rest: float,
    soft: bool,
    kind: int,
    alpha: float,  # noqa: ARG001  (backward's, as the next one)
    scale: float,  # noqa: ARG001
    detach: bool,
    eps: float,
    pool: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return spikes, the last potential, mean and variance of `x` where none is given, and potentials for backward."""
    spikes, end, used_mean, used_variance, kept = _norm_outputs(x, mean is None, pool, keep)
    macros = neuron_macros(x.dtype, tau, kind, soft, detach)
    if mean is None:
        _moments(x, macros, used_mean, used_variance)
        mean, variance = used_mean, used_variance
    norm = [_of_channels(y, end.dtype) for y in (mean, variance, weight, bias)]
    given = (x, _last(v, end.dtype), *norm, eps, tau, v_threshold, v_rest)
    _launch_norm("norm_lif_forward", x, pool, macros, given, (spikes, end, kept if keep else None))
    return spikes, end, used_mean, used_variance, kept


_norm_lif = torch.library.custom_op("rsnn::norm_lif_cupy", mutates_args=())(_norm_forward)


@_norm_lif.register_fake
def _(x: Tensor, _v: Any, _weight: Any, _bias: Any, mean: Any, *others: Any) -> tuple[Tensor, ...]:
    return _norm_outputs(x, mean is None, others[-2], others[-1])


def _norm_outputs(x: Tensor, batch: bool, pool: int, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, N, C, H, W = x.shape
    state = _state(x.dtype)

    def of_channels() -> Tensor:
        return x.new_empty(C if batch else 0, dtype=state)

    spikes = x.new_empty(T, N, H // pool, W // pool, C).permute(0, 1, 4, 2, 3)
    end = x.new_empty(N, H, W, C, dtype=state).permute(0, 3, 1, 2)
    kept = x.new_empty((T - 1) // _chunk(x, pool) if keep else 0, N, H, W, C, dtype=state)
    return spikes, end, of_channels(), of_channels(), kept


def _norm_backward(
    spikes_grad: Tensor | None,
    v_grad: Tensor | None,
    x: Tensor,
    v: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    kept: Tensor,
    tau: float,
    v_threshold: float,
    v_rest: float,
    soft: bool,
    kind: int,
    alpha: float,
    scale: float,
    detach: bool,
    eps: float,
    pool: int,
    batch: bool,
    norm_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by `x`, the first potential, weight and bias; the last two empty unless `norm_grad`."""
    state = mean.dtype
    norm = [_of_channels(y, state) for y in (mean, variance, weight, bias)]
    potentials = (_last(v, state), _last(v_grad, state), kept if len(kept) else None)
    given = (x, _last(spikes_grad, x.dtype), *potentials, *norm, eps, tau, v_threshold, v_rest, alpha, scale)
    macros = neuron_macros(x.dtype, tau, kind, soft, detach)
    x_grad, start_grad, weight_grad, bias_grad = _norm_gradients_like(x, v, state, norm_grad)
    totals = None
    if batch or norm_grad:
        threads = _grid(x.shape[2], _windows(x, pool), SUMS_THREADS)
        sums = x.new_empty(threads[1], 2, x.shape[2], dtype=state)
        _launch_norm("norm_lif_sums", x, pool, macros, given, (sums,), threads)
        totals = sums.sum(0, dtype=torch.float64)
        if norm_grad:
            torch.mul(totals[1], (variance.double() + eps).rsqrt(), out=weight_grad)
            bias_grad.copy_(totals[0])
    outputs = (totals if batch else None, x_grad, None if v is None else start_grad)
    _launch_norm("norm_lif_backward", x, pool, macros, given, outputs)
    return x_grad, start_grad, weight_grad, bias_grad


_norm_lif_backward = torch.library.custom_op("rsnn::norm_lif_cupy_backward", mutates_args=())(_norm_backward)


@_norm_lif_backward.register_fake
def _(_spikes_grad: Any, _v_grad: Any, x: Tensor, v: Tensor | None, *others: Any) -> tuple[Tensor, ...]:
    return _norm_gradients_like(x, v, others[2].dtype, others[-1])


def _norm_gradients_like(
    x: Tensor, v: Tensor | None, state: torch.dtype, norm: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, N, C, H, W = x.shape
    start = x.new_empty(0, dtype=state) if v is None else x.new_empty(N, H, W, C, dtype=state).permute(0, 3, 1, 2)
    channels = C if norm else 0
    return torch.empty_like(x), start, x.new_empty(channels, dtype=state), x.new_empty(channels, dtype=state)


def _norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, v, weight, bias, mean, variance, *ctx.constants, _keep = inputs
    _, _, used_mean, used_variance, kept = output
    ctx.batch = mean is None
    state = kept.dtype
    moments = (used_mean, used_variance) if ctx.batch else (_of_channels(y, state) for y in (mean, variance))
    ctx.save_for_backward(x, v, weight, bias, *moments, kept)
    ctx.mark_non_differentiable(used_mean, used_variance, kept)
    ctx.set_materialize_grads(False)


def _norm_gradients(ctx: Any, spikes_grad: Tensor | None, v_grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    run: Any = _norm_backward if nothing_looks() else _norm_lif_backward
    needed = ctx.needs_input_grad[:4]
    gradients = run(spikes_grad, v_grad, *ctx.saved_tensors, *ctx.constants, ctx.batch, needed[2] or needed[3])
    return *(g if wanted else None for g, wanted in zip(gradients, needed, strict=True)), *[None] * 13


_norm_lif.register_autograd(_norm_gradients, setup_context=_norm_setup)


class _NormLIF(torch.autograd.Function):
    forward = staticmethod(_norm_forward)
    setup_context = staticmethod(_norm_setup)
    backward = staticmethod(_norm_gradients)


def _moments(x: Tensor, macros: dict[str, int], mean: Tensor, variance: Tensor) -> None:
    """Write the mean and the (biased) variance of every channel of `x`."""
    C = x.shape[2]
    rows = x.numel() // C if C else 0
    if not rows:
        return
    macros = macros | {"PASS": 0, "POOL": 1, "WHOLE": 1, "CHUNK": 1, "EVEN": 1, "DEPTH": 1}
    macros["VECTOR"] = _vector(16 // x.itemsize, C, (x,))
    blocks, slots = _grid(C // macros["VECTOR"], rows, MOMENTS_THREADS)
    sums = x.new_empty(slots, 2, C, dtype=mean.dtype)
    launch("norm_lif.cu", "moments", macros, blocks, (x, rows, C, slots, sums))
    totals = sums.sum(0, dtype=torch.float64)
    arguments = (x, totals, rows, C, mean, variance)
    launch("norm_lif.cu", "moments_end", macros, -(-C // THREADS), arguments)


def _launch_norm(
    name: str,
    x: Tensor,
    pool: int,
    macros: dict[str, int],
    inputs: tuple[Tensor | float | None, ...],
    outputs: tuple[Tensor | None, ...],
    grid: tuple[int, int] | None = None,
) -> None:
    """Launch a kernel with a thread for each window and channel (or some of either), or as `grid` says."""
    if not x.numel():
        return
    T, N, C, H, W = x.shape
    windows, vector, depth, chunk = _windows(x, pool), 1, 1, _chunk(x, pool)
    forward = name == "norm_lif_forward"
    if forward:
        tensors = [y for y in (*inputs, *outputs) if isinstance(y, Tensor)]
        vector = _vector(16 // max(4, x.itemsize), C, tensors, windows)
        most = (2**31 - 1) // (2 * N * C * H * W)
        depth = _steps(max(1, min(8, most, POOLED_BYTES_AHEAD // (pool * pool * vector * x.itemsize))), T)
    macros = macros | {
        "PASS": 1 if forward else 2,
        "POOL": pool,
        "WHOLE": H % pool == 0 and W % pool == 0,
        "CHUNK": chunk,
        "EVEN": T % (depth if forward else chunk) == 0,
        "DEPTH": depth,
        "VECTOR": vector,
    }
    blocks, slots = grid or _grid(C // vector, windows)
    launch("norm_lif.cu", name, macros, blocks, (*inputs, T, N, H, W, C, slots, *outputs))


def _windows(x: Tensor, pool: int) -> int:
    return x.shape[1] * -(-x.shape[3] // pool) * -(-x.shape[4] // pool)


def _chunk(x: Tensor, pool: int) -> int:
    """Return after how many steps each forward keeps the potentials for backward."""
    most = (2**31 - 1) // max(1, x[0].numel())
    return _steps(max(1, min(CHUNK // (pool * pool), most)), x.shape[0])


def _steps(most: int, T: int) -> int:
    """Return how many steps to take at once, up to `most`: a divisor of T unless that is much less."""
    divisor = next(steps for steps in range(min(most, T), 0, -1) if T % steps == 0)
    return divisor if 2 * divisor > min(most, T) else most


def _grid(packs: int, pieces: int, threads: int | None = None) -> tuple[int, int]:
    """Return how many blocks there are, and how many of the pieces (windows, rows) have threads of their own.

    A piece has a thread for each of its `packs`. Where that were more than `threads`, pieces share them evenly.
    """
    across = min(packs, THREADS)
    rows = THREADS // across
    shared = 1 if threads is None else max(1, -(-pieces // max(1, threads // packs)))
    groups = -(-pieces // (shared * rows))
    return groups * -(-packs // across), groups * rows


def _in_order_of(like: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` with `like`'s order in memory and in `dtype`, itself where it has both."""
    if x.stride() == like.stride() and x.dtype == dtype:
        return x
    return torch.empty_like(like, dtype=dtype).copy_(x)


def _last(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return `x` (..., C, H, W) channels_last and in `dtype`, itself where it is."""
    if x is None or (x.dtype == dtype and x.movedim(-3, -1).is_contiguous()):
        return x
    return channels_last(x.to(dtype))


def _of_channels(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return `x` (C) in `dtype`, its numbers next to each other, itself where it is so."""
    return x if x is None or (x.dtype == dtype and x.is_contiguous()) else x.to(dtype).contiguous()


def neuron_macros(dtype: torch.dtype, tau: float | None, kind: int, soft: bool, detach: bool) -> dict[str, int]:
    """Return the macros that describe a neuron; `tau` is None where only the device knows it."""
    inverse = tau is not None and math.frexp(tau)[0] == 0.5
    return {
        "INPUT": _VALUES.index(dtype),
        "SURROGATE": kind,
        "SOFT": soft,
        "DETACH": detach,
        "INVERSE": inverse,
        "THREADS": THREADS,
    }


def _vector(most: int, number: int, tensors: Sequence[Tensor], pieces: int = 1 << 31) -> int:
    """Return how many of `number` neighbours share a thread, in each of `pieces`."""
    vector = most
    while vector > 1 and (
        number % vector
        or pieces * number // vector < THREADS_TO_FILL
        or any(x.data_ptr() % (vector * x.itemsize) for x in tensors)
    ):
        vector //= 2
    return vector


def _launch_lif(
    name: str,
    macros: dict[str, int],
    inputs: tuple[Tensor | float | None, ...],
    size: tuple[int, int],
    outputs: tuple[Tensor | None, ...],
) -> None:
    T, M = size
    if not M:
        return
    tensors = [x for x in (*inputs, *outputs) if isinstance(x, Tensor) and x.ndim]  # all but tau
    value = _VALUES[macros["INPUT"]].itemsize
    state = max(value, 4)
    vector = _vector(16 // state, M, tensors, 1)
    read = vector * (value if name == "lif_forward" else state + value)  # bytes a step
    macros = macros | {"VECTOR": vector, "DEPTH": max(1, min(8, BYTES_AHEAD // read))}
    launch("lif.cu", name, macros, -(-M // (vector * THREADS)), (*inputs, T, M, *outputs))


def launch(
    file: str, name: str, macros: dict[str, int], blocks: int, *launches: tuple[Tensor | float | None, ...]
) -> None:
    """Launch `blocks` of a kernel of a CUDA source, compiled with `macros`, on the device of its arguments.

    More than one tuple of arguments are launches one after the other.
    """
    options = tuple(f"-D{macro}={int(value)}" for macro, value in macros.items())
    device = next(x.device for x in launches[0] if isinstance(x, Tensor))
    pointers = (
        [x.data_ptr() if isinstance(x, Tensor) else 0 if x is None else x for x in arguments] for arguments in launches
    )
    _compiled(file, name, options)(blocks, next(pointers), device, *pointers)


@functools.cache
def source(file: str) -> str:
    """Return a CUDA source (`lif.cu`, `norm_lif.cu`, `spiking_conv.cu`, `convlstm_step.cu`), whole."""
    folder = Path(__file__).parent
    return "\n".join((folder / part).read_text(encoding="utf-8") for part in ("neuron.cuh", file))


@functools.cache
def _compiled(file: str, name: str, options: tuple[str, ...]) -> Callable[..., None]:
    """Return the launcher of a kernel: (blocks, arguments, device, *later arguments), on PyTorch's current stream."""
    import cupy

    kernel = cupy.RawKernel(source(file), name, options=("-std=c++17", *options))  # compiled at its first launch

    def launch(blocks: int, arguments: list[int | float], device: torch.device, *later: list[int | float]) -> None:
        with cupy.cuda.Device(device.index), _current_stream(cupy, device):
            for given in (arguments, *later):
                kernel((blocks,), (THREADS,), tuple(given))

    return launch


def _current_stream(cupy: Any, device: torch.device) -> Any:
    stream = torch.cuda.current_stream(device)
    if not hasattr(cupy.cuda.Stream, "from_external"):  # before CuPy 14
        return cupy.cuda.ExternalStream(stream.cuda_stream, device.index)
    return cupy.cuda.Stream.from_external(_Stream(stream.cuda_stream))


class _Stream:
    """A stream for libraries that follow the CUDA stream protocol."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def _self_test(device: str = "cuda") -> None:
    """Compare spikes, potential and gradients of a small case with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: they are not the same.

    """
    options: dict[str, Any] = {"tau": 2.0, "v_threshold": 1.0, "surrogate": ATan(), "detach_reset": True}
    for v_reset, dtype in ((0.0, torch.float32), (None, torch.float32), (0.0, torch.bfloat16)):
        ramp = torch.linspace(-1.0, 5.0, 7 * 5).reshape(5, 7).T.contiguous().to(dtype)  # 7 steps of 5 neurons
        results = []
        for run, at in ((lif_torch.lif, "cpu"), (lif, device)):
            x = ramp.detach().to(at, torch.float32 if run is lif_torch.lif else dtype).requires_grad_()
            spikes, v = run(x, torch.zeros(5, device=at), v_reset=v_reset, **options)
            (spikes.float().sum() + v.square().sum()).backward()
            assert x.grad is not None
            results.append([part.detach().cpu().float() for part in (spikes, v, x.grad)])
        _compare(results, 1e-2 if dtype == torch.bfloat16 else 1e-5)
    shape = (6, 2, 4, 5, 6)
    waves = 2 * torch.arange(math.prod(shape)).sin().reshape(shape)
    weights = torch.arange(6 * 2 * 4 * 2 * 3).cos().reshape(6, 2, 4, 2, 3)
    results = []
    for at in ("cpu", device):
        inputs = [
            y.to(at).requires_grad_() for y in (waves.clone(), torch.linspace(0.5, 2, 4), torch.linspace(-1, 1, 4))
        ]
        x, weight, bias = inputs
        if at == "cpu":
            normal = F.batch_norm(x.flatten(0, 1), None, None, weight, bias, training=True).unflatten(0, shape[:2])
            spikes, v = lif_torch.lif(normal, torch.zeros(shape[1:]), v_reset=0.0, **options)
            spikes = F.max_pool2d(spikes.flatten(0, 1), 2).unflatten(0, shape[:2])
        else:
            norm = (weight, bias, None, None)
            spikes, v, *_ = norm_lif(x, None, norm, v_reset=0.0, batch_statistics=True, eps=1e-5, pool=2, **options)
        gradients = torch.autograd.grad((spikes * weights.to(at)).sum() + v.square().sum(), inputs)
        results.append([part.detach().cpu() for part in (spikes, v, *gradients)])
    _compare(results, 1e-4)


def _compare(results: list[list[Tensor]], tolerance: float) -> None:
    for one, other in zip(*results, strict=True):
        if not torch.allclose(one, other, rtol=tolerance, atol=tolerance / 10):
            raise RuntimeError("its results are not those of the torch kernel")
