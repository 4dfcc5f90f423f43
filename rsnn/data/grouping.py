"""Samples of different shapes into batches of one shape each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

# Samples that wait for others of their shape, in batches: recordings of up to four lengths make full ones in any order.
MOST_WAITING = 4


def of_equal_shape(
    samples: Iterable[Tensor], batch_size: int, *, whole: Callable[[Tensor], bool] = lambda _sample: False
) -> Iterator[list[tuple[int, Tensor]]]:
    """Gather a stream of samples into batches of one shape, and take no sample before it is needed.

    Args:
        samples: of any shapes.
        batch_size: samples of a batch. At most `MOST_WAITING * batch_size` wait; then the fullest batch goes as it is.
        whole: tells of a sample that it is a batch of its own.

    Yields:
        pairs of a sample's place in the stream and the sample.

    """
    waiting: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    number = 0
    for place, sample in enumerate(samples):
        if whole(sample):
            yield [(place, sample)]
            continue
        group = waiting.setdefault(sample.shape, [])
        group.append((place, sample))
        number += 1
        if len(group) < batch_size:
            if number < MOST_WAITING * batch_size:
                continue
            group = max(waiting.values(), key=len)
        number -= len(group)
        yield waiting.pop(group[0][1].shape)
    yield from waiting.values()
