"""Every block's state: whole sequence, chunks and single steps agree, and nothing stays behind in a module."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsnn.nn import (
    LIF,
    SCNN,
    SRM,
    ConcatFrames,
    ConvClassifier,
    ConvLSTM,
    ConvLSTMAttention,
    ConvLSTMEncoder,
    DecisionHead,
    FramePool,
    LastFrame,
    LSTMHead,
    MeanFrames,
    NeuNorm,
    SpikingNetwork,
    SumFrames,
)
from rsnn.nn.spiking_network import iterative_lif
from rsnn.nn.steps import add_up

T, N, C, SIZE = 6, 2, 2, (9, 8)


def head(reduction):
    return DecisionHead(reduction, ConvClassifier(reduction.out_channels(C), 3, SIZE, (4, 4), (2, 1)), C)


def lively(module, gain=8):
    """Widen a spiking network's fresh weights, with which its last layers would stay silent."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.normal_(std=gain / weight[0].numel() ** 0.5)
    return module


SEQUENCES = {  # an output for every step
    "ConvLSTM": lambda: ConvLSTM(C, 3),
    "ConvLSTM, even kernel": lambda: ConvLSTM(C, 3, 4, tie_hidden_gates=True),
    "ConvLSTMAttention": lambda: ConvLSTMAttention(C, 3, num_heads=2),
    "CL": lambda: ConvLSTMEncoder(C),
    "CL without pooling": lambda: ConvLSTMEncoder(C, pool=1),
    "CLA": lambda: ConvLSTMEncoder(C, (10,), attention=True, input_pool=4, pool=1),
    "FramePool": lambda: FramePool(C, 2),
    "LIF": lambda: LIF(1.7),
    "LIF, soft reset": lambda: LIF(1.7, v_reset=None),
    "PLIF": lambda: LIF(1.7, learn_tau=True),
    "SRM": lambda: SRM(1.5, 2.5, 0.7),
    "NeuNorm": lambda: NeuNorm(C, SIZE, 0.6),
}
DECISIONS = {  # one output, of all steps so far
    "SCNN": lambda: lively(SCNN(C, 3, SIZE, (2, 1), 8)),
    "SCNN, PLIF": lambda: lively(SCNN(C, 3, SIZE, (2, 2), 8, learn_tau=True, v_reset=None)),
    "SLAYER": lambda: lively(SpikingNetwork(C, 3, SIZE, ("SP2", "4C5", "8FC"), SRM(2.0), bias=False)),
    "STBP": lambda: lively(
        SpikingNetwork(C, 3, SIZE, ("MP2", "4C3", "AP2", "8FC"), iterative_lif(0.3, 0.3), 5, neunorm=0.9), gain=1
    ),
    "last": lambda: head(LastFrame()),
    "sum": lambda: head(SumFrames()),
    "mean": lambda: head(MeanFrames()),
    "concat": lambda: head(ConcatFrames(T)),
    "concat with room": lambda: head(ConcatFrames(T + 2)),
    "lstm": lambda: LSTMHead(C, 3, SIZE, votes=4),
    "LastFrame": LastFrame,
    "SumFrames": SumFrames,
    "MeanFrames": MeanFrames,
    "ConcatFrames": lambda: ConcatFrames(T),
}
BLOCKS = {**SEQUENCES, **DECISIONS}


def made(name):
    torch.manual_seed(1)
    return BLOCKS[name]().eval(), torch.randn(T, N, C, *SIZE) * 2


def flat(state):
    """Return the numbers of a state, however it is nested."""
    if state is None:
        return []
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, tuple):
        return [tensor for part in state for tensor in flat(part)]
    return [torch.tensor(float(state))]


def assert_agree(name, lengths):
    block, x = made(name)
    whole, whole_state = block(x)
    outputs, state = [], None
    for chunk in x.split(lengths):
        output, state = block(chunk, state)
        outputs.append(output)
    together = torch.cat(outputs) if name in SEQUENCES else outputs[-1]
    torch.testing.assert_close(together, whole, rtol=1e-5, atol=1e-6)
    for ours, expected in zip(flat(state), flat(whole_state), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("lengths", [[1] * T, [2, 3, 1], [5, 1]], ids=["steps", "chunks", "end"])
def test_whole_is_chunks_is_single_steps(name, lengths):
    assert_agree(name, lengths)


@given(cuts=st.sets(st.integers(1, T - 1)), name=st.sampled_from(sorted(BLOCKS)))
@settings(deadline=None, max_examples=60)
def test_wherever_it_is_cut(cuts, name):
    edges = [0, *sorted(cuts), T]
    assert_agree(name, [end - start for start, end in pairwise(edges)])


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {"FramePool", "last", "LastFrame"}))
def test_state_matters(name):
    """The agreement above would hold for a block that remembers nothing, too."""
    block, x = made(name)
    _, state = block(x[:3])
    assert not torch.allclose(block(x[3:], state)[0], block(x[3:])[0])


def snapshot(module):
    return {
        name: (set(part.__dict__), {n: b.clone() for n, b in part.named_buffers()})
        for name, part in module.named_modules()
    }


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_is_kept_between_calls(name):
    block, x = made(name)
    before, weights = snapshot(block), copy.deepcopy(block.state_dict())
    first, _ = block(x)
    _, half = block(x[:3])
    kept = [tensor.clone() for tensor in flat(half)]
    block(torch.randn_like(x[3:]), half)
    second, _ = block(x)
    assert torch.equal(first, second)
    assert all(map(torch.equal, flat(half), kept))  # nor is a state that was handed in written to
    for part, (attributes, buffers) in snapshot(block).items():
        assert attributes == before[part][0]
        assert all(torch.equal(buffers[n], b) for n, b in before[part][1].items())
    for key, value in block.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize("name", BLOCKS)
def test_samples_of_a_batch_do_not_see_each_other(name):
    block, x = made(name)
    together, _ = block(x)
    for n in range(N):
        alone, _ = block(x[:, n : n + 1])
        batch_dim = 1 if name in SEQUENCES else 0
        torch.testing.assert_close(alone.squeeze(batch_dim), together.select(batch_dim, n), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_future_does_not_reach_back(name):
    block, x = made(name)
    expected, _ = block(x)
    changed = x.clone()
    changed[4:] += 1
    result, _ = block(changed)
    assert torch.equal(result[:4], expected[:4])
    assert not torch.equal(result[4:], expected[4:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [(20, 64, 11), (60, 1, 11), (7, 2, 1), (20, 3, 5, 8, 8), (3, 1, 1)])
def test_sums_over_steps_on_a_gpu_are_those_of_single_steps(shape):
    torch.manual_seed(0)
    steps = torch.randn(shape)
    one_by_one = add_up(steps, None)
    assert torch.equal(add_up(steps.cuda(), None).cpu(), one_by_one)
    begun = add_up(steps[:2].cuda(), None)
    assert torch.equal(add_up(steps[2:].cuda(), begun).cpu(), one_by_one)
