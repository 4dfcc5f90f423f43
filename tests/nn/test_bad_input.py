"""Wrong input to every public block: one error of the library that says what came and what was expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rsnn import nn
from rsnn.errors import InputError
from rsnn.nn.attention import PixelAttention
from rsnn.nn.srm import SRMState

C, SIZE = 2, (8, 8)
FRAMES = {
    "ConvLSTM": lambda: nn.ConvLSTM(C, 3),
    "ConvLSTMAttention": lambda: nn.ConvLSTMAttention(C, 3),
    "ConvLSTMEncoder": lambda: nn.ConvLSTMEncoder(C),
    "ConvLSTMEncoder, CLA": lambda: nn.ConvLSTMEncoder(C, (10,), attention=True, input_pool=4, pool=1),
    "PixelAttention": lambda: PixelAttention(C),
    "FramePool": lambda: nn.FramePool(C, 2),
    "SCNN": lambda: nn.SCNN(C, 3, SIZE),
    "SpikingNetwork": lambda: nn.SpikingNetwork(C, 3, SIZE, ("4C3", "AP2", "8FC"), nn.SRM()),
    "NeuNorm": lambda: nn.NeuNorm(C, SIZE),
    "DecisionHead": lambda: nn.DecisionHead(nn.SumFrames(), nn.ConvClassifier(C, 3, SIZE), C),
    "LSTMHead": lambda: nn.LSTMHead(C, 3, SIZE),
    "LastFrame": nn.LastFrame,
    "SumFrames": nn.SumFrames,
    "MeanFrames": nn.MeanFrames,
    "ConcatFrames": lambda: nn.ConcatFrames(4),
}
ANY_CHANNELS = {"LastFrame", "SumFrames", "MeanFrames", "ConcatFrames"}
WITHOUT_WEIGHTS = {"FramePool", *ANY_CHANNELS}
FIXED_SIZE = {"SCNN", "SpikingNetwork", "NeuNorm", "DecisionHead", "LSTMHead"}
STATELESS = {"PixelAttention", "FramePool", "LastFrame"}


def frames(*shape, **options):
    return torch.zeros(*(shape or (4, 2, C, *SIZE)), **options)


def error_of(block, *inputs):
    with pytest.raises(InputError) as caught:
        block(*inputs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_public_block_is_here():
    others = {"LIF", "SRM", "Voting", "ConvClassifier"}
    tested = {name.partition(",")[0] for name in FRAMES} - {"PixelAttention"}
    assert tested | others == {name for name in nn.__all__ if not name.endswith("State")}


@pytest.mark.parametrize("name", FRAMES)
def test_not_a_tensor(name):
    block = FRAMES[name]()
    for wrong, kind in ((np.zeros((4, 2, C, *SIZE), np.float32), "ndarray"), ([1.0], "list"), (None, "NoneType")):
        message = error_of(block, wrong)
        assert f"got a {kind}; expected a tensor (T, N, " in message
        assert "torch.from_numpy(array).float()" in message


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("shape", [(), (2,), (4, 2, C), (4, C, *SIZE), (4, 2, C, *SIZE, 1)], ids=str)
def test_wrong_number_of_dimensions(name, shape):
    message = error_of(FRAMES[name](), torch.zeros(shape))
    assert f"got shape {shape}" in message
    assert "expected (T, N, " in message
    if shape == (4, C, *SIZE) and name not in ANY_CHANNELS:
        assert "no batch dimension" in message
        assert "frames[:, None]" in message


@pytest.mark.parametrize("name", sorted(set(FRAMES) - ANY_CHANNELS))
def test_wrong_channels(name):
    message = error_of(FRAMES[name](), frames(4, 2, 3, *SIZE))
    assert message.endswith("got shape (4, 2, 3, 8, 8); expected (T, N, 2, H, W)")


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("shape", [(0, 2, C, *SIZE), (4, 0, C, *SIZE), (4, 2, C, 0, 8)], ids=str)
def test_nothing_in_it(name, shape):
    message = error_of(FRAMES[name](), torch.zeros(shape))
    assert f"got shape {shape}; expected at least one step, one sample and one pixel" in message


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_no_floating_numbers(name, dtype):
    message = error_of(FRAMES[name](), frames(dtype=dtype))
    assert f"got {dtype}; expected floating numbers: convert with .float()" in message


@pytest.mark.parametrize("name", sorted(set(FRAMES) - WITHOUT_WEIGHTS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_another_type_than_the_weights(name, dtype):
    message = error_of(FRAMES[name](), frames(dtype=dtype))
    assert f"got {dtype}; its weights are torch.float32: convert with .to(torch.float32)" in message
    FRAMES[name]().double()(frames(dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(set(FRAMES) - WITHOUT_WEIGHTS))
def test_types_under_autocast(name):
    block = FRAMES[name]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            block(frames(dtype=dtype))
        assert "got torch.float64" in error_of(block, frames(dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(set(FRAMES) - WITHOUT_WEIGHTS))
def test_another_device(name):
    message = error_of(FRAMES[name](), frames(device="meta"))
    assert "is on cpu and its input on meta; expected the same device" in message


@pytest.mark.parametrize("name", sorted(FIXED_SIZE))
def test_another_frame_size(name):
    message = error_of(FRAMES[name](), frames(4, 2, C, 8, 9))
    assert "8, 9" in message
    assert "8, 8" in message


@pytest.mark.parametrize("name", sorted(set(FRAMES) - STATELESS))
@pytest.mark.parametrize("shape", [(4, 3, C, *SIZE), (4, 1, C, *SIZE)], ids=["larger", "of one"])
def test_state_of_another_batch_size(name, shape):
    block = FRAMES[name]()
    _, state = block(frames(1, *shape[1:]))
    message = error_of(block, frames(2, 2, C, *SIZE), state)
    assert "a batch of" in message or "belongs to the batch" in message


@pytest.mark.parametrize("name", sorted(set(FRAMES) - STATELESS - FIXED_SIZE))
def test_state_of_another_frame_size(name):
    block = FRAMES[name]()
    _, state = block(frames(1, 2, C, 12, 8))
    assert "belongs to the batch" in error_of(block, frames(1, 2, C, *SIZE), state)


@pytest.mark.parametrize("name", sorted(set(FRAMES) - STATELESS))
@pytest.mark.parametrize("state", [7, "state", {"hidden": 1}, (1, 2, 3), (None,) * 3], ids=str)
def test_something_else_as_state(name, state):
    message = error_of(FRAMES[name](), frames(1, 2, C, *SIZE), state)
    assert "state" in message or "potential" in message
    assert "None" in message


@pytest.mark.parametrize("name", ["ConvLSTM", "ConvLSTMAttention", "SumFrames", "ConcatFrames"])
def test_whole_numbers_as_state(name):
    block = FRAMES[name]()
    _, state = block(frames(1, 2, C, *SIZE))
    wrong = state.long() if isinstance(state, torch.Tensor) else tuple(tensor.long() for tensor in state)
    assert "state" in error_of(block, frames(1, 2, C, *SIZE), wrong)


def test_scnn_state_of_another_network():
    _, state = nn.SCNN(C, 3, SIZE, (2, 2))(frames())
    assert "got states of 4 layers; it has 5" in error_of(nn.SCNN(C, 3, SIZE), frames(), state)


def test_encoder_state_of_another_depth():
    _, state = nn.ConvLSTMEncoder(C)(frames())
    assert "each of its 3 layers" in error_of(nn.ConvLSTMEncoder(C, (3, 3, 3)), frames(), state)


def test_spiking_network_state_of_another_network():
    _, state = nn.SpikingNetwork(C, 3, SIZE, ("4C3",), nn.SRM())(frames())
    other = nn.SpikingNetwork(C, 3, SIZE, ("4C3", "8FC"), nn.SRM())
    assert "got states of 2 layers; it has 3" in error_of(other, frames(), state)
    assert "expected the SRMState" in error_of(
        nn.SpikingNetwork(C, 3, SIZE, ("4C3",), nn.SRM()),
        frames(),
        nn.SpikingNetwork(C, 3, SIZE, ("4C3",), nn.LIF())(frames())[1],
    )


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (np.zeros((2, 3), np.float32), None, "ndarray"),
        (torch.zeros(3), None, r"\(3,\); expected \(T, N, ...\)"),
        (torch.zeros(0, 3), None, r"\(0, 3\).*at least one step"),
        (torch.zeros(2, 3, dtype=torch.int32), None, "int32; expected floating"),
        (torch.zeros(2, 3), torch.zeros(3), "got a Tensor as its state; expected the SRMState"),
        (torch.zeros(2, 3), SRMState(*torch.zeros(4, 4)), r"a state of shape \(4,\).*needs \(3,\)"),
        (torch.zeros(2, 3), SRMState(*torch.zeros(4, 3, device="meta")), "on meta"),
        (torch.zeros(2, 3), SRMState(*torch.zeros(4, 3, dtype=torch.int64)), "state"),
    ],
)
def test_srm(x, state, message):
    with pytest.raises(InputError, match=message):
        nn.SRM()(x, state)


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (np.zeros((2, 3), np.float32), None, "ndarray"),
        (torch.zeros(3), None, r"\(3,\); expected \(T, N, ...\)"),
        (torch.zeros(0, 3), None, r"\(0, 3\).*at least one step"),
        (torch.zeros(2, 3, dtype=torch.int32), None, "int32; expected floating"),
        (torch.zeros(2, 3), torch.zeros(4), r"\(4,\).*\(3,\)"),
        (torch.zeros(2, 3), (torch.zeros(3),), "tuple"),
        (torch.zeros(2, 3), torch.zeros(3, device="meta"), "meta"),
    ],
)
def test_lif(x, state, message):
    with pytest.raises(InputError, match=message):
        nn.LIF()(x, state)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, C, *SIZE), np.float32), "ndarray; expected (N, 2, *(8, 8))"),
        (torch.zeros(2, 2, C, *SIZE), "(2, 2, 2, 8, 8); expected (N, 2, *(8, 8))"),
        (torch.zeros(C, *SIZE), "(2, 8, 8); expected"),
        (torch.zeros(2, 3, *SIZE), "(2, 3, 8, 8); expected"),
        (torch.zeros(2, C, 8, 9), "(2, 2, 8, 9); expected"),
        (torch.zeros(2, C, *SIZE, dtype=torch.int64), "int64; expected floating"),
        (torch.zeros(2, C, *SIZE, dtype=torch.float64), "float64; its weights are torch.float32"),
    ],
)
def test_conv_classifier(x, message):
    assert message in error_of(nn.ConvClassifier(C, 3, SIZE), x)


def test_voting():
    assert "got shape (2, 11); expected a tensor (..., K * 10)" in error_of(nn.Voting(), torch.zeros(2, 11))
    assert "list" in error_of(nn.Voting(), [1.0])
    assert "got shape ()" in error_of(nn.Voting(), torch.tensor(1.0))
