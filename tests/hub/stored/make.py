"""Write the stored checkpoints of this version, each with an input and what the model makes of it.

    python tests/hub/stored/make.py [NAME...]

Run it once for a release, after its last change of numbers, into folders of that format version, or for new names only.
The folders of versions that have been released stay as they are: that they keep loading is what they are for.
"""

from __future__ import annotations

import shutil
import sys
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file

import rsnn
from rsnn import kernels, nn
from rsnn.hub import FORMAT_VERSION
from rsnn.models import SLAYER, STBP, EventClassifier

FOLDER = Path(__file__).parent


def models() -> dict[str, EventClassifier]:
    """Return one model of each class; between them they have every kind of part and argument."""
    preprocessing = rsnn.Preprocessing(
        frame_size=(16, 16), num_frames=5, split_by="number", normalize="log1p", window_ms=1500
    )
    return {
        "rsnn": rsnn.RSNN(
            nn.ConvLSTMEncoder(2, (3, 4), tie_hidden_gates=True),
            nn.SCNN(4, 3, (4, 4), (2, 1), channels=8, votes=2, v_reset=None, surrogate=kernels.Sigmoid(3.0)),
            class_names=("links", "rechts", "weder \N{HORIZONTAL ELLIPSIS} noch"),
            preprocessing=preprocessing,
            logit_scale=10.0,
        ),
        "convlstm": rsnn.ConvLSTMClassifier(
            nn.ConvLSTMEncoder(2, (4,), attention=True, num_heads=2, input_pool=2, pool=2, join="concat"),
            nn.DecisionHead(nn.ConcatFrames(5), nn.ConvClassifier(20, 3, (4, 4), (6, 5), (2, 1), votes=2), 4),
            preprocessing=preprocessing,
        ),
        "scnn": rsnn.SCNN(
            nn.FramePool(2, 2),
            nn.SCNN(2, 3, (8, 8), (2, 2), channels=8, votes=2, learn_tau=True, tau=3.0),
            class_names=("a", "b", "c"),
            logit_scale=10.0,
        ),
        "lstm": rsnn.ConvLSTMClassifier(nn.FramePool(2, 4), nn.LSTMHead(2, 3, (4, 4), votes=2)),
        "stbp": STBP(
            nn.FramePool(2, 2),
            nn.SpikingNetwork(
                2,
                3,
                (8, 8),
                ("6C3", "AP2", "16FC"),
                neuron=nn.LIF(1.5, 0.4, surrogate=kernels.Rectangle(2.0), detach_reset=False),
                votes=2,
                dropout=0.5,
                neunorm=0.9,
            ),
            logit_scale=10.0,
        ),
        "slayer": SLAYER(
            nn.FramePool(2, 2),
            nn.SpikingNetwork(
                2,
                3,
                (8, 8),
                ("SP2", "6C3", "16FC"),
                neuron=nn.SRM(1.5, 1.0),
                votes=2,
                bias=False,
            ),
            logit_scale=10.0,
        ),
    }


def enliven(model: torch.nn.Module, frames: torch.Tensor) -> None:
    """Draw weights with which the spiking layers fire, and give the norms statistics of their own."""
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            parameter.data *= 3
        elif "linear.weight" in name:
            parameter.data *= 8
        elif "synapses.weight" in name:
            parameter.data *= 5
    model.train()
    with torch.no_grad():
        for _ in range(50):
            model(frames)
    model.eval()


@torch.no_grad()
def replay(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return an input, its logits and its features, of the first seed that makes them worth to be stored."""
    for seed in range(1000):
        torch.manual_seed(seed)
        frames = torch.poisson(torch.full((5, 3, 2, 16, 16), 0.7))
        enliven(model, frames)
        logits = model(frames)
        double = deepcopy(model).double()(frames.double()).float()
        # In double precision it is the same: no potential lies so near its threshold that another order of summation
        # could change a spike.
        if logits.unique().numel() >= 5 and torch.allclose(logits, double, rtol=1e-6, atol=1e-6):
            return {"frames": frames, "logits": logits, "features": model.forward_features(frames).contiguous()}
    raise RuntimeError("the model says nothing with any seed")


def main() -> None:
    """Write them anew, all or those that are named."""
    for name, model in models().items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        tensors = replay(model)
        folder = FOLDER / f"v{FORMAT_VERSION}" / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        save_file({**tensors, "frames": tensors["frames"].to(torch.uint8)}, folder / "replay.safetensors")
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder.relative_to(FOLDER)}: {size} bytes, logits {tensors['logits'].tolist()}")  # noqa: T201


if __name__ == "__main__":
    main()
