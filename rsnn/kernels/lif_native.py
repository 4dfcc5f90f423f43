"""The LIF sequence on the CPU in C++ (`csrc/lif.cpp`), with the normalization before and the pooling after it.

Backward computes the potentials anew from the input, which is all that is kept.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels import native
from rsnn.kernels.layout import steps_are_dense
from rsnn.kernels.memory import kept
from rsnn.kernels.surrogate import ATan, Exponential, Rectangle, Sigmoid, Surrogate
from rsnn.kernels.watched import nothing_looks, sees_no_steps

_REALS = {torch.float32: "float", torch.float64: "double"}
_SURROGATES = {ATan: 0.0, Sigmoid: 1.0, Rectangle: 2.0, Exponential: 3.0}  # as in lif.cpp


def supports(x: Tensor, tau: float | Tensor, surrogate: Surrogate) -> bool:
    """Tell whether the kernel has this neuron: one time constant for all (fixed or learned), a known surrogate."""
    one = not isinstance(tau, Tensor) or tau.numel() == 1
    taken = one and type(surrogate) in _SURROGATES and sees_no_steps(x)
    return taken and (x.device.type != "cpu" or native.has("lif", _REALS[_state_type(x)]))


def lif(
    x: Tensor,
    v: Tensor,
    *,
    tau: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[Tensor, Tensor]:
    """Run `x` (T, ...) through LIF neurons; see [`rsnn.kernels.lif`][]. The potential is in `v`'s type.

    Steps of `x` may lie in memory in any dense order (channels_last, say), and the spikes come in the same.
    """
    if x.dtype not in (v.dtype, torch.bfloat16) or not steps_are_dense(x):
        x = x.to(v.dtype).contiguous()
    return norm_lif(
        x,
        v,
        None,
        tau=tau,
        v_threshold=v_threshold,
        v_reset=v_reset,
        surrogate=surrogate,
        detach_reset=detach_reset,
    )[:2]


def norm_lif(
    x: Tensor,
    v: Tensor | None,
    norm: tuple[Tensor | None, ...] | None,
    *,
    tau: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,
    detach_reset: bool,
    batch_statistics: bool = False,
    eps: float = 0.0,
    pool: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run `x` (T, N, C, H, W), channels_last, through a batch normalization, LIF neurons and a maximum pooling.

    Args:
        x: float32, float64 or bfloat16; any shape and dense order without `norm` and pooling.
        v: potential before the first step; None for rest.
        norm: weight, bias, mean and variance (C) of the normalization, each of the first two may be None; None for no
            normalization.
        batch_statistics: take mean and variance from `x` instead.
        eps: added to the variance.
        pool: side of the pooling.
        tau, v_threshold, v_reset, surrogate, detach_reset: as in [`rsnn.kernels.lif`][].

    Returns:
        (pooled) spikes in `x`'s type, the potential after the last step, and mean and variance (biased) that were used.

    """
    learned = tau if isinstance(tau, Tensor) else None
    neuron = neuron_numbers(1.0 if learned is not None else tau, v_threshold, v_reset, surrogate, detach_reset)
    weight, bias, mean, variance = norm or (None, None, None, None)
    run = _forward if nothing_looks() else torch.ops.rsnn.lif_native
    result: tuple[Tensor, Tensor, Tensor, Tensor] = run(
        x, v, weight, bias, mean, variance, learned, neuron, batch_statistics, eps, pool
    )
    return result


def neuron_numbers(
    tau: float | Tensor, v_threshold: float, v_reset: float | None, surrogate: Surrogate, detach_reset: bool
) -> list[float]:
    """Return what `csrc/neuron.h` wants to know of a neuron."""
    return [
        *(float(tau), float(v_threshold), float(v_reset or 0.0), float(surrogate.alpha)),
        *(float(getattr(surrogate, "scale", 1.0)), float(v_reset is None), float(detach_reset)),
        _SURROGATES[type(surrogate)],
    ]


