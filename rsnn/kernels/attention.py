"""Self-attention by the kernel that the device has, or PyTorch's own."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from rsnn.kernels import attention_native
from rsnn.kernels.selection import selected


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(d_k)) V.

    On the CPU heads of few channels (CLA's have two) go through a kernel of their own; everything else is
    `torch.nn.functional.scaled_dot_product_attention`, which never stores the L x L scores either.

    Args:
        query, key: (B, heads, L, d_k).
        value: (B, heads, L, d_v).

    Returns:
        (B, heads, L, d_v).

    """
    if selected(query.device, "attention") == "native" and attention_native.supports(query, key, value):
        return attention_native.attention(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)
