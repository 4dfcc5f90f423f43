"""Memory that native kernels keep: no two tensors share it, and no more is kept than was needed at once."""

import itertools
import mmap
import multiprocessing
import pickle
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsnn import kernels
from rsnn.kernels import memory
from rsnn.kernels.memory import kept

MIB = 1 << 20

pytestmark = pytest.mark.skipif(not memory._CAN_KEEP, reason="the system has no large pages to ask for")


@pytest.fixture(autouse=True)
def nothing_kept():
    """Start and end without blocks."""
    kernels.empty_cache()
    yield
    kernels.empty_cache()


def block(mebibytes, dtype=torch.float32):
    return kept(torch.empty(mebibytes * MIB // dtype.itemsize, dtype=dtype))


def span(x):
    begin = x.untyped_storage().data_ptr()
    return begin, begin + x.untyped_storage().nbytes()


def test_memory_of_a_dead_tensor_is_used_again():
    x = block(8)
    place = x.data_ptr()
    del x
    assert block(8).data_ptr() == place
    assert block(5).data_ptr() == place


def test_a_much_smaller_tensor_does_not_take_a_large_block():
    x = block(64)
    place = x.data_ptr()
    del x
    assert block(8).data_ptr() != place


def test_views_and_saved_storages_keep_the_memory():
    x = block(8)
    x.fill_(3)
    view = x.view(-1, 16)[100]
    del x
    block(8).fill_(5)
    assert (view == 3).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(4, 24)), max_size=30))
@settings(deadline=None, max_examples=50)
def test_no_two_living_tensors_share_memory(actions):
    living = {}
    for place, size in actions:
        living.pop(place, None)
        living[place] = block(size)
        living[place][:: MIB // 4] = place
        spans = sorted(map(span, living.values()))
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    for place, x in living.items():
        assert (x[:: MIB // 4] == place).all()


def test_no_more_is_kept_than_was_in_use_at_once():
    blocks = memory._Blocks()
    first, second = blocks.take(8 * MIB), blocks.take(10 * MIB)
    for one in (first, second):
        blocks.give_back(one)
    del first, second, one
    large = blocks.take(30 * MIB)  # more than both: none of them may stay
    assert not blocks._free
    blocks.give_back(large)
    small = blocks.take(4 * MIB)  # 30 MiB would fit no better: the limit is 30 MiB in all
    assert sum(map(len, blocks._free)) + len(small) <= 30 * MIB


def test_shape_order_and_type_stay():
    made = torch.empty(2, 3, 64, 64, 128, dtype=torch.bfloat16).permute(0, 1, 4, 2, 3)
    x = kept(made)
    assert x.shape == (2, 3, 128, 64, 64)
    assert x.stride() == torch.empty(2, 3, 64, 64, 128).permute(0, 1, 4, 2, 3).stride()
    assert x.dtype == torch.bfloat16
    assert x._base is None
    small = torch.empty(8)
    assert kept(small) is small


def test_it_is_an_ordinary_tensor():
    x = block(4)
    x.fill_(2)
    assert torch.equal(pickle.loads(pickle.dumps(x)), x)
    assert torch.equal(x.clone(), x)
    shared = x.clone().share_memory_()
    assert torch.equal(shared, x)


def test_threads_get_memory_of_their_own():
    wrong = []

    def work(number):
        for _ in range(30):
            x = block(4)
            x.fill_(number)
            if not (x == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _overwrite():
    block(8).numpy()[:] = 7  # torch's own threads do not survive a fork


def test_a_forked_process_leaves_its_parents_memory_alone():
    x = block(8)
    x.fill_(1)
    child = multiprocessing.get_context("fork").Process(target=_overwrite, daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert (x == 1).all()


def test_gradients_are_the_same_whatever_is_kept():
    from rsnn import create_model

    torch.manual_seed(0)
    model = create_model("rsnn-gesture-cl", frame_size=(64, 64))
    frames = torch.rand(4, 8, 2, 64, 64)

    def gradients():
        model.zero_grad()
        model(frames).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    first = gradients()
    again = gradients()  # in memory full of the first run's numbers
    assert all(map(torch.equal, first, again))


class _Unadvisable(mmap.mmap):
    def madvise(self, *_):
        raise OSError(22, "Invalid argument")


def test_it_works_where_the_system_takes_no_advice(monkeypatch):
    monkeypatch.setattr(memory.mmap, "mmap", _Unadvisable)
    x = block(8)
    x.fill_(1)
    place = x.data_ptr()
    del x
    assert block(8).data_ptr() == place


def test_where_the_system_has_no_more_the_tensor_stays_as_it_is(monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(memory.mmap, "mmap", refuse)
    made = torch.empty(2 * MIB)
    assert kept(made) is made
