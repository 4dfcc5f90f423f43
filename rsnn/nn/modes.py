"""Models in eval mode for a while, and then every module of them as it was, in however many threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# How many blocks need a module that trains to be in eval mode. Beside the modules, not in them: they can be copied and
# pickled at any time.
_uses: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules of a model into eval mode, without gradients, for a while.

    Each has its own mode back afterwards: of several threads, or models that share it, after the last one.
    """
    with _lock:
        training = [module for module in _modules(model) if module.training or (_uses and module in _uses)]
        for module in training:
            _uses[module] = _uses.get(module, 0) + 1
            module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        with _lock:
            for module in training:
                _uses[module] -= 1
                if not _uses[module]:
                    del _uses[module]
                    module.training = True


def _modules(model: nn.Module) -> list[nn.Module]:
    """Return a model's modules, each once; several times as fast as a walk through `modules()`."""
    modules: dict[nn.Module, None] = {model: None}
    waiting = [model]
    for module in waiting:  # which grows on the way
        for child in module._modules.values():
            if child is not None and child not in modules:
                modules[child] = None
                waiting.append(child)
    return waiting
