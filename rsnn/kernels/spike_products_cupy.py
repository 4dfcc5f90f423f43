"""Products of weights with spikes in half precision, on the tensor cores of a GPU (`spike_products.cu`).

A spike is 0 or 1, which a half holds exactly, and a weight in half precision has as many bits as in TF32, in which
PyTorch's convolutions of float32 are by default. Half as many bytes come and go, and the products take half the time.
A convolution's sums are rounded to 11 bits as well. Of a fully connected layer, where PyTorch stays with float32, each
weight is the sum of two halves. Without gradients only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import cuda, gpu

# Products in a call from which on it pays to make halves of the weights first: of a convolution, of a linear layer.
CONVOLUTION, LINEAR = 1 << 31, 1 << 28
_SHARE = 2.0**-11  # of the lower half
_MACROS = cuda.neuron_macros(torch.float16, None, 0, soft=False, detach=True) | {"DEPTH": 1}


def supports(weight: Tensor, rows: int) -> bool:
    """Tell whether spikes may be in half precision for products with `weight` (D, C, ...): `rows` times D sums."""
    small = rows * weight.numel() < (CONVOLUTION if weight.ndim == 4 else LINEAR)
    return (
        not small
        and weight.dtype == torch.float32
        and weight.shape[0] % 8 == weight.shape[1] % 8 == 0  # as tensor cores need them
        and weight.numel() < 1 << 31
        and gpu.tf32_is_allowed()
        and not torch.is_autocast_enabled(weight.device.type)
        and gpu.works(weight.device, _self_test, "products with spikes")
    )


def convolution(
    spikes: Tensor, weight: Tensor, norm: tuple[Tensor | None, Tensor | None, Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor | None, Tensor, Tensor]]:
    """Convolve `spikes` (N, C, H, W), half, with `weight` (D, C, K, K), zeros around; see `supports`.

    Args:
        norm: weight, bias, mean and variance (D) of the normalization that follows.

    Returns:
        the sums (N, D, H, W), half and channels_last, each channel times a power of two, and the normalization that
        takes them for what they are.

    """
    D, C, *sides = weight.shape
    gain, bias, mean, variance = norm
    halves = torch.empty(D, *sides, C, dtype=torch.float16, device=weight.device).permute(0, 3, 1, 2)
    scaled_mean, scaled_gain = torch.empty(2, D, device=weight.device)
    inputs = (weight.contiguous(), mean.float().contiguous(), None if gain is None else gain.float().contiguous())
    arguments = (*inputs, C, sides[0] * sides[1], halves, scaled_mean, scaled_gain)
    cuda.launch("spike_products.cu", "scaled_halves", _MACROS | {"VECTOR": 1}, D, arguments)
    sums = F.conv2d(spikes.contiguous(memory_format=torch.channels_last), halves, padding=sides[0] // 2)
    return sums, (scaled_gain, bias, scaled_mean, variance)


def linear(spikes: Tensor, weight: Tensor) -> Tensor:
    """Multiply `spikes` (..., C), half, with `weight` (D, C): sums (..., D) in float32; see `supports`."""
    weight = weight.contiguous()
    high, low = torch.empty(2, *weight.shape, dtype=torch.float16, device=weight.device)
    vector = cuda.vector_length(4, weight.numel(), (weight, high, low))
    blocks = -(-weight.numel() // (vector * cuda.THREADS))
    arguments = (weight, weight.numel(), high, low)
    cuda.launch("spike_products.cu", "two_halves", _MACROS | {"VECTOR": vector}, blocks, arguments)
    return _sum_of_products(spikes.flatten(0, -2), high, low).unflatten(0, spikes.shape[:-1])


def _sum_of_products(spikes: Tensor, high: Tensor, low: Tensor) -> Tensor:
    sums = torch.mm(spikes, high.t(), out_dtype=torch.float32)
    result: Tensor = torch.addmm(sums, spikes, low.t(), out_dtype=torch.float32, alpha=_SHARE)
    return result


def _self_test(device: torch.device) -> None:
    """Compare small cases, whose sums are exact in any order, with plain PyTorch's on the CPU.

    Raises:
        RuntimeError: the results are not the same.

    """
    spikes = (torch.arange(2 * 8 * 4 * 5) * 7 % 5 < 2).half().reshape(2, 8, 4, 5)
    weight = ((torch.arange(16 * 8 * 9) * 5 % 13 - 6) / 4).reshape(16, 8, 3, 3)
    gain, mean, variance = torch.arange(16) / 8, torch.arange(16) / 4 - 1, torch.ones(16)
    norm = gain.to(device), None, mean.to(device), variance.to(device)
    sums, (found_gain, _, found_mean, _) = convolution(spikes.to(device), weight.to(device), norm)
    found = (sums.float() - found_mean[:, None, None]) * found_gain[:, None, None]
    expected = (F.conv2d(spikes.float(), weight, padding=1) - mean[:, None, None]) * gain[:, None, None]
    rows, fine = spikes.reshape(8, 40), (weight + weight.square() / 4096).flatten(1)[:, :40]
    sums = linear(rows.to(device), fine.to(device))
    if not (torch.equal(found.cpu(), expected) and torch.equal(sums.cpu(), rows.float() @ fine.t())):
        raise RuntimeError("its results are not those of the single operations")
