"""`rsnn bench`: the reference is the same network, and what is printed and written is complete."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import rsnn
from rsnn import bench, kernels
from rsnn.bench import make_lively, measure
from rsnn.bench.measure import in_turn, peak_mb
from rsnn.bench.subject import firing, subject
from rsnn.cli import app
from rsnn.errors import InputError
from rsnn.models import RSNN
from rsnn.nn import LIF, SCNN, ConvLSTMEncoder, FramePool


def lively(frames, density=0.2, encoder=None):
    torch.manual_seed(0)
    encoder = encoder or ConvLSTMEncoder()
    model = RSNN(encoder, SCNN(encoder.out_channels, 11, (8, 8), (2, 1), 16)).eval()
    make_lively(model, frames, density)
    return model


@pytest.mark.parametrize("kernel", [name for name in ("native", "torch") if name in kernels.available()])
def test_the_plain_way_has_the_same_logits_and_gradients(kernel):
    torch.manual_seed(1)
    frames = torch.poisson(torch.full((6, 3, 2, 32, 32), 0.2)).double()
    model = lively(frames.float()).double()
    plain = bench.PlainNetwork(model).double().eval()
    with kernels.use(kernel):
        ours = model(frames)
        expected = plain(frames)
        assert ours.any()
        torch.testing.assert_close(ours, expected)
        # On from there, as a stream does.
        _, state = model.advance(frames[:4])
        logits, _ = model.advance(frames[4:], state)
        first = plain(frames[:4])
        torch.testing.assert_close((4 * first + 2 * plain.advance(frames[4:])) / 6, logits)
        model.train()(frames).square().sum().backward()
        plain.train()(frames).square().sum().backward()
    gates = plain.encoder[0].gates.weight.grad
    torch.testing.assert_close(model.encoder.layers[0].input_gates.weight.grad, gates[:, :2])
    torch.testing.assert_close(model.encoder.layers[0].hidden_gates.weight.grad, gates[:, 2:])
    torch.testing.assert_close(model.classifier.convs[1].conv.weight.grad, plain.scnn[4].weight.grad)


def test_the_plain_way_pools_before_the_spiking_network():
    model = rsnn.create_model("rsnn-nmnist-cl-nopool")
    frames = torch.poisson(torch.full((4, 2, 2, 34, 34), 0.3))
    make_lively(model, frames[:, :1], 0.1)
    model = model.double().eval()
    expected = bench.PlainNetwork(model).double().eval()(frames.double())
    assert expected.any()
    torch.testing.assert_close(model(frames.double()), expected)


def test_networks_that_the_plain_way_would_get_wrong():
    encoder = ConvLSTMEncoder(2, (4,))
    for changes in ({"learn_tau": True}, {"surrogate": kernels.Sigmoid()}):
        with pytest.raises(InputError, match="neurons of one tau"):
            bench.PlainNetwork(RSNN(encoder, SCNN(4, 11, (8, 8), (2,), **changes)))
    tied = ConvLSTMEncoder(2, (4,), tie_hidden_gates=True)
    with pytest.raises(InputError, match="gates that are not tied"):
        bench.PlainNetwork(RSNN(tied, SCNN(4, 11, (8, 8), (2,))))


def test_the_plain_way_attends_as_the_encoder_does():
    torch.manual_seed(1)
    frames = torch.poisson(torch.full((6, 3, 2, 32, 32), 0.02)).double()
    encoder = ConvLSTMEncoder(2, (10,), attention=True, input_pool=4, pool=1)
    with torch.no_grad():
        for weight in encoder.layers[0].attention.parameters():
            weight.mul_(5)  # so that pixels do tell more from less
    model = lively(frames.float(), encoder=encoder).double()
    plain = bench.PlainNetwork(model).double().eval()
    expected = plain(frames)
    assert expected.any()
    torch.testing.assert_close(model(frames), expected)
    model.train()(frames).square().sum().backward()
    plain.train()(frames).square().sum().backward()
    for name, own in zip(("query", "key", "value"), plain.attention[0].projections.weight.grad.chunk(3), strict=True):
        torch.testing.assert_close(getattr(encoder.layers[0].attention, name).weight.grad, own)


def test_as_many_spikes_as_asked_for():
    torch.manual_seed(1)
    frames = torch.poisson(torch.full((10, 2, 2, 32, 32), 0.2))
    for density in (0.05, 0.3):
        model = lively(frames, density)
        shares = []
        for stage in model.classifier.convs:
            stage.register_forward_hook(lambda _, __, out, to=shares: to.append(float((out[0] != 0).float().mean())))
        model(frames)
        assert shares == pytest.approx([density] * 2, rel=0.2)
    assert isinstance(model.classifier.convs[0].lif, LIF)


def test_fresh_weights_where_a_density_is_asked_for():
    model, frames, weights, different = subject("rsnn-nmnist-cl", 2, 0.2)
    assert weights.startswith("fresh weights under which 20%")
    assert (frames.shape, different) == ((20, 2, 2, 34, 34), 1)
    assert firing(model, frames[:, :1]) == pytest.approx(0.2, rel=0.2)


def test_weights_of_ones_own_and_of_a_tag(tmp_path):
    torch.manual_seed(3)
    mine = rsnn.create_model("rsnn-nmnist-cl", num_classes=3)
    mine.save_pretrained(tmp_path)
    model, frames, weights, _ = subject(str(tmp_path), 1)
    assert weights == "its own weights"
    assert frames.shape == (20, 1, 2, 34, 34)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), mine.parameters(), strict=True))
    assert subject("rsnn-gesture-cl.sim", 1)[2] == "published weights"


def test_what_cannot_be_timed_is_said_first(tmp_path, monkeypatch):
    for wrong, said in (
        ({"batches": ()}, r"batches=\(\): expected batch sizes of inference"),
        ({"batches": 4}, "batches=4: expected batch sizes of inference"),
        ({"batches": (1, 0)}, "batches=0: expected a whole number of at least 1"),
        ({"batches": (1.5,)}, r"batches=1\.5: expected a whole number of at least 1"),
        ({"train_batch": 0}, "train_batch=0: expected a whole number of at least 1"),
        ({"repeats": 0}, "repeats=0: expected a whole number of at least 1"),
        ({"density": 2.0}, r"density=2\.0: expected a share from 0 to 1"),
        ({"density": float("nan")}, "density=nan: expected a share from 0 to 1"),
    ):
        with pytest.raises(InputError, match=said):
            bench.bench("rsnn-nmnist-cl", **wrong)
    with pytest.raises(InputError, match="repeats=0: expected a whole number of at least 1"):
        bench.scaling(repeats=0)
    encoder = ConvLSTMEncoder()
    RSNN(encoder, SCNN(encoder.out_channels, 11, (8, 8), (2, 1), 16)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no preprocessing, so it takes no recordings"):
        bench.bench(str(tmp_path))
    with pytest.raises(rsnn.RSNNError, match="does not exist; expected a folder"):
        bench.bench("./nowhere")


def test_a_system_that_does_not_tell_the_largest_size(monkeypatch):
    monkeypatch.setattr(measure, "_status_kb", {"VmRSS": 1000.0, "VmHWM": None}.get)
    assert peak_mb(lambda: None) is None


def test_calls_run_in_turn_and_the_first_does_not_count():
    calls = []
    times = in_turn([lambda: calls.append("a"), lambda: calls.append("b")], 2)
    assert calls == ["a", "b"] * 3
    assert len(times) == 2


def test_peak_memory():
    peak = peak_mb(lambda: torch.ones(64 << 20).sum())  # 256 MiB
    if peak is None:
        pytest.skip("the system does not tell")
    assert 230 < peak < 300


def test_only_networks_like_those_of_the_zoo():
    with pytest.raises(InputError, match="not written for a FramePool under a SCNN; expected a ConvLSTMEncoder under"):
        bench.PlainNetwork(RSNN(FramePool(2), SCNN(2, 11, (8, 8), (2,))))
    two_heads = ConvLSTMEncoder(2, (10,), attention=True, num_heads=2)
    with pytest.raises(InputError, match="attention of one head"):
        bench.PlainNetwork(RSNN(two_heads, SCNN(10, 11, (8, 8), (2,))))
    with pytest.raises(InputError, match="no RSNN"):
        bench.bench("convlstm-nmnist-cl-sum")


def test_the_command():
    options = ["bench", "rsnn-nmnist-cl", "--batch", "1", "--train-batch", "2", "--repeats", "1"]
    result = CliRunner().invoke(app, [*options, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["weights"] == "published weights"
    assert report["same_decisions"]["float32"] == 1.0
    assert report["largest_difference"]["float32"] < 1e-3
    assert set(report["same_decisions"]) == {"float32", "bfloat16"}
    assert (report["samples"], report["copies"]) == (1, 2)
    jobs = [timing["job"] for timing in report["timings"]]
    assert jobs == [
        "inference, batch 1",
        "inference, batch 1 in bfloat16",
        "one step of a stream",
        "training step, batch 2",
        "training step, batch 2 in bfloat16",
        "events to frames",
        "decoding (N-MNIST)",
    ]
    for timing in report["timings"]:
        assert timing["ours_s"] > 0
        assert timing["ratio"] is None or timing["ratio"] > 0


def test_what_was_compared_is_counted_once():
    facts = ("m", "2", 1, {}, {}, "fresh weights", 0.1)
    same = ({"float32": 1.0}, {"float32": 0.0})
    one = bench.BenchReport(*facts, 1, 16, *same).summary()[-1]
    assert "on 1 recording, which fills batches by itself, up to 16 times: 100% in float32" in one
    assert "on 16 recordings: 100% in float32" in bench.BenchReport(*facts, 16, 1, *same).summary()[-1]


def test_tables_are_markdown():
    timing = bench.Timing("inference", 2.0, 0.5, 1.0, 0.25, per=10, gflop=5.0, plain_peak_mb=100.0, ours_peak_mb=20.0)
    assert (timing.ratio, timing.cpu_ratio, timing.gflops) == (4.0, 4.0, 10.0)
    report = bench.BenchReport("m", "2", 1, {}, {}, "fresh weights", 0.1, 1, 1, {}, {}, [timing])
    table = bench.markdown(bench.tables(report))
    assert table.splitlines() == [
        "| job | plain | rsnn | ratio | CPU time | GFLOP/s | memory, plain | rsnn |",
        "|---|---|---|---|---|---|---|---|",
        "| inference | 200.0 ms / sample | 50.0 ms / sample | 4.0 x | 4.0 x | 10 | 100 MB | 20 MB |",
    ]