def scale_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return what each channel is multiplied with, and what is added then, in a normalization."""
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale, shift


def _state_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _outputs(x: Tensor, normalized: bool, pool: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    state = _state_type(x)
    channels = x.shape[2] if normalized else 0
    statistics = (x.new_empty(channels, dtype=state), x.new_empty(channels, dtype=state))
    end = torch.empty_like(x[0], dtype=state)
    if pool == 1:
        return torch.empty_like(x), end, *statistics
    T, N, C, H, W = x.shape
    return x.new_empty(T, N, H // pool, W // pool, C).permute(0, 1, 4, 2, 3), end, *statistics


def _function(name: str, x: Tensor) -> Any:
    suffix = "_bfloat16" if x.dtype == torch.bfloat16 else ""
    return getattr(native.library("lif", _REALS[_state_type(x)]), f"lif_{name}{suffix}")


def _call(name: str, x: Tensor, *arguments: Any) -> None:
    given = [a if not isinstance(a, Tensor) and a is not None else native.pointer(a) for a in arguments]
    if _function(name, x)(*given):
        raise MemoryError("the LIF kernel found no memory")


def _size(x: Tensor, structured: bool, pool: int) -> Any:
    if structured:
        T, N, C, H, W = x.shape
        return (ctypes.c_int64 * 6)(T, N, H, W, C, pool)
    return (ctypes.c_int64 * 6)(x.shape[0], 1, 1, 1, x[0].numel(), 1)


def _in_order_of(like: Tensor, x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return `x` with `like`'s order in memory and in `dtype`, itself where it has both."""
    if x is None or (x.stride() == like.stride() and x.dtype == dtype):
        return x
    return torch.empty_like(like, dtype=dtype).copy_(x)


def _neuron(neuron: list[float], tau: Tensor | None) -> Any:
    return (ctypes.c_double * 8)(neuron[0] if tau is None else float(tau), *neuron[1:])


