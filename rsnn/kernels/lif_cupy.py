"""The LIF sequence in CUDA (`lif.cu`), through CuPy.

Shapes: T steps, M neurons.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels import cuda, gpu, lif_torch, norm_lif_cupy
from rsnn.kernels.layout import steps_are_dense
from rsnn.kernels.surrogate import ATan, Surrogate
from rsnn.kernels.watched import nothing_looks, sees_no_steps, shortest_way

# Inputs that a thread has on their way while it computes: enough of them, over all threads, to keep the memory busy.
BYTES_AHEAD = 16


@functools.cache
def unavailable() -> str | None:
    """Return why this kernel cannot run here, or None."""
    return gpu.missing("cupy", "pip install 'rsnn[cuda]'") or gpu.failure(_self_test)


def supports(x: Tensor, tau: float | Tensor, surrogate: Surrogate) -> bool:
    """Tell whether the kernel has this neuron: one time constant for all (fixed or learned), a known surrogate."""
    known = (not isinstance(tau, Tensor) or tau.numel() == 1) and type(surrogate) in cuda.SURROGATES
    return known and sees_no_steps(x)


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
    if x.dtype not in cuda.VALUES:
        x = x.float()
    if not steps_are_dense(x):
        x = x.contiguous()
    spikes, v, _ = shortest_way(_lif, _lif_forward, _LIF)(
        x,
        v,
        tau.reshape(()).to(x.device, cuda.state_type(x.dtype)) if isinstance(tau, Tensor) else None,
        1.0 if isinstance(tau, Tensor) else float(tau),
        float(v_threshold),
        float(v_reset or 0.0),
        v_reset is None,
        cuda.SURROGATES[type(surrogate)],
        float(surrogate.alpha),
        float(getattr(surrogate, "scale", 1.0)),
        detach_reset,
        # The potentials before the reset are for backward alone, and as large as the input.
        torch.is_grad_enabled() and any(isinstance(y, Tensor) and y.requires_grad for y in (x, v, tau)),
    )
    return spikes, v


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
        cuda.neuron_macros(x.dtype, None if tau is not None else tau_value, kind, soft, detach),
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
    state = cuda.state_type(x.dtype)
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
        cuda.neuron_macros(dtype, None if tau is not None else tau_value, kind, soft, detach),
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
    value = cuda.VALUES[macros["INPUT"]].itemsize
    state = max(value, 4)
    vector = cuda.vector_length(16 // state, M, tensors, 1)
    read = vector * (value if name == "lif_forward" else state + value)  # bytes a step
    macros = macros | {"VECTOR": vector, "DEPTH": max(1, min(8, BYTES_AHEAD // read))}
    cuda.launch("lif.cu", name, macros, -(-M // (vector * cuda.THREADS)), (*inputs, T, M, *outputs))


def _in_order_of(like: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` with `like`'s order in memory and in `dtype`, itself where it has both."""
    if x.stride() == like.stride() and x.dtype == dtype:
        return x
    return torch.empty_like(like, dtype=dtype).copy_(x)


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
        gpu.compare(results, 1e-2 if dtype == torch.bfloat16 else 1e-5)
    norm_lif_cupy.self_test(device)  # the same choice of kernel is for both
