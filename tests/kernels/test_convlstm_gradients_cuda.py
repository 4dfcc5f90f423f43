"""The CUDA kernels of a ConvLSTM's gradients after its backward steps, against PyTorch's in double precision."""

from __future__ import annotations

import cuda_on_host
import pytest
import torch
from test_lif_cuda import CPU, GPU
from torch.nn import functional as F

from rsnn.kernels import convlstm_gradients_cupy as gradients
from rsnn.kernels import cuda, gpu

TYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    gpu.works.cache_clear()
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
    yield request.param
    gpu.works.cache_clear()


def tensors(T, N, C, D, H, W, exact=False):
    torch.manual_seed(0)
    shapes = ((T, N, 4 * D, H, W), (T, N, C, H, W), (N, D, H, W), (T, N, D, H, W))
    if exact:  # few bits, so that no product nor sum is rounded
        return [torch.randint(-15, 16, shape).div(8) for shape in shapes]
    return [torch.randn(shape) for shape in shapes]


def expected_gradients(gate_grads, frames, first_hidden, hiddens):
    first = torch.zeros_like(hiddens[0]) if first_hidden is None else first_hidden
    inputs = torch.cat((frames, torch.cat((first[None], hiddens[:-1]))), 2).flatten(0, 1).double()
    grads = gate_grads.flatten(0, 1).double()
    shape = (grads.shape[1], inputs.shape[1], 3, 3)
    weights = torch.nn.grad.conv2d_weight(inputs, shape, grads, padding=1)
    C = frames.shape[2]
    return weights[:, :C], weights[:, C:], grads.sum((0, 2, 3))


def weight_gradients(device, *given):
    return gradients.weight_gradients(*(None if x is None else x.to(device) for x in given))


def close(found, expected, share):
    return found.shape == expected.shape and (found.cpu().double() - expected).norm() <= share * expected.norm()


@pytest.mark.parametrize("D", range(1, 7))
@pytest.mark.parametrize("C", range(1, 5))
def test_exact_weight_gradients_for_all_channels(device, C, D):
    given = tensors(2, 1, C, D, 2, 34, exact=True)
    for found, expected in zip(weight_gradients(device, *given), expected_gradients(*given), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found.cpu().double(), expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "size", [(3, 1, 2, 4, 4, 2), (1, 3, 4, 6, 5, 6), (2, 1, 4, 6, 2, 16), (2, 2, 2, 4, 6, 40)], ids=str
)
@pytest.mark.parametrize("start", [True, False])
def test_exact_weight_gradients_for_all_sizes(device, size, dtype, start, monkeypatch):
    monkeypatch.setattr(gradients, "ROWS", (4,))
    given = [x.to(dtype) for x in tensors(*size, exact=True)]
    given[2] = given[2] if start else None
    for found, expected in zip(weight_gradients(device, *given), expected_gradients(*given), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found.cpu().double(), expected)


