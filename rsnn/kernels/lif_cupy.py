"""The LIF sequence as one CUDA kernel forward and one backward (`lif.cu`), compiled and launched through CuPy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels import gpu, lif_torch
from rsnn.kernels.layout import steps_are_dense
from rsnn.kernels.surrogate import ATan, Exponential, Rectangle, Sigmoid, Surrogate
from rsnn.kernels.watched import sees_no_steps

THREADS = 256  # of a block
# Fewer neurons get a thread each; more share one, 16 bytes of potential a thread, for wider loads and stores.
NEURONS_TO_SHARE_THREADS = 1 << 18

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
    """Run `x` (T, ...), in float, double, half or bfloat16, through LIF neurons; see [`rsnn.kernels.lif`][].

    The potential is in float32 (float64 where `x` is) whatever the type of `x`. Steps of `x` may lie in memory in any
    dense order (channels_last, say): spikes and gradients come back in the same. Anything else is copied first.
    """
    if x.dtype not in _VALUES:
        x = x.to(v.dtype)
    if not steps_are_dense(x):
        x = x.contiguous()
    spikes, v, _ = _lif(
        x,
        v,
        tau.reshape(()).to(x.device, v.dtype) if isinstance(tau, Tensor) else None,
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


# Operators of PyTorch's, so that torch.compile and torch.export take each as one node of their graphs.
@torch.library.custom_op("rsnn::lif_cupy", mutates_args=())
def _lif(
    x: Tensor,
    v: Tensor,
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
    spikes = torch.empty_like(x)
    start = _in_order_of(x[0], v, v.dtype)
    end = torch.empty_like(start)
    charged = torch.empty_like(x, dtype=v.dtype) if keep else v.new_empty(0)
    _launch(
        "lif_forward",
        (x.dtype, kind, soft, detach),
        (x, start, tau, tau_value, v_threshold, v_rest),
        (x.shape[0], start.numel()),
        (spikes, end, charged if keep else None),
    )
    return spikes, end, charged


@_lif.register_fake
def _(x: Tensor, v: Tensor, *constants: Any) -> tuple[Tensor, Tensor, Tensor]:
    charged = torch.empty_like(x, dtype=v.dtype) if constants[-1] else v.new_empty(0)
    return torch.empty_like(x), torch.empty_like(x[0], dtype=v.dtype), charged


@torch.library.custom_op("rsnn::lif_cupy_backward", mutates_args=())
def _lif_backward(
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
    _launch(
        "lif_backward",
        (dtype, kind, soft, detach),
        (spikes_grad, v_grad, charged, tau, tau_value, v_threshold, v_rest, alpha, scale),
        (charged.shape[0], start_grad.numel()),
        (x_grad, start_grad),
    )
    return x_grad, start_grad


@_lif_backward.register_fake
def _(_spikes_grad: Any, _v_grad: Any, charged: Tensor, dtype: torch.dtype, *_constants: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(charged, dtype=dtype), torch.empty_like(charged[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, v, tau, *ctx.constants, _keep = inputs
    ctx.dtype = x.dtype
    ctx.save_for_backward(v, tau, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, spikes_grad: Tensor | None, v_grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    v, tau, charged = ctx.saved_tensors
    x_grad, start_grad = _lif_backward(spikes_grad, v_grad, charged, ctx.dtype, tau, *ctx.constants)
    tau_grad = None
    if ctx.needs_input_grad[2]:
        # dH/dtau = -(X - (V - V_rest)) / tau^2 = -(H - V) / tau, and dL/dX is dL/dH / tau.
        _, v_threshold, v_rest, soft, *_rest = ctx.constants
        fired = charged[:-1] >= v_threshold
        after = charged[:-1] - v_threshold if soft else torch.full_like(charged[:-1], v_rest)
        before = torch.cat((v[None], torch.where(fired, after, charged[:-1])))
        tau_grad = -(x_grad * (charged - before)).sum()
    return x_grad, start_grad, tau_grad, *[None] * 9


_lif.register_autograd(_backward, setup_context=_setup_context)


def _in_order_of(like: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` with `like`'s order in memory and in `dtype`, itself where it has both."""
    if x.stride() == like.stride() and x.dtype == dtype:
        return x
    return torch.empty_like(like, dtype=dtype).copy_(x)


def _launch(
    name: str,
    variant: tuple[torch.dtype, int, bool, bool],
    inputs: tuple[Tensor | float | None, ...],
    size: tuple[int, int],
    outputs: tuple[Tensor | None, ...],
) -> None:
    T, M = size
    if not M:
        return
    tensors = [x for x in (*inputs, *outputs) if isinstance(x, Tensor) and x.ndim]  # all but tau
    vector = 16 // torch.promote_types(variant[0], torch.float32).itemsize
    aligned = all(x.data_ptr() % (vector * x.itemsize) == 0 for x in tensors)
    if M < NEURONS_TO_SHARE_THREADS or M % vector or not aligned:
        vector = 1
    dtype, kind, soft, detach = variant
    macros = {"INPUT": _VALUES.index(dtype), "SURROGATE": kind, "SOFT": soft, "DETACH": detach, "VECTOR": vector}
    options = tuple(f"-D{macro}={int(value)}" for macro, value in macros.items())
    blocks = -(-M // (vector * THREADS))
    pointers = [x.data_ptr() if isinstance(x, Tensor) else 0 if x is None else x for x in (*inputs, T, M, *outputs)]
    device = next(x.device for x in tensors)
    _compiled(name, options)(blocks, pointers, device)


@functools.cache
def source() -> str:
    """Return the CUDA source."""
    return Path(__file__).with_name("lif.cu").read_text(encoding="utf-8")


@functools.cache
def _compiled(name: str, options: tuple[str, ...]) -> Callable[[int, list[int | float], torch.device], None]:
    """Return the launcher of a kernel: (blocks, arguments, device), on PyTorch's current stream."""
    import cupy

    kernel = cupy.RawKernel(source(), name, options=("-std=c++17", *options))  # compiled at its first launch

    def launch(blocks: int, arguments: list[int | float], device: torch.device) -> None:
        with cupy.cuda.Device(device.index), _current_stream(cupy, device):
            kernel((blocks,), (THREADS,), tuple(arguments))

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
            x = ramp.to(at, torch.float32 if run is lif_torch.lif else dtype).requires_grad_()
            spikes, v = run(x, torch.zeros(5, device=at), v_reset=v_reset, **options)
            (spikes.float().sum() + v.square().sum()).backward()
            assert x.grad is not None
            results.append([part.detach().cpu().float() for part in (spikes, v, x.grad)])
        for expected, found in zip(*results, strict=True):
            if not torch.allclose(expected, found, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6):
                raise RuntimeError("its results are not those of the torch kernel")
