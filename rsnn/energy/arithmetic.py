"""How many products of a convolution or matrix product have two non-zero factors: exact, without padding.

An input element meets every weight that reaches it, so the products are a sum over weights of the non-zero inputs
under that weight: both masks are summed over what they do not share first, which costs one pass over each.

Masks are summed as float32, ten times faster than as booleans: exact below 2^24 of them, which every sum keeps to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor

_EXACT = 1 << 24


def nonzero_map(x: Tensor) -> Tensor:
    """Return how often each place of x (R, ...) is not zero in the R rows: (...) of int64."""
    total = torch.zeros(x.shape[1:], dtype=torch.long, device=x.device)
    for rows in x.split(_EXACT):
        mask = torch.empty(rows.shape, dtype=torch.float32, device=x.device)
        total += torch.ne(rows, 0, out=mask).sum(0).long()
    return total


def nonzero(x: Tensor) -> int:
    """Return how many elements are not zero."""
    if x.numel() < 2 * _EXACT:
        mask = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        torch.ne(x, 0, out=mask)
        if x.numel() < _EXACT:
            return int(mask.sum())
        return int(mask.flatten(0, -2).sum(-1).double().sum()) if x.ndim > 1 else int(mask.double().sum())
    return sum(nonzero(part) for part in x.split(max(1, len(x) // 2)))


def spikes(x: Tensor) -> int:
    """Return how many of zeros and ones (T, N, ...) are ones."""
    return int(x.sum((-2, -1)).double().sum())


def max_pool(x: Tensor, side: int) -> Tensor:
    """Return the maxima of windows of (..., H, W), as max pooling does, in a fraction of its time."""
    height, width = x.shape[-2] // side, x.shape[-1] // side
    x = x[..., : height * side, : width * side]
    rows = x[..., ::side, :]
    for k in range(1, side):
        rows = torch.maximum(rows, x[..., k::side, :])
    out = rows[..., ::side]
    for k in range(1, side):
        out = torch.maximum(out, rows[..., k::side])
    return out


def nonzero_per_tap(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """Return, for weights (D, C / groups, *K), how many of each input channel and tap are not zero: (C, *K)."""
    mask = (weight != 0).long()
    if transposed:  # (C, D / groups, *K)
        return mask.sum(1)
    return mask.unflatten(0, (groups, -1)).sum(1).flatten(0, 1)


@cache
def _reached(size: int, out: int, tap: int, stride: int, padding: int, dilation: int, transposed: bool) -> slice:
    """Return the inputs that one tap of a kernel multiplies along one axis; the padding is not among them."""
    offset = tap * dilation - padding
    if transposed:  # input i reaches output i * stride + offset
        inputs = [i for i in range(size) if 0 <= i * stride + offset < out]
        return slice(inputs[0], inputs[-1] + 1) if inputs else slice(0, 0)
    inputs = [i for o in range(out) if 0 <= (i := o * stride + offset) < size]
    return slice(inputs[0], inputs[-1] + 1, stride) if inputs else slice(0, 0)


def convolution(
    inputs: Tensor,
    taps: Tensor,
    out_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool = False,
) -> int:
    """Return the products of a convolution that count.

    Args:
        inputs: non-zero inputs of each channel and pixel, summed over the batch (C, *S).
        taps: non-zero weights of each channel and tap (C, *K), as `nonzero_per_tap` gives them.
        out_size: of the output, without batch and channels.
        stride, padding, dilation, transposed: as in `torch.nn.functional.conv2d` and its kind, one of each per axis.

    """
    total = torch.zeros((), dtype=torch.long, device=inputs.device)
    axes = list(zip(inputs.shape[1:], out_size, stride, padding, dilation, strict=True))
    for position, tap in enumerate(product(*(range(k) for k in taps.shape[1:]))):
        window = tuple(_reached(s, o, k, d, p, e, transposed) for k, (s, o, d, p, e) in zip(tap, axes, strict=True))
        total += (inputs[(slice(None), *window)].flatten(1).sum(1) * taps.flatten(1)[:, position]).sum()
    return int(total)


def windows(size: int, out: int, side: int, stride: int, padding: int, device: torch.device) -> Tensor:
    """Return in how many of the pooling windows along one axis each input lies: (size,)."""
    first = torch.arange(out, device=device) * stride - padding
    return _covered(size, first, first + side)


def adaptive_windows(size: int, out: int, device: torch.device) -> Tensor:
    """Return the same for adaptive pooling, whose windows go from floor(o size / out) to ceil((o + 1) size / out)."""
    o = torch.arange(out, device=device)
    return _covered(size, o * size // out, -(-(o + 1) * size // out))


def _covered(size: int, first: Tensor, end: Tensor) -> Tensor:
    place = torch.arange(size, device=first.device)
    return ((place >= first[:, None]) & (place < end[:, None])).sum(0)


def pooled(inputs: Tensor, covers: Sequence[Tensor]) -> int:
    """Return how many of the inputs, counted per place (C, *S), are added, each once for every window it lies in."""
    total = inputs
    for cover in reversed(covers):
        total = (total * cover).sum(-1)
    return int(total.sum())


def taps_inside(
    size: Sequence[int],
    kernel: Sequence[int],
    out_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool = False,
) -> int:
    """Return how many pairs of a tap and an input a convolution of one channel has, without padding."""
    total = 1
    for s, k, *how in zip(size, kernel, out_size, stride, padding, dilation, strict=True):
        total *= sum(len(range(s)[_reached(s, how[0], tap, *how[1:], transposed)]) for tap in range(k))
    return total


def matrix_product(left: Tensor, right: Tensor) -> int:
    """Return the products that count, of masks summed over rows: left (..., k) and right (..., k)."""
    return int((left.long() * right.long()).sum())
