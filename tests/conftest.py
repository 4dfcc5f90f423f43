from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One example may take longer than hypothesis' deadline on a shared machine; `tmp_path` is written anew each time.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("shared")

# A shell lets what it runs in the background ignore Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real recordings."""
    folder = os.environ.get("RSNN_SAMPLES")
    if not folder:
        pytest.skip("RSNN_SAMPLES names no folder of recordings")
    return Path(folder)
