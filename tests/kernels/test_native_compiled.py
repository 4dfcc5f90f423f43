"""torch.compile takes the C++ kernels as nodes of one graph, for any T and batch; torch.export gets torch's own."""

from __future__ import annotations

import pytest
import torch

from rsnn import kernels
from rsnn.bench import make_lively
from rsnn.kernels.watched import is_exporting
from rsnn.models import RSNN
from rsnn.nn import SCNN, ConvLSTMEncoder


def network():
    torch.manual_seed(0)
    model = RSNN(ConvLSTMEncoder(hidden_channels=(2, 3)), SCNN(3, 4, (4, 4), (2,), 8)).eval()
    make_lively(model, frames(5, 2), 0.3)
    return model


def frames(T, N):
    return torch.poisson(torch.full((T, N, 2, 16, 16), 0.3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile's own
def test_one_graph_for_any_length_and_batch():
    import torch._dynamo.testing

    model = network()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter)
    with torch.no_grad():
        for T, N in ((5, 2), (6, 2), (7, 3), (9, 4), (12, 5)):
            x = frames(T, N)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)
    assert counter.frame_count <= 3  # fixed sizes, then any T, then any batch too
    assert torch._dynamo.explain(model)(frames(5, 2)).graph_break_count == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_gradients_of_the_compiled_network():
    model = network().train()
    compiled = torch.compile(model, backend="aot_eager")
    x = frames(5, 2)
    gradients = []
    for run in (compiled, model):
        model.zero_grad()
        run(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_an_export_has_no_operators_of_ours():
    model, x = network(), frames(5, 2)
    for kernel in {"native", "torch"} & set(kernels.available()):
        with kernels.use(kernel):
            exported = torch.export.export(model, (x,))
            assert not [node for node in exported.graph.nodes if "rsnn" in str(node.target)]
            torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1, 16, 16), (3, 2, 17, 19), (1, 3, 33, 16)], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_any_size_layout_and_mode_agrees_with_plain_torch(size, autocast):
    if "native" not in kernels.available():
        pytest.skip("no C++ compiler")
    T, N, H, W = size
    torch.manual_seed(0)
    encoder = ConvLSTMEncoder(hidden_channels=(2, 3))
    model = RSNN(encoder, SCNN(3, 4, encoder.output_size((H, W)), (2,), 8)).eval()
    x = torch.poisson(torch.full((T, N, 2, H, W), 0.3))
    layouts = [x, x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (T, N))]
    layouts.append(torch.zeros(T, 2 * N, 2, H, W)[:, ::2].copy_(x))
    for frames_ in layouts:
        for gradients in (False, True):
            found = []
            for kernel in ("native", "torch"):
                with kernels.use(kernel), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    with torch.set_grad_enabled(gradients):
                        features, state = model.encoder(frames_)
                    found.append((features, *state[1]))
            for ours, plain in zip(*found, strict=True):
                assert (ours.dtype, ours.shape) == (plain.dtype, plain.shape)
                assert ours.requires_grad == plain.requires_grad
                tolerance = 0.03 if autocast else 1e-5
                torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)


def test_compiling_is_not_exporting():
    """Else compiled models would leave our kernels, with the same results."""

    class Told(torch.nn.Module):
        def forward(self, x):
            return x + (1 if is_exporting() else 0)

    x = torch.zeros(1)
    assert torch.compile(Told(), backend="eager", fullgraph=True)(x) == 0
    assert torch.export.export(Told(), (x,)).module()(x) == 1
