"""Convolutions of spikes on the CPU in C++ (`csrc/spiking_conv.cpp`), alone or with the neurons that they charge.

Where few inputs are not zero only those are multiplied and added; the first convolution, of real numbers, is done in
full.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from rsnn.kernels import native
from rsnn.kernels.autocast import rounds_to_bfloat16
from rsnn.kernels.layout import channels_last
from rsnn.kernels.lif_native import neuron_numbers, scale_shift
from rsnn.kernels.memory import kept
from rsnn.kernels.surrogate import Surrogate
from rsnn.kernels.watched import are_plain, nothing_looks, sees_no_steps

# Share of non-zero inputs from which on a convolution in full is about as fast, in float32 and in bfloat16.
MOST = 0.4
MOST_BFLOAT16 = 0.25

# Below so many channels finding what is not zero costs more than multiplying everything.
FEW_CHANNELS = 16

_REALS = {torch.float32: "float", torch.float64: "double"}


def supports(x: Tensor, weight: Tensor) -> bool:
    """Tell whether these kernels take such a convolution of `x` (..., C, H, W).

    Weights are of float32 or float64, (D, C, K, K) with an odd K.
    """
    _, C, K, width = weight.shape
    taken = weight.dtype in _REALS and x.shape[-3] == C and width == K and K % 2 == 1
    taken = taken and sees_no_steps(x) and are_plain(weight)
    return taken and native.has("spiking_conv", _REALS[weight.dtype])


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve `x` (N, C, H, W) with `weight` (D, C, K, K), stride 1, zeros around: (N, D, H, W), channels_last.

    Under autocast with bfloat16 the gradient of `x` is computed in that type.
    """
    reduced = rounds_to_bfloat16(weight)
    with torch.autocast("cpu", enabled=False):
        x = x.to(weight.dtype).contiguous(memory_format=torch.channels_last)
        result: Tensor = torch.ops.rsnn.convolution(x, weight, reduced)
    return result


