"""What a ConvLSTM's threads share: results that do not depend on their number, and memory for those with work alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsnn import kernels
from rsnn.bench.measure import peak_mb
from rsnn.kernels import native
from rsnn.nn import ConvLSTM

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def everything(N, pool, threads):
    """Outputs, counts and gradients of a layer on frames that are cut into four parts."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer = ConvLSTM(2, 3)
    rows = 4 * (pool if pool % 2 == 0 else 2 * pool)
    frames = torch.randn(2, N, 2, rows, 18, requires_grad=True)
    with kernels.use("native"):
        features, state = layer(frames, pool=pool)
        outputs = (features, *state)
        gradients = torch.autograd.grad(outputs, [frames, *layer.parameters()], [torch.ones_like(x) for x in outputs])
        places = torch.zeros(3, rows, 18, dtype=torch.int64)
        with torch.no_grad():
            layer(frames, pool=pool, places=places)
    return [*outputs, *gradients, places]


def check_all():
    for pool in (1, 2):
        for N in range(1, 7):
            expected = everything(N, pool, 1)
            for threads in (2, 3, 5, 9):
                for mine, alone in zip(everything(N, pool, threads), expected, strict=True):
                    torch.testing.assert_close(mine, alone, rtol=1e-5, atol=1e-4)


def test_any_number_of_threads():
    check_all()


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_fewer_threads_than_asked_for(limit):
    """OpenMP may give fewer."""
    subprocess.run(
        [sys.executable, "-c", "from test_convlstm_threads import check_all; check_all()"],
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_THREAD_LIMIT": str(limit)},
        check=True,
        timeout=300,
    )


@pytest.mark.parametrize("gradients", [False, True])
def test_threads_without_a_sample_need_no_memory_for_one(gradients):
    layer = ConvLSTM(2, 4)
    frames = torch.rand(1, 1, 2, 400, 400)

    def run():
        with torch.set_grad_enabled(gradients):
            features, _ = layer(frames, pool=2)
            if gradients:
                features.sum().backward()

    peaks = []
    for threads in (1, 16):
        torch.set_num_threads(threads)
        run()
        peaks.append(peak_mb(run))
    if None in peaks:
        pytest.skip("the system does not tell how much memory a process has")
    assert peaks[1] < 1.5 * peaks[0] + 4
