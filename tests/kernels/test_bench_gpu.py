"""scripts/bench_gpu.py, rehearsed on the CPU with small sizes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from rsnn import kernels

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_rehearsal(script, tmp_path, capsys):
    script.main(["--device", "cpu", "--small", "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == kernels.status()
    assert "lif spikingjelly" in report["agreement"]
    for found in report["agreement"].values():
        assert found["worst"] < 1e-4
        assert found["spikes equal"] > 0.999
    for row in report["lif"].values():
        assert set(row["seconds"]) == set(row["share of copy"]) == {"inference", "forward", "backward"}
    for batch in (1, 2):
        assert report["network"][f"inference {batch}"]["difference"] < 0.01
        seconds = report["network"][f"training {batch}"]["seconds"]
        assert set(seconds) == {"plain", "ours", "graphed", "ours bf16", "graphed bf16"}
        assert min(seconds.values()) > 0
    verdicts = {target["verdict"] for target in report["targets"]}
    assert verdicts == {"not measured"}  # on a CPU
    printed = capsys.readouterr().out
    for section in ("Agreement", "LIF alone", "The whole network", "Targets"):
        assert section in printed


def test_the_plain_network_is_the_same_network(script):
    bench = script.Bench("cpu", True, 0.0)
    model, plain, frames = script.networks(bench)
    with torch.no_grad():
        logits = model.eval()(frames)
        assert logits.std() > 0.01
        torch.testing.assert_close(plain.eval()(frames), logits)


def test_verdicts(script):
    bench = script.Bench("cpu", True, 0.0)
    bench.gpu = True
    for found, verdict in ((4.9, "UNMET"), (5.0, "met"), (None, "not measured")):
        bench.target("training", "training", found)
        assert bench.report["targets"][-1]["verdict"] == verdict


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_how_to_rehearse(script, capsys):
    with pytest.raises(SystemExit):
        script.main([])
    assert "there is no CUDA device; a rehearsal runs with --device cpu --small" in capsys.readouterr().err
