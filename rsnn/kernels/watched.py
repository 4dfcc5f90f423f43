"""Whether a sequence may be computed as one operation, or something watches or transforms the single ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_HAS_FLAG = hasattr(torch.compiler, "_is_exporting_flag")


def sees_no_steps(x: Tensor, kernel: str = "") -> bool:
    """Tell whether a kernel of ours may stand for the single operations on `x`.

    Anything that watches or transforms those (a dispatch mode, vmap, forward derivatives, tracing, an export to another
    runtime) gets them, but for a mode that has the kernel's name in its `takes`; torch.compile takes a kernel as one
    node of its graph.
    """
    if torch.compiler.is_compiling():
        return not is_exporting()
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and (
            not torch._C._len_torch_dispatch_stack()
            or all(kernel in getattr(mode, "takes", ()) for mode in _get_current_dispatch_mode_stack())
        )
        and not is_transformed()
    )


def are_plain(*tensors: Tensor) -> bool:
    """Tell whether weights lie in memory as a kernel reads them: a distributed or wrapped one has no address."""
    return torch.compiler.is_compiling() or all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)


def is_exporting() -> bool:
    """Tell whether `torch.export` is at work.

    (PyTorch 2.10 and 2.11 take `torch.compiler.is_exporting()` for true when they compile, too.)
    """
    return torch.compiler._is_exporting_flag if _HAS_FLAG else torch.compiler.is_exporting()


def is_transformed() -> bool:
    """Tell whether operations are transformed or recorded: by `torch.func`, forward derivatives, `torch.jit.trace`."""
    return not torch.compiler.is_compiling() and (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def nothing_looks() -> bool:
    """Tell whether an operator's function may be called past PyTorch's dispatcher: no gradients, no graph, no mode.

    The dispatcher takes 0.2 ms for an operator written in Python, longer than many of them.
    """
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack())


def shortest_way(operator: Any, function: Callable[..., Any], with_gradients: type[torch.autograd.Function]) -> Any:
    """Return what computes an operator: itself where something looks, else one of the faster two."""
    if nothing_looks():
        return function
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return operator
    return with_gradients.apply


def is_watched(*modules: nn.Module, way: str = "") -> bool:
    """Tell whether a hook watches the calls of any of the modules, so that none may be skipped or done another way.

    Hooks that have the other way's name in their `takes` do not count. A module with a `forward` of its own does.
    """
    if nn.modules.module._has_any_global_hook():
        return True
    for module in modules:
        before = module._forward_pre_hooks or module._backward_pre_hooks
        if (before or module._forward_hooks or module._backward_hooks) and _has_hooks_besides(module, way):
            return True
        if has_its_own(vars(module)):
            return True
    return False


def _has_hooks_besides(module: nn.Module, way: str) -> bool:
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(way not in getattr(hook, "takes", ()) for of_kind in hooks for hook in of_kind.values())


def has_its_own(attributes: dict[str, Any]) -> bool:
    """Tell whether a module of such `vars` was given another `forward` than that of its class, or was compiled."""
    return "forward" in attributes or "_compiled_call_impl" in attributes