@pytest.mark.parametrize("size", [(3, 2, 2, 4, 4, 64), (2, 1, 4, 6, 8, 32)], ids=str)
def test_weight_gradients_of_any_numbers(device, size):
    given = tensors(*size)
    found, expected = weight_gradients(device, *given), expected_gradients(*given)
    assert all(map(close, found[:2], expected[:2], (1e-3, 1e-3)))
    assert close(found[2], expected[2], 1e-3)
    if device == "cpu":  # to the nearest number of TF32, not cut: the exact products of numbers that are rounded
        nearest = [((x.view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32) for x in given]
        assert all(map(close, found, expected_gradients(*nearest), (1e-6,) * 3))


def test_nothing_before_the_first_step_is_read(device):
    given = tensors(1, 1, 2, 4, 2, 8, exact=True)
    given[3] = torch.full_like(given[3], float("nan"))
    for found, expected in zip(weight_gradients(device, *given), expected_gradients(*given), strict=True):
        assert torch.equal(found.cpu().double(), expected)
    given[2] = None
    assert not weight_gradients(device, *given)[1].any()


@pytest.mark.parametrize("D", range(1, 7))
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_exact_gradients_of_a_convolution_for_all_channels(device, channels, D):
    gate_grads = tensors(1, 1, 1, D, 3, 34, exact=True)[0]
    w = torch.randint(-15, 16, (4 * D, channels, 3, 3)).div(8)
    found = gradients.convolve_back(gate_grads.to(device), w.to(device), torch.float32)
    expected = F.conv_transpose2d(gate_grads[0].double(), w.double(), padding=1)[None]
    assert found.dtype == torch.float32
    assert torch.equal(found.cpu().double(), expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "size", [(3, 1, 4, 6, 4, 2), (1, 3, 4, 6, 5, 6), (2, 1, 3, 3, 2, 16), (1, 2, 4, 6, 6, 40)], ids=str
)
def test_gradients_of_a_convolution_for_all_sizes(device, size, dtype, monkeypatch):
    monkeypatch.setattr(gradients, "ROWS", (4,))
    gate_grads = tensors(*size, exact=True)[0].to(dtype)
    w = torch.randint(-15, 16, (gate_grads.shape[2], size[2], 3, 3)).div(8)
    expected = F.conv_transpose2d(gate_grads.flatten(0, 1).double(), w.double(), padding=1).unflatten(0, size[:2])
    for out_dtype in {dtype, torch.float32, torch.bfloat16}:
        found = gradients.convolve_back(gate_grads.to(device), w.to(device), out_dtype)
        assert found.dtype == out_dtype
        assert torch.equal(found.cpu(), expected.to(out_dtype))


def test_gradients_of_a_convolution_of_any_numbers(device):
    gate_grads, w = tensors(2, 2, 1, 6, 8, 32)[0], torch.randn(24, 4, 3, 3)
    found = gradients.convolve_back(gate_grads.to(device), w.to(device), torch.float32)
    expected = F.conv_transpose2d(gate_grads.flatten(0, 1).double(), w.double(), padding=1).unflatten(0, (2, 2))
    assert close(found, expected, 1e-3)


def test_from_memory_in_any_order(device):
    given = [x.to(device) for x in tensors(2, 1, 2, 4, 4, 8, exact=True)]
    turned = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in given]
    shifted = [torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape) for x in given]
    for others in (turned, shifted):
        pairs = zip(gradients.weight_gradients(*others), gradients.weight_gradients(*given), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_shares_of_the_work(monkeypatch):
    monkeypatch.setattr(gradients, "_processors", lambda _: 132)
    for images, size in ((1280, 128), (1280, 64), (3, 6), (1, 130)):
        rows, units, blocks = gradients._shares(images, size, size, 3, torch.device("cpu"))
        assert units == images * -(-size // rows) * -(-size // 32)
        assert blocks == min(396, -(-units // 4))
        turns = -(-units // (4 * blocks))
        assert turns * (min(rows, size) + 2) <= (1.2 * images * size * -(-size // 32) / (4 * blocks)) + 40


CHANGES = [
    ("const int at = 2 * k - m % 3", "const int at = 2 * k - 2 + m % 3"),
    ("m < 3 ? pixels[1][i] :", "m < 3 ? pixels[0][i] :"),
    ("pixels[2][i < 8 ? i + 2 : i]", "pixels[2][i]"),
    ("row < kRing ? row : row - kRing", "row < kRing ? row : row - kRing + 1"),
    ("g < 6 ? others[i] : one", "g < 7 ? others[i] : one"),
    ("2 * m + 2 - tap % 3", "2 * m + tap % 3"),
    ("sums[0][m][i] = sums[1][m][i]", "sums[0][m][i] = sums[2][m][i]"),
    ("y >= 0 && y < HEIGHT", "y > 0 && y < HEIGHT"),
    ("at > 6 ? 0 :", "at > 6 ? 0x3f800000 :"),
    ("at < 0 ? 0 :", "at < 0 ? 0x3f800000 :"),
    ("turn ? sum + sums", "turn ? sums"),
    ("lane % 2 ? kStrip : -kSide", "lane % 2 ? kStrip : -2 * kSide"),
    ("if (step >= 2) fetch<kGates>", "if (step >= 3) fetch<kGates>"),
    ("before < 0 && first ? first", "before < 0 && first ? hiddens"),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_kernels_with_wrong_results_are_left_out(device, monkeypatch, change):
    right = cuda.source
    assert change[0] in right("convlstm_gradients.cu")
    monkeypatch.setattr(cuda, "source", lambda file: right(file).replace(*change))
    compiled = cuda_on_host.compiled if device == "cpu" else cuda._compiled
    monkeypatch.setattr(cuda, "_compiled", compiled.__wrapped__)
    with pytest.warns(UserWarning, match="left out: its results are not those of the single operations"):
        assert not gradients.works(torch.device(device))


# Copies that arrive as late as they may: when a thread waits for them.
LATE = """
struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool exists;
};
static thread_local std::vector<std::vector<Copy>> groups(1);
template <int kBytes>
inline void start_copy(void* to, const void* from, bool exists) { groups.back().push_back({to, from, kBytes, exists}); }
inline void end_of_copies() { groups.emplace_back(); }
template <int kOpen>
inline void await() {
    while (static_cast<int>(groups.size()) > kOpen + 1) {
        for (const Copy& copy : groups.front())
            if (copy.exists) std::memcpy(copy.to, copy.from, copy.bytes);
            else std::memset(copy.to, 0, copy.bytes);
        groups.erase(groups.begin());
    }
}
"""


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("early", [False, True])
def test_no_row_is_used_before_it_has_arrived(monkeypatch, depth, early):
    right = cuda.source

    def late(file):
        start, end = "template <int kBytes>\ninline void start_copy", "inline void warp_together"
        before, after = right(file).split(start)
        source = before + LATE + end + after.split(end)[1]
        return source.replace("await<DEPTH - 1>", "await<DEPTH>") if early else source

    monkeypatch.setattr(cuda, "source", late)
    monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled.__wrapped__)
    monkeypatch.setattr(gradients, "WEIGHT_DEPTH", depth)
    monkeypatch.setattr(gradients, "BACK_DEPTH", depth)
    given = [x.bfloat16() for x in tensors(2, 1, 4, 6, 6, 40, exact=True)]
    found = gradients.weight_gradients(*given)
    right_ones = all(
        torch.equal(*pair) for pair in zip(map(torch.Tensor.double, found), expected_gradients(*given), strict=True)
    )
    w = torch.randint(-15, 16, (24, 4, 3, 3)).div(8)
    back = gradients.convolve_back(given[0], w, torch.float32)[:, 0]
    expected = F.conv_transpose2d(given[0][:, 0].double(), w.double(), padding=1)
    assert [right_ones, torch.equal(back.double(), expected)] == [not early] * 2


def test_right_kernels_are_taken(device, recwarn):
    assert gradients.works(torch.device(device))
    assert not recwarn.list
