"""The first stage of the spiking CNN in CUDA (`spiking_conv.cu`): convolution, neurons and pooling at once.

With few input channels a convolution writes and the neurons read many times what comes in and goes out. Here the sums
of a step stay in registers, where a tensor core leaves them. Without gradients only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu, lif_torch
from rsnn.kernels.layout import channels_last
from rsnn.kernels.surrogate import ATan, Surrogate

CHANNELS = 8  # of a pixel, at most
BLOCKS = 3  # that should fit into a multiprocessor at once


def supports(x: Tensor, weight: Tensor, tau: float | Tensor, pool: int) -> bool:
    """Tell whether the kernel takes `x` (T, N, C, H, W) and `weight` (D, C, K, K), gradients aside.

    Sums are of products of bfloat16 under autocast, else of half precision, where PyTorch's convolutions are of TF32,
    which has as many bits.
    """
    D, C, *kernel = weight.shape
    H, W = x.shape[3:]
    return (
        weight.dtype == torch.float32
        and (_type(x) == torch.bfloat16 or (_type(x) == torch.float32 and gpu.tf32_is_allowed()))
        and x.device == weight.device
        and x.shape[2] == C <= CHANNELS
        and (D % 128, H % 2, W % 16, kernel, pool) == (0, 0, 0, [3, 3], 2)
        and not isinstance(tau, Tensor)
        and x[0].numel() * D < 1 << 31
        and x.numel() > 0
        and _works(x.device)
    )


def spiking_convolution(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    norm: tuple[Tensor | None, Tensor | None, Tensor, Tensor],
    *,
    eps: float,
    tau: float,
    v_threshold: float,
    v_reset: float | None,
    surrogate: Surrogate,  # noqa: ARG001  (of a neuron; there are no gradients)
    detach_reset: bool,  # noqa: ARG001
    halves: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run `x` (T, N, C, H, W) through a convolution, a normalization, LIF neurons and a maximum pooling by 2.

    Args:
        x: any floating type; see `supports`.
        weight: (D, C, 3, 3); stride 1, zeros around.
        v: potential before the first step (N, D, H, W); None for rest.
        norm: weight, bias, mean and variance (D) of the normalization, each of the first two may be None.
        eps: added to the variance.
        tau, v_threshold, v_reset, surrogate, detach_reset: as in [`rsnn.kernels.lif`][].
        halves: give the spikes in half precision.

    Returns:
        pooled spikes (T, N, D, H // 2, W // 2) in float32, in bfloat16 under autocast, or `halves`, and the potential
        after the last step; both channels_last.

    """
    T, N, C, H, W = x.shape
    D = len(weight)
    dtype = _type(x)
    spikes = torch.empty(T, N, H // 2, W // 2, D, dtype=torch.float16 if halves else dtype, device=x.device)
    end = torch.empty(N, H, W, D, device=x.device)
    gain, bias, mean, variance = (None if y is None else y.float().contiguous() for y in norm)
    macros = cuda.neuron_macros(dtype, tau, 0, v_reset is None, True)
    macros |= {"VECTOR": 16 // spikes.itemsize, "DEPTH": 1, "CHANNELS": C, "BLOCKS": BLOCKS, "HALVES": halves}
    start = None if v is None else channels_last(v.float())
    inputs = (x.to(dtype).contiguous(), weight.contiguous(), start, mean, variance, gain, bias)
    constants = (float(eps), float(tau), float(v_threshold), float(v_reset or 0.0))
    blocks = N * (H // 2) * (W // 16) * (D // 128)
    arguments = (*inputs, *constants, T, N, H, W, D, spikes, end)
    cuda.launch("spiking_conv.cu", "spiking_convolution", macros, blocks, arguments)
    return spikes.movedim(-1, 2), end.movedim(-1, 1)


def _type(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _works(device: torch.device) -> bool:
    return gpu.works(device, _self_test, "a stage's convolution")


def _self_test(device: torch.device) -> None:
    """Compare a small case, whose sums are exact in any order and precision, with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: the results are not the same.

    """
    T, N, C, H, W, D = 5, 1, 3, 2, 16, 128
    x = ((torch.arange(T * N * C * H * W) * 7 % 17 - 8) / 4).reshape(T, N, C, H, W)
    weight = ((torch.arange(D * C * 9) * 5 % 13 - 6) / 4).reshape(D, C, 3, 3)
    bias = (torch.arange(D) % 5 - 2) / 4
    options: dict[str, Any] = {
        "tau": 2.0,
        "v_threshold": 1.0,
        "surrogate": ATan(),
        "detach_reset": True,
        "v_reset": 0.0,
    }
    current = F.conv2d(x.flatten(0, 1), weight, bias, padding=1).unflatten(0, (T, N))
    single, v = lif_torch.lif(current, torch.zeros(N, D, H, W), **options)
    expected = F.max_pool2d(single.flatten(0, 1), 2).unflatten(0, (T, N))
    norm = (None, bias.to(device), torch.zeros(D, device=device), torch.ones(D, device=device))
    found = spiking_convolution(x.to(device), weight.to(device), None, norm, eps=0.0, **options)
    if not (torch.equal(found[0].cpu(), expected) and torch.equal(found[1].cpu(), v)):
        raise RuntimeError("its results are not those of the single operations")
