from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_clients import Client
from hub_models import small_model
from hub_server import HubServer

import rsnn


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


@pytest.fixture
def model() -> rsnn.RSNN:
    return small_model()


@pytest.fixture
def checkpoint(model: rsnn.RSNN, tmp_path: Path) -> Path:
    """The folder of a small saved model."""
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    return folder
