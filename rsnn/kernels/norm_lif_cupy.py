"""The LIF sequence between a normalization and a pooling in CUDA (`norm_lif.cu`), through CuPy.

Shapes: T steps, N batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu, lif_torch
from rsnn.kernels.layout import channels_last
from rsnn.kernels.surrogate import ATan, Surrogate
from rsnn.kernels.watched import nothing_looks, shortest_way

# Inputs that a thread has on their way while it computes: enough of them, over all threads, to keep the memory busy.
POOLED_BYTES_AHEAD = 64
CHUNK = 40  # inputs of a thread whose potentials the backward pass computes anew at once
# Threads that leave a sum of their own for each of their channels.
MOMENTS_THREADS = 1 << 18
SUMS_THREADS = 1 << 19
LARGEST_POOL = 4


def supports_norm(shape: tuple[int, ...], tau: float | Tensor, pool: int) -> bool:
    """Tell whether [`norm_lif`][rsnn.kernels.norm_lif_cupy.norm_lif] takes a step of `shape` (N, C, H, W)."""
    return not isinstance(tau, Tensor) and pool <= LARGEST_POOL and math.prod(shape) < 1 << 30


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
    spikes, after, *moments, _ = shortest_way(_norm_lif, _norm_forward, _NormLIF)(
        *inputs,
        None if batch_statistics else mean,
        None if batch_statistics else variance,
        float(tau),
        float(v_threshold),
        float(v_reset or 0.0),
        v_reset is None,
        cuda.SURROGATES[type(surrogate)],
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
    macros = cuda.neuron_macros(x.dtype, tau, kind, soft, detach)
    if mean is None:
        _moments(x, macros, used_mean, used_variance)
        mean, variance = used_mean, used_variance
    norm = [_of_channels(y, end.dtype) for y in (mean, variance, weight, bias)]
    given = (x, _last(v, end.dtype), *norm, eps, tau, v_threshold, v_rest)
    _launch_norm("norm_lif_forward", x, pool, macros, given, (spikes, end, kept if keep else None))
    return spikes, end, used_mean, used_variance, kept


# Operators of PyTorch's, so that torch.compile and torch.export take each as one node of their graphs.
_norm_lif = torch.library.custom_op("rsnn::norm_lif_cupy", mutates_args=())(_norm_forward)


@_norm_lif.register_fake
def _(x: Tensor, _v: Any, _weight: Any, _bias: Any, mean: Any, *others: Any) -> tuple[Tensor, ...]:
    return _norm_outputs(x, mean is None, others[-2], others[-1])


def _norm_outputs(x: Tensor, batch: bool, pool: int, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, N, C, H, W = x.shape
    state = cuda.state_type(x.dtype)

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
    macros = cuda.neuron_macros(x.dtype, tau, kind, soft, detach)
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
    macros["VECTOR"] = cuda.vector_length(16 // x.itemsize, C, (x,))
    blocks, slots = _grid(C // macros["VECTOR"], rows, MOMENTS_THREADS)
    sums = x.new_empty(slots, 2, C, dtype=mean.dtype)
    cuda.launch("norm_lif.cu", "moments", macros, blocks, (x, rows, C, slots, sums))
    totals = sums.sum(0, dtype=torch.float64)
    arguments = (x, totals, rows, C, mean, variance)
    cuda.launch("norm_lif.cu", "moments_end", macros, -(-C // cuda.THREADS), arguments)


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
        vector = cuda.vector_length(16 // max(4, x.itemsize), C, tensors, windows)
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
    cuda.launch("norm_lif.cu", name, macros, blocks, (*inputs, T, N, H, W, C, slots, *outputs))


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
    across = min(packs, cuda.THREADS)
    rows = cuda.THREADS // across
    shared = 1 if threads is None else max(1, -(-pieces // max(1, threads // packs)))
    groups = -(-pieces // (shared * rows))
    return groups * -(-packs // across), groups * rows


def _last(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return `x` (..., C, H, W) channels_last and in `dtype`, itself where it is."""
    if x is None or (x.dtype == dtype and x.movedim(-3, -1).is_contiguous()):
        return x
    return channels_last(x.to(dtype))


def _of_channels(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return `x` (C) in `dtype`, its numbers next to each other, itself where it is so."""
    return x if x is None or (x.dtype == dtype and x.is_contiguous()) else x.to(dtype).contiguous()


def self_test(device: str = "cuda") -> None:
    """Compare spikes, potential and gradients of a small case with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: they are not the same.

    """
    options: dict[str, Any] = {"tau": 2.0, "v_threshold": 1.0, "surrogate": ATan(), "detach_reset": True}
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
    gpu.compare(results, 1e-4)
