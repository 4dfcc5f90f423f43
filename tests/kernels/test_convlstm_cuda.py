"""The CUDA kernels of a ConvLSTM's steps, forward and backward, against the same in single operations of torch."""

from __future__ import annotations

import importlib

import cuda_on_host
import pytest
import torch
from test_lif_cuda import CPU, GPU
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from rsnn.kernels import (
    convlstm_cupy,
    convlstm_gradients_cupy,
    convlstm_sequence_cupy,
    convlstm_triton,
    cuda,
    gpu,
)
from rsnn.kernels.convlstm import _convolve, _steps

LAYER_ONE, LAYER_TWO = {"C": 2, "D": 4}, {"C": 4, "D": 6}
WIDE = {"H": 4, "W": 16}  # what a sequence takes in one launch
NAMES = ("frames", "w_input", "w_hidden", "bias", "hidden", "cell")
convlstm_module = importlib.import_module("rsnn.kernels.convlstm")


@pytest.fixture(params=[CPU, GPU])
def device(request, monkeypatch):
    gpu.works.cache_clear()
    if request.param == "cpu":
        monkeypatch.setattr(cuda, "_compiled", cuda_on_host.compiled)
    with torch.no_grad():
        yield request.param
    gpu.works.cache_clear()


def case(T=3, N=2, C=2, D=4, H=8, W=8, start=True, bias=True):
    torch.manual_seed(0)
    weights = (0.3 * torch.randn(4 * D, C, 3, 3), 0.3 * torch.randn(4 * D, D, 3, 3))
    state = (torch.randn(N, D, H, W).tanh(), torch.randn(N, D, H, W)) if start else (None, None)
    return torch.randn(T, N, C, H, W), *weights, torch.randn(4 * D) if bias else None, *state


def reference(frames, w_input, w_hidden, bias, hidden, cell, pool):
    from_input = _convolve(frames.flatten(0, 1), w_input, bias).unflatten(0, frames.shape[:2])
    features, hidden, cell = _steps(from_input, w_hidden, hidden, cell)
    return F.max_pool2d(features.flatten(0, 1), pool).unflatten(0, features.shape[:2]), hidden, cell


def run(device, inputs, pool, **options):
    return convlstm_cupy.convlstm(*(None if x is None else x.to(device) for x in inputs), pool, **options)


def check(expected, found, most):
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert float((one - other.cpu().float()).abs().max()) < most


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize(
    "size",
    [
        LAYER_ONE,
        LAYER_TWO | {"start": False},
        LAYER_ONE | {"T": 1, "H": 16, "W": 24, "start": False, "bias": False},
        LAYER_TWO | {"T": 5, "H": 4, "W": 32, "bias": False},
        {"C": 1, "D": 5, "H": 2, "W": 38},
        {"C": 3, "D": 1, "N": 1, "H": 6, "W": 2},
        LAYER_ONE | WIDE,
        LAYER_TWO | WIDE | {"T": 2, "W": 48, "start": False},
        {"C": 1, "D": 5, "H": 6, "W": 16, "T": 2},
        {"C": 3, "D": 3, "N": 1, "H": 2, "W": 16},
    ],
    ids=str,
)
def test_sequence(device, size, pool):
    inputs = case(**size)
    given = [None if x is None else x.clone() for x in inputs]
    found = run(device, inputs, pool)
    check(reference(*inputs, pool), found, 5e-3)
    assert all(one is None or torch.equal(one, other) for one, other in zip(given, inputs, strict=True))
    assert {x.dtype for x in found} == {torch.float32}


