"""Between a model and its checkpoint's files: build and fill one, or write one down."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from rsnn import hub
from rsnn.errors import CheckpointError, ConfigError
from rsnn.models import config as configs


def load_model(source: str | os.PathLike[str], *, expected: str | None = None, **hub_options: Any) -> nn.Module:
    """Load the checkpoint that `source` names, in eval mode on the CPU.

    Args:
        source: as in [`rsnn.hub.resolve`][].
        expected: the class it has to be, where that matters.
        **hub_options: as in [`rsnn.hub.resolve`][].

    Raises:
        RSNNError: it is not found, not valid, or of another class.

    """
    checkpoint = hub.resolve(source, **hub_options)
    description = checkpoint.config()["model"]
    kind = description.get("type") if isinstance(description, dict) else None
    if expected not in (None, kind) and kind in configs.model_types():
        raise CheckpointError(
            f"{checkpoint.source} is a {kind}, not a {expected}: load it with rsnn.{kind}.from_pretrained(...), or "
            "with rsnn.load(...), which returns whatever a checkpoint is"
        )
    try:
        # Without memory: the file's header has to agree before a config may make anything large.
        with torch.device("meta"):
            model = configs.build_model(description)
    except (ConfigError, RuntimeError, OverflowError) as error:
        raise ConfigError(f"{checkpoint.source}: config.json cannot be built: {error}") from error
    model.load_state_dict(checkpoint.tensors(model.state_dict()), assign=True)
    return model.eval()


def save_model(model: nn.Module, folder: str | os.PathLike[str], card: Callable[[dict[str, Any]], str]) -> None:
    """Write `model` as a checkpoint into `folder`.

    Args:
        model: a model made of the library's own parts.
        folder: where to; made where it is missing.
        card: makes the model card's text from the config.

    Raises:
        ConfigError: a part of the model is not the library's own.
        CheckpointError: the folder cannot be written.

    """
    config = {
        "library_name": "rsnn",
        "library_version": version("rsnn"),
        "model": configs.describe(model),
    }
    hub.write(folder, config, model.state_dict(), card(config))
