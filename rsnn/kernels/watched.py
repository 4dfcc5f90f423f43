"""Whether a sequence may be computed as one operation, or something watches or transforms the single ones."""

from __future__ import annotations

import torch
from torch import Tensor


def sees_no_steps(x: Tensor) -> bool:
    """Tell whether a kernel of ours may stand for the single operations on `x`.

    Anything that watches or transforms those (a dispatch mode, vmap, forward derivatives, tracing, an export to another
    runtime) gets them; torch.compile takes a kernel as one node of its graph.
    """
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and torch.autograd.forward_ad._current_level < 0
    )
