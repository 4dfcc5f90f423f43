"""How many products of a convolution or matrix product have two non-zero factors: exact, without padding.

An input element meets every weight that reaches it, so the products are a sum over weights of the non-zero inputs
under that weight: both masks are summed over what they do not share first, which costs one pass over each.

Masks are summed as float32, ten times faster than as booleans: exact below 2^24 of them, which every sum keeps to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

_FEW = 1 << 10
_EXACT = (torch.float32, torch.float64)  # so many ones can be summed as they are
_IN_CACHE = 1 << 18  # elements of a mask: it is summed before the next one takes its place


def nonzero_map(x: Tensor, *, binary: bool = False) -> Tensor:
    """Return how often each place of x (R, ...) is not zero in the R rows: (...) of int64.

    It takes half the time where x is known to hold nothing but zeros and ones.
    """
    order = _in_memory(x, 1)
    x = x.permute(0, *order)
    total: Tensor | None = None
    for mask in x.split(_rows(x)) if binary and x.dtype in _EXACT else _masks(x):
        some = mask[0] if len(mask) == 1 else mask.sum(0)
        total = some.to(torch.float64, copy=True) if total is None else total.add_(some)
    assert total is not None  # there is at least one split, if an empty one
    return total.long().permute(*(order.index(axis) for axis in range(1, x.ndim)))


def nonzero(x: Tensor) -> int:
    """Return how many elements are not zero."""
    if x.numel() <= _FEW:
        return int(x.count_nonzero())
    x = x.permute(_in_memory(x, 0))
    if x.ndim > 1 and x[0].numel() > _IN_CACHE:
        return sum(map(nonzero, x))
    return sum(int(mask.sum()) for mask in _masks(x))


def _rows(x: Tensor) -> int:
    """Return how many rows are summed at a time."""
    return max(1, min(len(x), _IN_CACHE // max(1, x[:1].numel())))


def _in_memory(x: Tensor, first: int) -> list[int]:
    """Return the axes from `first` on in the order in which the numbers lie in memory."""
    return sorted(range(first, x.ndim), key=x.stride, reverse=True)


def _masks(x: Tensor) -> Iterator[Tensor]:
    """Yield some rows of x after the others, each element one where it is not zero, in one place in memory."""
    each = _rows(x)
    place = torch.empty(each, *x.shape[1:], dtype=torch.float32, device=x.device)
    for rows in x.split(each):
        yield torch.ne(rows, 0, out=place[: len(rows)])


def nonzero_per_tap(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """Return, for weights (D, C / groups, *K), how many of each input channel and tap are not zero: (C, *K)."""
    if transposed:  # (C, D / groups, *K)
        return nonzero_map(weight.transpose(0, 1))
    return nonzero_map(weight.unflatten(0, (groups, -1)).transpose(0, 1)).flatten(0, 1)


@cache
def _reached(size: int, kernel: int, out: int, stride: int, padding: int, dilation: int, transposed: bool) -> Tensor:
    """Return which inputs each tap of a kernel multiplies along one axis, (kernel, size): none of the padding."""
    place = torch.arange(size, device="cpu")
    offset = torch.arange(kernel, device="cpu")[:, None] * dilation - padding
    if transposed:  # input i reaches output i * stride + offset
        output = place * stride + offset
        return ((output >= 0) & (output < out)).double()
    ahead = place - offset  # output o takes input o * stride + offset
    return ((ahead % stride == 0) & (ahead >= 0) & (ahead < out * stride)).double()


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
    met = inputs.double()  # exact below 2^53
    for size, kernel, *how in zip(inputs.shape[1:], taps.shape[1:], out_size, stride, padding, dilation, strict=True):
        met = torch.tensordot(met, _reached(size, kernel, *how, transposed).to(met.device), dims=([1], [1]))
    return int((met * taps).sum())


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
        total *= int(_reached(s, k, *how, transposed).sum())
    return total


def matrix_product(left: Tensor, right: Tensor) -> int:
    """Return the products that count, of masks summed over rows: left (..., k) and right (..., k)."""
    return int((left.long() * right.long()).sum())
