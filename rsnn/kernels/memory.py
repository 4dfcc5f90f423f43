"""Memory for what the native kernels write, kept for the next call.

The system hands out memory page by page, zeroed, at the first touch, and that takes longer than the writing. Blocks
that are free again are offered back to the system, which takes their pages only where it runs short of others.
"""

from __future__ import annotations

import functools
import mmap
import threading
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

_LARGE = 1 << 22  # bytes: two large pages of 2 MB
_CAN_KEEP = hasattr(mmap, "MADV_HUGEPAGE") and hasattr(mmap, "MADV_FREE")


def _advise(block: mmap.mmap, advice: int) -> None:
    with suppress(OSError):  # a system without large pages, say
        block.madvise(advice)


class _Blocks:
    """Blocks of memory, used by one tensor at a time; never more of them in all than tensors have used at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._returned: deque[mmap.mmap] = deque()  # by finalizers, which may run anywhere and take no lock
        self._free: list[mmap.mmap] = []  # the longest unused first
        self._used = self._most = 0  # bytes

    def take(self, size: int) -> mmap.mmap:
        """Return a block of at least `size` bytes.

        Raises:
            OSError: the system has no more.

        """
        with self._lock:
            self._sort_in()
            fitting = [block for block in self._free if size <= len(block) <= 2 * size]
            if fitting:
                block = min(fitting, key=len)
                self._free.remove(block)
            else:
                block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                _advise(block, mmap.MADV_HUGEPAGE)
            self._used += len(block)
            self._most = max(self._most, self._used)
            while self._free and self._used + sum(map(len, self._free)) > self._most:
                self._free.pop(0)
        return block

    def give_back(self, block: mmap.mmap) -> None:
        """Take a block back."""
        _advise(block, mmap.MADV_FREE)
        self._returned.append(block)

    def clear(self) -> None:
        """Return all free blocks to the system."""
        with self._lock:
            self._sort_in()
            self._free.clear()
            self._most = self._used

    def _sort_in(self) -> None:
        while self._returned:
            self._free.append(block := self._returned.popleft())
            self._used -= len(block)


@functools.cache
def _blocks() -> _Blocks:
    return _Blocks()


def kept(x: Tensor) -> Tensor:
    """Return a tensor like `x`, just made and not written yet, in memory that is kept; `x` where it is small."""
    size = x.untyped_storage().nbytes()
    if size < _LARGE or not _CAN_KEEP:
        return x
    blocks = _blocks()
    try:
        block = blocks.take(size)
    except OSError:  # the system has no more; torch's own tensor says so when it is written
        return x
    array = np.frombuffer(block, np.uint8, size)
    weakref.finalize(array, blocks.give_back, block).atexit = False
    return x.new_empty(0).set_(torch.from_numpy(array).untyped_storage(), 0, x.shape, x.stride())


def empty_cache() -> None:
    """Return the memory that the native kernels keep for their next call to the system."""
    _blocks().clear()
