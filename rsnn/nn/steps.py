"""Sums over time that do not depend on how the steps come in."""

from __future__ import annotations

import torch
from torch import Tensor


def add_up(steps: Tensor, before: Tensor | None) -> Tensor:
    """Return before + steps[0] + steps[1] + ..., added in this order.

    So a sequence and chunks of it give the same to the last bit. `sum(0)`, which adds in an order of its own, stays
    in compiled and exported graphs, where that cannot be, and in half precision, whose sums are float32: the order
    hardly matters there, and small steps are not lost.

    Args:
        steps: (T, ...).
        before: the sum (...) of earlier steps; None for none.

    """
    half = steps.dtype in (torch.float16, torch.bfloat16)
    if half or torch.compiler.is_compiling():
        total = steps.sum(0, dtype=torch.float32 if half else None)
        return total if before is None else before + total
    with_gradients = torch.is_grad_enabled() and steps.requires_grad
    if steps.is_cuda and steps[0].numel() > 1 and not (with_gradients or torch.are_deterministic_algorithms_enabled()):
        # Over the first of several dimensions CUDA's kernel adds in this order, too, in one launch; PyTorch does not
        # promise that, though.
        whole = steps if before is None else torch.cat((before[None], steps))
        return whole.cumsum(0)[-1].clone()  # lest it hold all of them
    first = before is None
    for step in steps.unbind(0):
        before = step if before is None else before + step
    assert before is not None  # there is a step
    return before.clone() if first and len(steps) == 1 else before  # a state must not change with what came in