@pytest.mark.parametrize("rows", [2, 4, 8])
@pytest.mark.parametrize("size", [LAYER_ONE, LAYER_TWO], ids=str)
def test_blocks_of_an_image(device, monkeypatch, size, rows):
    """The rows of an image are divided among a cluster's blocks, each of which sees its neighbours' edges."""
    monkeypatch.setattr(cuda, "processors", lambda _: 16 // rows)
    inputs = case(**size, N=1, W=16)
    assert convlstm_sequence_cupy.supports(inputs[0].to(device), inputs[2])
    assert convlstm_sequence_cupy._rows(inputs[0].to(device), inputs[2].shape[1]) == rows
    check(reference(*inputs, 2), run(device, inputs, 2), 5e-3)


def test_what_a_sequence_takes(device):
    def takes(**size):
        frames, _, w_hidden, *_ = case(**size)
        return convlstm_sequence_cupy.supports(frames.to(device), w_hidden)

    assert takes(**WIDE)
    assert takes(T=1, N=1, H=128, W=128)
    assert takes(T=1, N=1, H=64, W=64, **LAYER_TWO)
    assert takes(T=1, N=1, H=260, W=352) is False  # 26 rows and more do not fit, ten blocks are too many
    assert takes(H=4, W=24) is False


@pytest.mark.parametrize("size", [LAYER_ONE, LAYER_TWO, LAYER_ONE | WIDE, LAYER_TWO | WIDE], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_types(device, size, dtype):
    frames, w_input, w_hidden, bias, hidden, cell = case(**size)
    frames, hidden = frames.to(dtype), hidden.to(dtype)
    expected = reference(frames.float(), w_input, w_hidden, bias, hidden.float(), cell, 2)
    found = run(device, (frames, w_input, w_hidden, bias, hidden, cell), 2)
    check(expected, found, 3e-2)
    assert [x.dtype for x in found] == [dtype, dtype, torch.float32]


@pytest.mark.parametrize("size", [{}, {"W": 16, "H": 4}, LAYER_TWO | {"W": 32, "H": 4}], ids=str)
def test_numbers_that_are_not_finite_or_large(device, size):
    inputs = case(**size)
    inputs[0][0, 0, 0, 0, 0] = float("nan")
    inputs[0][0, 1] *= 1e4
    expected, found = reference(*inputs, 2), run(device, inputs, 2)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.isnan(), other.isnan().cpu())
        assert 0 < one.isnan().sum() < one.numel()
        assert torch.allclose(one[1:2].nan_to_num(), other[1:2].cpu().nan_to_num(), atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [{}, WIDE, LAYER_TWO | WIDE], ids=str)
def test_in_two_parts_and_from_memory_in_any_order(device, size, dtype):
    frames, *others = case(T=4, **size)
    frames = frames.to(dtype)
    others[3] = others[3].to(dtype)
    whole = run(device, (frames, *others), 2)
    turned = frames.contiguous(memory_format=torch.preserve_format).transpose(3, 4).contiguous().transpose(3, 4)
    first, *state = run(device, (turned[:2], *others), 2)
    second, *state = run(device, (turned[2:], *others[:3], *state), 2)
    assert torch.equal(torch.cat((first, second)), whole[0])
    assert all(map(torch.equal, state, whole[1:]))


def tf32(x):
    """Round to the nearest number of TF32, as the kernels do."""
    return ((x.float().view(torch.int32) + (1 << 12)) & (-1 << 13)).view(torch.float32).double()


class Convolution(torch.autograd.Function):
    """A convolution in double precision of what the tensor cores get, and gradients of what they get backward."""

    @staticmethod
    def forward(ctx, x, w, dtype):
        scales = torch.full((len(w), 1, 1, 1), -1.442695041)
        scales[len(w) // 4 * 3 :] = 2.885390082
        ctx.save_for_backward(tf32(x), tf32(w))
        ctx.dtype = dtype
        return F.conv2d(tf32(x), tf32(w.float() * scales) / scales.double(), padding=1)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad = tf32(grad) if ctx.dtype == torch.float32 else grad.to(ctx.dtype).double()
        return F.conv_transpose2d(grad, w, padding=1), conv2d_weight(x, w.shape, grad, padding=1), None


def exact(frames, w_input, w_hidden, bias, hidden, cell, pool, dtype=torch.float32):
    """Run the layer in double precision, but for what the kernels round: factors, and what they store."""
    stored = (lambda x: x) if dtype == torch.float32 else (lambda x: x + (x.to(dtype).double() - x).detach())
    T, N, _, H, W = frames.shape
    D = w_hidden.shape[1]
    hidden = frames.new_zeros(N, D, H, W) if hidden is None else hidden
    cell = frames.new_zeros(N, D, H, W) if cell is None else cell
    features = []
    for x in frames:
        gates = Convolution.apply(x, w_input, dtype) + Convolution.apply(hidden, w_hidden, dtype)
        if bias is not None:
            gates = gates + bias.view(-1, 1, 1)
        i, f, o = gates[:, : 3 * D].sigmoid().chunk(3, 1)
        cell = f * cell + i * gates[:, 3 * D :].tanh()
        features.append(o * cell.tanh())
        hidden = stored(features[-1])
    return stored(F.max_pool2d(torch.cat(features), pool)).unflatten(0, (T, N)), hidden, cell


def trained(layer, inputs, pool, needed=range(6), outputs=range(3), **options):
    """Return results of a layer and the gradients of a loss of `outputs`, by the inputs that are `needed`."""
    with torch.enable_grad():
        given = [x if x is None else x.detach().clone().requires_grad_(i in needed) for i, x in enumerate(inputs)]
        results = layer(*given, pool, **options)
        loss = 0
        for i in outputs:
            generator = torch.Generator().manual_seed(i)
            weight = torch.randn(results[i].shape, generator=generator).bfloat16().to(results[i])
            loss = loss + (weight * results[i]).sum(dtype=torch.float64)
        loss.backward()
    return [x.detach() for x in results], {
        name: x.grad for name, x in zip(NAMES, given, strict=True) if x is not None and x.requires_grad
    }


def check_gradients(device, inputs, pool, most=1e-3, dtype=torch.float32, **options):
    expected, gradients = trained(exact, [x if x is None else x.double() for x in inputs], pool, dtype=dtype, **options)
    inputs = [x if x is None else x.to(device) for x in inputs]
    results, found = trained(convlstm_cupy.convlstm, inputs, pool, dtype=dtype, **options)
    check([x.float() for x in expected], results, most)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        if gradient is None:
            assert not found[name].any(), name
            continue
        assert found[name].dtype == inputs[NAMES.index(name)].dtype
        gap, largest = float((found[name].cpu().double() - gradient).abs().max()), float(gradient.abs().max())
        assert gap <= most * largest, f"{name}: {gap}"


@pytest.mark.parametrize(
    ("size", "pool"),
    [
        (LAYER_ONE, 2),
        (LAYER_TWO | {"start": False}, 2),
        (LAYER_ONE | {"T": 2, "H": 10, "W": 48}, 1),
        (LAYER_ONE | {"H": 4, "W": 32}, 2),
        (LAYER_TWO | {"H": 4, "W": 16}, 2),
        (LAYER_TWO | {"T": 2, "H": 4, "W": 16, "start": False}, 1),
        (LAYER_TWO | {"T": 2, "N": 1, "H": 6, "W": 34, "bias": False}, 2),
        (LAYER_ONE | {"T": 1, "start": False, "bias": False}, 2),
        ({"C": 1, "D": 5, "H": 2, "W": 38, "T": 2}, 2),
        ({"C": 3, "D": 1, "N": 1, "H": 6, "W": 2}, 2),
        ({"C": 4, "D": 2, "T": 2, "N": 3, "H": 12, "W": 20}, 1),
        ({"C": 2, "D": 3, "T": 2, "N": 1, "H": 4, "W": 6}, 2),
    ],
    ids=str,
)
def test_gradients(device, size, pool):
    check_gradients(device, case(**size), pool)


@pytest.mark.parametrize("size", [LAYER_ONE, LAYER_TWO | {"W": 12}], ids=str)
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_reduced_types(device, size, dtype, pool):
    frames, *weights, hidden, cell = case(**size)
    frames, hidden = frames.to(dtype), hidden.to(dtype)
    # A state that is rounded otherwise is as far off as that.
    check_gradients(device, (frames, *weights, hidden, cell), pool, 2e-2, dtype)


@pytest.mark.parametrize("size", [LAYER_ONE, LAYER_TWO], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_a_sequence_in_reduced_types(device, size, dtype):
    """Without pooling: of pixels that are nearly equal, forward and backward may take another one for the largest."""
    frames, *weights, hidden, cell = case(**size | WIDE)
    check_gradients(device, (frames.to(dtype), *weights, hidden.to(dtype), cell), 1, 2e-2, dtype)


@pytest.mark.parametrize("index", range(6))
def test_only_the_gradients_that_are_asked_for(device, index):
    check_gradients(device, case(T=2), 2, needed=[index])


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("output", range(3))
def test_gradients_of_one_result(device, output, pool):
    check_gradients(device, case(T=2), pool, outputs=[output])


def test_many_images_in_either_order(device, monkeypatch):
    inputs = case(T=2, N=7, H=4, W=4)
    check_gradients(device, inputs, 2)
    found = []
    for alternate in (True, False):
        monkeypatch.setattr(convlstm_cupy, "ALTERNATE", alternate)
        given = [x.to(device) for x in inputs]
        results, gradients = trained(convlstm_cupy.convlstm, given, 2)
        found.append([*results, *gradients.values()])
    assert all(map(torch.equal, *found))


def test_equal_pixels_give_the_gradient_to_the_first(device):
    frames, *others = case(T=1, start=False)
    inputs = (torch.zeros_like(frames), *others)
    expected, gradients = trained(reference, inputs, 2)
    results, found = trained(convlstm_cupy.convlstm, [x if x is None else x.to(device) for x in inputs], 2)
    check(expected, results, 1e-3)
    # All pixels of an image are equal, so that only the gradient's place says which of a window's it went to.
    assert float((found["frames"].cpu() - gradients["frames"]).abs().max()) < 5e-3 * float(
        gradients["frames"].abs().max()
    )


def test_gradients_that_are_not_finite(device):
    inputs = case(T=2, **LAYER_TWO)
    inputs[0][1, 0, 1, 3, 3] = float("nan")
    _, expected = trained(exact, [x.double() for x in inputs], 1)
    _, found = trained(convlstm_cupy.convlstm, [x.to(device) for x in inputs], 1)
    for name, gradient in expected.items():
        assert torch.equal(found[name].isnan().cpu(), gradient.isnan()), name
        assert gradient.isnan().any()
    assert not expected["frames"].isnan().all()


def test_what_is_given_stays_as_it_is(device):
    inputs = [x.to(device) for x in case()]
    before = [x.clone() for x in inputs]
    with torch.enable_grad():
        given = [x.clone().requires_grad_() for x in inputs]
        results = convlstm_cupy.convlstm(*given, 2)
        gradients = [torch.ones_like(x) for x in results]
        once = torch.autograd.grad(results, given, gradients, retain_graph=True)
        again = torch.autograd.grad(results, given, gradients)
    assert all(bool((x == 1).all()) for x in gradients)
    assert all(map(torch.equal, once, again))
    assert all(map(torch.equal, before, given))


def test_memory_in_any_order(device):
    inputs = [x.to(device) for x in case(T=2)]
    turned = [x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.ndim > 1 else x for x in inputs]
    results, gradients = trained(convlstm_cupy.convlstm, inputs, 2)
    others, found = trained(convlstm_cupy.convlstm, turned, 2)
    assert all(map(torch.equal, results, others))
    assert all(map(torch.equal, gradients.values(), found.values()))


def test_operator_checks(device):
    """PyTorch's own checks of a custom operator: schema, autograd registration, fake tensors against real ones."""
    frames, *others = (x.to(device) for x in case(T=2, H=4, W=4))
    with torch.enable_grad():
        for given, pool, keep in ((frames.clone().requires_grad_(), 2, True), (frames, 1, False)):
            torch.library.opcheck(
                convlstm_cupy._convlstm,
                (given, *others, pool, keep),
                test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
            )
    kept = [torch.rand(1, *x.shape).to(device) for x in others[-2:]]
    for needed in ([True, False, False, False, True, False], [False, True, False, False, False, True]):
        gradients = (torch.rand(2, 2, 4, 2, 2).to(device), None, others[-1])
        given = (*gradients, frames, *others, *kept, 2, needed)
        torch.library.opcheck(convlstm_cupy._convlstm_backward, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("pool", [1, 2])
def test_compiled(device, monkeypatch, pool):
    monkeypatch.setattr(convlstm_module, "selected", lambda *_: "cupy")

    def layer(*given):
        return convlstm_module.convlstm(*given[:-1], pool=given[-1])

    inputs = [x.to(device) for x in case(T=2)]
    results, gradients = trained(convlstm_cupy.convlstm, inputs, pool)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    others, found = trained(compiled, inputs, pool)
    assert all(map(torch.equal, results, others))
    assert all(map(torch.equal, gradients.values(), found.values()))
    assert torch.equal(compiled(*inputs, pool)[0], results[0])


def test_no_second_derivative(device):
    inputs = [x.to(device) for x in case(T=1)]
    with torch.enable_grad():
        given = inputs[0].clone().requires_grad_()
        features = convlstm_cupy.convlstm(given, *inputs[1:], 2)[0]
        (gradient,) = torch.autograd.grad(features.sum(), given, create_graph=True)
        with pytest.raises(RuntimeError):
            gradient.sum().backward()


def test_what_it_takes(device, monkeypatch):
    frames, w_input, w_hidden, bias, _, _ = (None if x is None else x.to(device) for x in case())

    def takes(frames=frames, w_input=w_input, w_hidden=w_hidden, bias=bias, pool=2, dtype=torch.float32):
        return convlstm_cupy.supports(frames, w_input, w_hidden, bias, pool, dtype)

    assert takes()
    assert takes(pool=1, bias=None)
    assert takes(dtype=torch.bfloat16)
    assert not takes(frames[..., :7])
    assert not takes(frames[:, :0])
    assert not takes(pool=3)
    assert not takes(frames.double(), w_input.double(), w_hidden.double(), bias.double(), dtype=torch.float64)
    assert not takes(w_input=w_input[..., :1, :1], w_hidden=w_hidden[..., :1, :1])
    assert not takes(w_hidden=w_hidden.repeat(2, 2, 1, 1))
    assert not takes(frames.repeat(1, 1, 3, 1, 1), w_input.repeat(1, 3, 1, 1))
    with torch.enable_grad():
        assert takes(w_input=w_input.clone().requires_grad_())
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not takes()
    assert takes(dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("convlstm_step.cu", "(x - 1) *", "(x + 1) *"),
        ("convlstm_sequence.cu", "-ROWS * kRow, signals", "0 * kRow, signals"),
        ("convlstm_sequence.cu", "odd ? sum[0] : sum[2]", "odd ? sum[2] : sum[0]"),
        ("convlstm_back.cu", "(of_c - 1)", "(of_c + 1)"),
        ("convlstm_back.cu", "taps[k].of", "taps[2 - k].of"),
        ("convlstm_back.cu", "sums[i + 2][e][2]", "sums[i][e][2]"),
        ("convlstm_back.cu", "c * gg * gi", "c * gg * gf"),
        ("convlstm_back.cu", "h > largest", "h < largest"),
        ("convlstm_back.cu", "= c * gf", "= c * gi"),
        ("convlstm_back.cu", "r * Seen::kStride, q < CHANNELS", "(3 - r) * Seen::kStride, q < CHANNELS"),
    ],
)
def test_a_kernel_with_wrong_results_is_left_out(device, monkeypatch, file, right, wrong):
    source = cuda.source
    assert right in source(file)
    monkeypatch.setattr(cuda, "source", lambda name: source(name).replace(right, wrong if name == file else right))
    compiled = cuda._compiled
    anew = (cuda_on_host.compiled if device == "cpu" else compiled).__wrapped__
    monkeypatch.setattr(cuda, "_compiled", lambda name, *given: (anew if name == file else compiled)(name, *given))
    monkeypatch.setattr(convlstm_gradients_cupy, "works", lambda _: True)
    of_file = {"convlstm_step.cu": convlstm_cupy._works, "convlstm_sequence.cu": convlstm_sequence_cupy._works}
    works = of_file.get(file, convlstm_cupy._trains)
    with pytest.warns(UserWarning, match="left out: its results are not those of the torch kernel"):
        assert not works(torch.device(device))


@pytest.mark.parametrize("pool", [1, 2])
def test_it_is_chosen(device, monkeypatch, pool):
    chosen = ["cupy", "triton"]

    def selected(_, operator, besides=()):
        assert operator == "convlstm"
        return next(name for name in chosen if name not in besides)

    monkeypatch.setattr(convlstm_module, "selected", selected)
    calls = []
    kernel = convlstm_cupy.convlstm
    inputs = [x.to(device) for x in case()]
    assert convlstm_cupy._works(inputs[0].device)
    assert convlstm_cupy._trains(inputs[0].device)
    monkeypatch.setattr(convlstm_cupy, "convlstm", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    found = convlstm_module.convlstm(*inputs, pool=pool)
    check(reference(*case(), pool), found, 5e-3)
    with torch.autocast(device, torch.bfloat16):
        reduced = convlstm_module.convlstm(*inputs, pool=pool)
    check([x.cpu().float() for x in found], reduced, 3e-2)
    assert [x.dtype for x in reduced] == [torch.bfloat16, torch.bfloat16, torch.float32]
    with torch.enable_grad():
        inputs[1].requires_grad_()
        assert convlstm_module.convlstm(*inputs, pool=pool)[0].requires_grad
    assert len(calls) == 3
    # What it does not take is the next one's.
    monkeypatch.setattr(convlstm_triton, "supports", lambda *_: True)
    monkeypatch.setattr(convlstm_triton, "convlstm", lambda *_, **__: "triton")
    assert convlstm_module.convlstm(*inputs, pool=3) == "triton"
    chosen.remove("cupy")
    assert convlstm_module.convlstm(*inputs, pool=pool) == "triton"
    assert len(calls) == 3
