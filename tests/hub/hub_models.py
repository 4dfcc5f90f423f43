"""Models small enough to save, send and damage many times."""

from __future__ import annotations

from pathlib import Path

import torch

import rsnn
from rsnn import nn

FRAME_SIZE = (12, 12)
NUM_FRAMES = 4


def small_model(seed: int = 0, class_names: tuple[str, ...] = ("left", "right", "none")) -> rsnn.RSNN:
    """RSNN of two recurrent layers and two spiking stages for 12 x 12 frames; a few kilobytes."""
    torch.manual_seed(seed)
    model = rsnn.RSNN(
        nn.ConvLSTMEncoder(2, (2, 3)),
        nn.SCNN(3, 3, (3, 3), (1, 2), channels=4, votes=2),
        class_names=class_names,
        preprocessing=rsnn.Preprocessing(frame_size=FRAME_SIZE, num_frames=NUM_FRAMES),
        logit_scale=10.0,
    )
    return model.eval()


def files_of(model: rsnn.RSNN, folder: Path) -> dict[str, bytes]:
    """Save the model into `folder` and return the files."""
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}