def spiking_convolution(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    norm: tuple[Tensor | None, Tensor | None, Tensor, Tensor],
    *,
    eps: float,
    tau: float | Tensor,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,
    detach_reset: bool,
    pool: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `x` (T, N, C, H, W) through a convolution, a normalization, LIF neurons and a maximum pooling; no gradients.

    Args:
        x: in the weights' type, or bfloat16 beside weights of float32: then the products of a convolution in full are
            those of numbers rounded to bfloat16, where the processor has them; sums and potentials are float32.
        weight: (D, C, K, K); stride 1, zeros around.
        v: potential before the first step (N, D, H, W); None for rest.
        norm: weight, bias, mean and variance (D) of the normalization, each of the first two may be None.
        eps: added to the variance.
        pool: side of the pooling.
        tau, v_threshold, v_reset, surrogate, detach_reset: as in [`rsnn.kernels.lif`][].

    Returns:
        (pooled) spikes (T, N, D, H // pool, W // pool) in `x`'s type, the potential after the last step, and how many
        spikes there were before the pooling, int64.

    """
    scale, shift = scale_shift(*norm, eps)
    learned = tau if isinstance(tau, Tensor) else None
    neuron = neuron_numbers(1.0 if learned is not None else tau, v_threshold, v_reset, surrogate, detach_reset)
    run = _spiking_convolution if nothing_looks() else torch.ops.rsnn.spiking_convolution
    result: tuple[Tensor, Tensor, Tensor] = run(channels_last(x), weight, v, scale, shift, learned, neuron, pool)
    return result


def _convolution(x: Tensor, weight: Tensor, reduced: bool) -> Tensor:  # noqa: ARG001  (of backward)
    N, C, H, W = x.shape
    D, _, K, _ = weight.shape
    out = kept(_currents(x, weight))
    tensors = (x, weight.contiguous(), out)  # kept until the call is over
    size = (ctypes.c_int64 * 6)(N, H, W, C, D, K)
    function = native.library("spiking_conv", _REALS[x.dtype]).convolution
    if x.numel() and function(size, torch.get_num_threads(), ctypes.c_double(MOST), *map(native.pointer, tensors)):
        raise MemoryError("the convolution of spikes found no memory")
    return out


def _dense_backward(gradient: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
    padding = [weight.shape[2] // 2] * 2
    result: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, wanted
    )
    return result


def _maps_gradient(x: Tensor, weight: Tensor, gradient: Tensor, reduced: bool) -> Tensor:
    N, C, H, W = x.shape
    D, _, K, _ = weight.shape
    d_x = kept(torch.empty_like(x))
    if C >= FEW_CHANNELS and reduced:
        rounded = (gradient.bfloat16(), x.bfloat16(), weight.bfloat16())
        return d_x.copy_(_dense_backward(*rounded, [True, False, False])[0])
    in_tiles = K == 3 and native.library("spiking_conv", _REALS[x.dtype]).convolution_has_tiles()
    if C >= FEW_CHANNELS and not in_tiles:
        found = _dense_backward(gradient, x, weight, [True, False, False])[0]
        return found if found.stride() == d_x.stride() else d_x.copy_(found)
    name = "maps_gradient_of_many" if C >= FEW_CHANNELS else "maps_gradient"
    _call(name, (N, H, W, C, D, K), (weight.contiguous(), gradient, d_x))
    return d_x


def _weights_gradient(x: Tensor, gradient: Tensor, side: int) -> Tensor:
    N, C, H, W = x.shape
    D = gradient.shape[1]
    vectors = D * x.element_size() % 64 == 0
    some = x[::4]  # tell the share well enough
    if not vectors or C < FEW_CHANNELS or int(some.count_nonzero()) > MOST * some.numel():
        return _dense_backward(gradient, x, x.new_empty(D, C, side, side), [False, True, False])[1].contiguous()
    d_weight = x.new_empty(D, C, side, side)
    _call("weights_gradient", (N, H, W, C, D, side), (x, gradient, d_weight))
    return d_weight


def _call(name: str, sizes: tuple[int, ...], tensors: tuple[Tensor, ...]) -> None:
    function = getattr(native.library("spiking_conv", _REALS[tensors[0].dtype]), f"convolution_{name}")
    if function((ctypes.c_int64 * 6)(*sizes), torch.get_num_threads(), *map(native.pointer, tensors)):
        raise MemoryError("the convolution of spikes found no memory")


def _currents(x: Tensor, weight: Tensor) -> Tensor:
    N, _, H, W = x.shape
    return x.new_empty(N, H, W, weight.shape[0]).permute(0, 3, 1, 2)


def _spiking_convolution(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    tau: Tensor | None,
    neuron: list[float],
    pool: int,
) -> tuple[Tensor, Tensor, Tensor]:
    T, N, C, H, W = x.shape
    D, _, K, _ = weight.shape
    spikes, end, number = _spikes(x, weight, pool)
    outputs = (kept(spikes), end, number)
    if v is not None:
        v = torch.empty_like(end).copy_(v)
    dtype = weight.dtype
    tensors = (x, weight.contiguous(), scale.to(dtype), shift.to(dtype), v, *outputs)  # kept until the call is over
    size = (ctypes.c_int64 * 8)(T, N, H, W, C, D, K, pool)
    numbers = (ctypes.c_double * 8)(neuron[0] if tau is None else float(tau), *neuron[1:])
    reduced = x.dtype == torch.bfloat16
    library = native.library("spiking_conv", _REALS[dtype])
    function = library.spiking_convolution_bfloat16 if reduced else library.spiking_convolution
    most = ctypes.c_double(MOST_BFLOAT16 if reduced else MOST)
    if x.numel() and function(size, torch.get_num_threads(), most, numbers, *map(native.pointer, tensors)):
        raise MemoryError("the convolution of spikes found no memory")
    if not x.numel():
        number.zero_()
    return outputs


def _spikes(x: Tensor, weight: Tensor, pool: int) -> tuple[Tensor, Tensor, Tensor]:
    T, N, _, H, W = x.shape
    D = weight.shape[0]
    spikes = x.new_empty(T, N, H // pool, W // pool, D).permute(0, 1, 4, 2, 3)
    potential = x.new_empty(N, H, W, D, dtype=weight.dtype).permute(0, 3, 1, 2)
    return spikes, potential, x.new_empty((), dtype=torch.int64)


_library = torch.library.Library("rsnn", "FRAGMENT")
_library.define("convolution(Tensor x, Tensor weight, bool reduced) -> Tensor")
_library.define("convolution_maps_gradient(Tensor x, Tensor weight, Tensor gradient, bool reduced) -> Tensor")
_library.define("convolution_weights_gradient(Tensor x, Tensor gradient, int side) -> Tensor")
_library.define(
    "spiking_convolution(Tensor x, Tensor weight, Tensor? v, Tensor scale, Tensor shift, Tensor? tau, float[] neuron, "
    "int pool) -> (Tensor, Tensor, Tensor)"
)
_library.impl("convolution", _convolution, "CPU")
_library.impl("convolution_maps_gradient", _maps_gradient, "CPU")
_library.impl("convolution_weights_gradient", _weights_gradient, "CPU")
_library.impl("spiking_convolution", _spiking_convolution, "CPU")


@torch.library.register_fake("rsnn::convolution", lib=_library)  # type: ignore[untyped-decorator]
def _fake_convolution(x: Tensor, weight: Tensor, _reduced: bool) -> Tensor:
    return _currents(x, weight)


@torch.library.register_fake("rsnn::convolution_maps_gradient", lib=_library)  # type: ignore[untyped-decorator]
def _fake_maps_gradient(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("rsnn::convolution_weights_gradient", lib=_library)  # type: ignore[untyped-decorator]
def _fake_weights_gradient(x: Tensor, gradient: Tensor, side: int) -> Tensor:
    return x.new_empty(gradient.shape[1], x.shape[1], side, side)


@torch.library.register_fake("rsnn::spiking_convolution", lib=_library)  # type: ignore[untyped-decorator]
def _fake_spiking_convolution(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _spikes(x, weight, others[-1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.reduced = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    side = weight.shape[2]
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    d_x = d_weight = None
    if ctx.needs_input_grad[0]:
        d_x = torch.ops.rsnn.convolution_maps_gradient(x, weight, gradient, ctx.reduced)
    if ctx.needs_input_grad[1]:
        d_weight = torch.ops.rsnn.convolution_weights_gradient(x, gradient, side)
    return d_x, d_weight, None


torch.library.register_autograd("rsnn::convolution", _backward, setup_context=_setup_context, lib=_library)
for _name in ("convolution_maps_gradient", "convolution_weights_gradient"):
    torch.library.register_autograd(f"rsnn::{_name}", native.no_second_derivatives, lib=_library)
