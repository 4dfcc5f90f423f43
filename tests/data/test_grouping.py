"""Samples of mixed shapes come in batches of one shape: each once, full ones wherever that is possible, few waiting."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from rsnn.data.grouping import MOST_WAITING, of_equal_shape


def lengths(batches):
    return [[(place, len(sample)) for place, sample in batch] for batch in batches]


def test_by_hand():
    samples = [torch.zeros(n) for n in (2, 4, 2, 2, 4, 6, 2)]
    assert lengths(of_equal_shape(samples, 2)) == [
        [(0, 2), (2, 2)], [(1, 4), (4, 4)], [(3, 2), (6, 2)], [(5, 6)],
    ]  # fmt: skip


def test_a_whole_batch_passes_the_others():
    samples = [torch.zeros(n) for n in (2, 9, 2)]
    batches = of_equal_shape(samples, 2, whole=lambda sample: len(sample) == 9)
    assert lengths(batches) == [[(1, 9)], [(0, 2), (2, 2)]]


@given(st.lists(st.integers(1, 30), max_size=80), st.integers(1, 5))
def test_every_sample_once_and_few_waiting(sizes, batch_size):
    taken, given_back, seen = 0, 0, []

    def samples():
        nonlocal taken
        for size in sizes:
            assert taken - given_back < MOST_WAITING * batch_size
            taken += 1
            yield torch.zeros(size)

    for batch in of_equal_shape(samples(), batch_size):
        given_back += len(batch)
        assert 1 <= len(batch) <= batch_size
        assert len({len(sample) for _, sample in batch}) == 1
        seen += [(place, len(sample)) for place, sample in batch]
    assert sorted(seen) == list(enumerate(sizes))


@given(st.lists(st.integers(1, MOST_WAITING), max_size=80), st.integers(1, 5))
def test_of_a_few_lengths_all_batches_but_the_last_of_each_are_full(sizes, batch_size):
    batches = lengths(of_equal_shape([torch.zeros(size) for size in sizes], batch_size))
    rest = [len(batch) for batch in batches if len(batch) < batch_size]
    assert len(rest) <= len(set(sizes))
    assert all(len(batch) == batch_size for batch in batches[: len(batches) - len(rest)])
