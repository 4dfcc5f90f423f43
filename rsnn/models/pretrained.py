"""Between a model and its checkpoint's files: build and fill one, or write one down."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from rsnn import hub
from rsnn.errors import CheckpointError, ConfigError, InputError
from rsnn.models import config as configs
from rsnn.nn.checks import full_name, quantized_part

# What weights can be rounded to for storage; whatever they are stored in, they load as float32.
STORED_TYPES = (torch.float32, torch.float16, torch.bfloat16)


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
            f"{checkpoint.source} is a {kind}, not a {expected}: load it with "
            f"{configs.public_name(kind)}.from_pretrained(...), or "
            "with rsnn.load(...), which returns whatever a checkpoint is"
        )
    try:
        model = _build_empty(description)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint.source}: config.json cannot be built: {error}") from error
    model.load_state_dict(checkpoint.tensors(model.state_dict()), assign=True)
    return model.eval()


def _build_empty(description: object) -> nn.Module:
    """Build what `description` describes without memory for its weights.

    A config alone can thereby never allocate much: the weights' file has to hold every tensor it asks for.

    Raises:
        ConfigError: the description is not valid, or its tensors are larger than any memory.

    """
    try:
        with torch.device("meta"):
            return configs.build_model(description).float()  # whatever torch's default type is
    except (RuntimeError, OverflowError) as error:
        first_line = str(error).partition("\n")[0][:200]
        raise ConfigError(f"its sizes are too large ({first_line})") from error


def save_model(
    model: nn.Module,
    folder: str | os.PathLike[str],
    card: Callable[[dict[str, Any]], str],
    *,
    dtype: torch.dtype | None = None,
    recipe: dict[str, Any] | None = None,
) -> None:
    """Write `model` as a checkpoint into `folder`.

    Args:
        model: a model made of the library's own parts.
        folder: where to; made where it is missing.
        card: makes the model card's text from the config.
        dtype: one of `STORED_TYPES` to round the weights to; None keeps them as they are.
        recipe: what the weights were trained by, to be kept with them.

    Raises:
        InputError: `dtype` is another type.
        ConfigError: a part of the model is not the library's own, or was changed after it was built.
        CheckpointError: the folder cannot be written, or the weights are not finite, or too large for `dtype`.

    """
    if dtype not in (None, *STORED_TYPES):
        raise InputError(f"dtype={dtype!r}: expected one of {', '.join(map(str, STORED_TYPES))}, or None")
    description = configs.describe(model)
    _check_rebuilds(model, description)
    config = {
        "library_name": "rsnn",
        "library_version": version("rsnn"),
        "model": description,
        **({} if recipe is None else {"recipe": recipe}),
    }
    hub.write(folder, config, _rounded(model.state_dict(), dtype), card(config))


def _rounded(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return the tensors in `dtype`; biases and the statistics of norms, small but sensitive, stay as they are."""
    if dtype is None:
        return tensors
    rounded = {
        name: tensor.to(dtype) if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.isfinite().all() and not rounded[name].isfinite().all():
            raise CheckpointError(
                f"the weights {name!r} reach {tensor.abs().max().item():.3g}, beyond the largest number of {dtype}; "
                "expected dtype=torch.bfloat16 or None"
            )
    return rounded


def _check_rebuilds(model: nn.Module, description: dict[str, Any]) -> None:
    """Raise ConfigError unless `description` builds just this model: what cannot be loaded again is not saved."""
    if quantized := quantized_part(model):
        raise ConfigError(
            f"{quantized} is quantized, and checkpoints hold floating numbers; expected the model before: save that "
            "one, and quantize what from_pretrained loads"
        )
    try:
        rebuilt = _build_empty(description)
    except ConfigError as error:
        raise ConfigError(f"the model cannot be saved, it would not load again: {error}") from error
    ours, theirs = dict(model.named_modules()), dict(rebuilt.named_modules())
    for name in (*ours, *theirs):
        where = name or "the model"
        if name not in theirs or name not in ours or type(ours[name]) is not type(theirs[name]):
            found = full_name(ours[name]) if name in ours else "nothing"
            wanted = full_name(theirs[name]) if name in theirs else "nothing"
            raise ConfigError(
                f"{where} is {found} where config.json can only say {wanted}: it was changed after the model was "
                f"built. {configs.OWN_PARTS_ADVICE}"
            )
        for key, value in _settings(theirs[name]).items():
            if _settings(ours[name]).get(key) != value:
                raise ConfigError(
                    f"{where}.{key} is {getattr(ours[name], key, None)!r} where config.json can only say {value!r}: "
                    f"it was changed after the model was built. {configs.OWN_PARTS_ADVICE}"
                )
    shapes, wanted_shapes = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (model, rebuilt))
    if shapes != wanted_shapes:
        name = next(n for n in (*shapes, *wanted_shapes) if shapes.get(n) != wanted_shapes.get(n))
        raise ConfigError(
            f"the weights {name!r} have shape {shapes.get(name)} where config.json can only say "
            f"{wanted_shapes.get(name)}. {configs.OWN_PARTS_ADVICE}"
        )


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return what a module was built with: its public attributes other than tensors and modules."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and not isinstance(value, Tensor)
    }
