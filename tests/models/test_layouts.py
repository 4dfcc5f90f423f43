"""However frames lie in memory, however many there are, whole networks say the same, with every kernel of the CPU."""

from __future__ import annotations

import pytest
import torch

import rsnn
from rsnn import kernels

LAYOUTS = {
    "channels_last": lambda x: x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]),
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every other": lambda x: x.repeat_interleave(2, 0)[::2],
    "a part of a larger one": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1))[..., 3:-1, 1:-2],
    "turned": lambda x: x.mT.contiguous().mT,
}


@pytest.mark.parametrize("name", ["rsnn-nmnist-cl", "rsnn-nmnist-cla", "convlstm-nmnist-cl-sum", "scnn-nmnist"])
@pytest.mark.parametrize(("steps", "batch", "side"), [(1, 1, 34), (3, 1, 35), (2, 3, 37)])
def test_layouts_and_sizes(name, steps, batch, side):
    torch.manual_seed(0)
    # In float64 no two ways of adding up differ by enough to make or unmake a spike.
    model = rsnn.create_model(name, frame_size=(side, side), num_frames=steps).double().eval()
    frames = torch.poisson(torch.full((steps, batch, 2, side, side), 0.5)).double()

    def run(x, *, gradients):
        with torch.set_grad_enabled(gradients):
            return model(x).detach()

    with kernels.use("torch"):
        wanted = run(frames, gradients=False)
    for gradients in (False, True):
        torch.testing.assert_close(run(frames, gradients=gradients), wanted)
        for layout, arranged in LAYOUTS.items():
            same = arranged(frames)
            assert torch.equal(same, frames), layout
            torch.testing.assert_close(run(same, gradients=gradients), wanted, msg=layout)