def _forward(
    x: Tensor,
    v: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    tau: Tensor | None,
    neuron: list[float],
    batch: bool,
    eps: float,
    pool: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    normalized = batch or mean is not None
    spikes, end, used_mean, used_variance = _outputs(x, normalized, pool)
    spikes, end = kept(spikes), kept(end)
    threads = torch.get_num_threads()
    scale = shift = None
    if normalized:
        if batch:
            rows = x.numel() // x.shape[2]
            _call("moments", x, ctypes.c_int64(rows), ctypes.c_int64(x.shape[2]), threads, x, used_mean, used_variance)
        else:
            assert mean is not None
            assert variance is not None
            used_mean.copy_(mean)
            used_variance.copy_(variance)
        # A normalization may have another type than the maps.
        scale, shift = (one.to(end.dtype) for one in scale_shift(weight, bias, used_mean, used_variance, eps))
    start = _in_order_of(x[0], v, end.dtype)
    if x.numel():
        size = _size(x, normalized or pool > 1, pool)
        _call("forward", x, size, threads, _neuron(neuron, tau), scale, shift, x, start, spikes, end)
    return spikes, end, used_mean, used_variance


def _backward(
    d_spikes: Tensor | None,
    d_end: Tensor | None,
    x: Tensor,
    v: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    tau: Tensor | None,
    neuron: list[float],
    batch: bool,
    eps: float,
    pool: int,
    d_norm: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients by x, the first potential, weight, bias and tau; empty ones where there is no such input."""
    normalized = mean.numel() > 0
    state, threads = _state_type(x), torch.get_num_threads()
    d_x, d_start = kept(torch.empty_like(x)), kept(torch.empty_like(x[0], dtype=state))
    channels = x.shape[2] if normalized else 0
    scale = shift = sums = None
    if normalized:
        scale, shift = (one.to(state) for one in scale_shift(weight, bias, mean, variance, eps))
        mean = mean.to(state)
        if batch or d_norm:
            sums = x.new_zeros(threads, 2, channels, dtype=torch.float64)
    d_tau = x.new_zeros(threads if tau is not None else 0, dtype=torch.float64)
    like = _outputs(x, normalized, pool)[0] if d_spikes is not None and pool > 1 else x
    size = _size(x, normalized or pool > 1, pool)
    d_spikes, d_end = _in_order_of(like, d_spikes, x.dtype), _in_order_of(d_start, d_end, state)
    start = _in_order_of(x[0], v, state)
    given = (size, threads, _neuron(neuron, tau), scale, shift, mean, x, start, d_spikes, d_end)
    if x.numel():
        _call("backward", x, *given, d_x, d_start, sums, d_tau)
    d_weight = d_bias = x.new_empty(channels, dtype=state)
    if scale is not None:
        rows = x.numel() // channels
        a, b, c = scale, None, torch.zeros_like(scale)
        if sums is not None:
            total, centred = sums.sum(0).unbind(0)
            deviation = (variance.double() + eps).rsqrt()
            d_weight, d_bias = (centred * deviation).to(state), total.to(state)
            if batch:  # mean and variance depend on x
                factor = scale.double() * centred * deviation.square() / rows
                b = (-factor).to(state)
                c = (factor * mean - scale.double() * total / rows).to(state)
        if x.numel():
            _call("combine", x, ctypes.c_int64(rows), ctypes.c_int64(channels), threads, x, d_x, a, b, c)
    by_tau = x.new_empty(0, dtype=state) if tau is None else d_tau.sum().to(tau.dtype).view(tau.shape)
    return d_x, d_start, d_weight.clone(), d_bias.clone(), by_tau


_library = torch.library.Library("rsnn", "FRAGMENT")
_library.define(
    "lif_native(Tensor x, Tensor? v, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? variance, Tensor? tau, "
    "float[] neuron, bool batch, float eps, int pool) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "lif_native_backward(Tensor? d_spikes, Tensor? d_end, Tensor x, Tensor? v, Tensor? weight, Tensor? bias, "
    "Tensor mean, Tensor variance, Tensor? tau, float[] neuron, bool batch, float eps, int pool, bool d_norm) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.impl("lif_native", _forward, "CPU")
_library.impl("lif_native_backward", _backward, "CPU")


@torch.library.register_fake("rsnn::lif_native", lib=_library)  # type: ignore[untyped-decorator]
def _fake_forward(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return _outputs(x, others[7] or others[3] is not None, others[9])


@torch.library.register_fake("rsnn::lif_native_backward", lib=_library)  # type: ignore[untyped-decorator]
def _fake_backward(_d_spikes: Any, _d_end: Any, x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    state, channels, tau = _state_type(x), others[3].shape[0], others[5]
    of_channels = (x.new_empty(channels, dtype=state), x.new_empty(channels, dtype=state))
    d_tau = x.new_empty(0, dtype=state) if tau is None else torch.empty_like(tau)
    return torch.empty_like(x), torch.empty_like(x[0], dtype=state), *of_channels, d_tau


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, v, weight, bias, _, _, tau, ctx.neuron, ctx.batch, ctx.eps, ctx.pool = inputs
    ctx.save_for_backward(x, v, weight, bias, output[2], output[3], tau)
    ctx.mark_non_differentiable(output[2], output[3])
    ctx.set_materialize_grads(False)


def _backward_of(ctx: Any, d_spikes: Tensor | None, d_end: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    d_x, d_v, d_weight, d_bias, d_tau = torch.ops.rsnn.lif_native_backward(
        d_spikes, d_end, *ctx.saved_tensors, ctx.neuron, ctx.batch, ctx.eps, ctx.pool, needed[2] or needed[3]
    )
    gradients = (d_x, d_v, d_weight, d_bias, None, None, d_tau)
    return *(g if wanted else None for g, wanted in zip(gradients, needed, strict=False)), None, None, None, None


torch.library.register_autograd("rsnn::lif_native", _backward_of, setup_context=_setup_context, lib=_library)
torch.library.register_autograd("rsnn::lif_native_backward", native.no_second_derivatives, lib=_library)
