"""Models in eval mode for a while, and then every module of them as it was, in however many threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class _Use:
    """How many are using a model in eval mode now, and which of its modules will train again after the last of them."""

    def __init__(self) -> None:
        self.count = 0
        self.training: list[nn.Module] = []


# Beside the models, not in them: they can be copied and pickled at any time.
_uses: weakref.WeakKeyDictionary[nn.Module, _Use] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules of a model into eval mode, without gradients, for a while.

    Each has its own mode back afterwards: of several threads that overlap, after the last one.
    """
    with _lock:
        use = _uses.setdefault(model, _Use())
        use.count += 1
        training = _training_modules(model)
        use.training += training
        for module in training:
            module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        with _lock:
            use.count -= 1
            if not use.count:
                del _uses[model]
                for module in use.training:
                    module.training = True


def _training_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules in train mode; several times as fast as a walk through `modules()`."""
    modules: list[nn.Module] = [model]
    for module in modules:  # which grows on the way
        modules += [child for child in module._modules.values() if child is not None]
    return [module for module in modules if module.training]
