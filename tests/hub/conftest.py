from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_clients import Client
from hub_server import Files, HubServer

import rsnn
from rsnn import nn


@pytest.fixture
def server() -> Iterator[HubServer]:
    hub = HubServer()
    yield hub
    hub.stop()
    assert hub.unknown == []


@pytest.fixture
def client(server: HubServer, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Start a process that uses `server`; all of a test share one cache."""
    started = []

    def start(**environment: str) -> Client:
        started.append(
            Client(
                {
                    "HF_ENDPOINT": server.url,
                    "HF_HOME": str(tmp_path / "huggingface"),
                    "HF_HUB_DISABLE_XET": "1",
                    "HF_HUB_DISABLE_TELEMETRY": "1",
                    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                    **environment,
                }
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.close()


def small_model(seed: int = 0) -> rsnn.RSNN:
    """RSNN of two recurrent layers and two spiking stages for 12 x 12 frames; a few kilobytes."""
    import torch

    torch.manual_seed(seed)
    encoder = nn.ConvLSTMEncoder(2, (2, 3))
    classifier = nn.SCNN(3, 3, (3, 3), (1, 2), channels=4, votes=2)
    preprocessing = rsnn.Preprocessing(frame_size=(12, 12), num_frames=4)
    model = rsnn.RSNN(
        encoder,
        classifier,
        class_names=("left", "right", "none"),
        preprocessing=preprocessing,
        logit_scale=10.0,
    )
    return model.eval()


@pytest.fixture
def model() -> rsnn.RSNN:
    return small_model()


def files_of(model: rsnn.RSNN, folder: Path) -> Files:
    """Save the model into `folder` and return the files."""
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def checkpoint(model: rsnn.RSNN, tmp_path: Path) -> Path:
    """The folder of a small saved model."""
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    return folder
