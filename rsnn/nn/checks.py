"""Checks at the boundary of a module, so that no one reads a bare shape mismatch from deep inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsnn.checks import is_whole
from rsnn.errors import InputError
from rsnn.kernels.autocast import autocasts


def check_positive(**sizes: Any) -> None:
    """Raise InputError unless every argument is a whole number of at least 1."""
    for name, size in sizes.items():
        if not is_whole(size) or size < 1:
            raise InputError(f"{name}={size!r}: expected a whole number of at least 1")


def check_sizes(name: str, sizes: object, expected: str, *, length: int | None = None) -> None:
    """Raise InputError unless `sizes` is a tuple (of `length`) of whole numbers of at least 1, as in `expected`."""
    if (
        not isinstance(sizes, tuple | list)
        or len(sizes) != (length or len(sizes))
        or not all(is_whole(size) and size > 0 for size in sizes)
    ):
        raise InputError(f"{name}={sizes!r}: expected {expected}, whole numbers of at least 1")


def check_features(features: object, channels: int | None, owner: str, like: Tensor | None = None) -> None:
    """Raise InputError unless `features` is a floating tensor (T, N, channels, H, W) of at least one step.

    Args:
        features: what came.
        channels: expected channels, None for any.
        owner: the module that speaks.
        like: a weight that it will be multiplied with; see `check_like`.

    """
    expected = f"(T, N, {'C' if channels is None else channels}, H, W)"
    if not isinstance(features, Tensor):
        raise InputError(
            f"{owner} got a {type(features).__name__}; expected a tensor {expected}. "
            "Arrays become one with torch.from_numpy(array).float()"
        )
    shape = tuple(features.shape)
    if features.ndim == 4 and shape[1] == channels:
        raise InputError(
            f"{owner} got shape {shape}, which has no batch dimension; expected {expected}. "
            "For one sample use frames[:, None]"
        )
    if features.ndim != 5 or channels not in (None, shape[2]):
        raise InputError(f"{owner} got shape {shape}; expected {expected}")
    if 0 in shape:
        raise InputError(f"{owner} got shape {shape}; expected at least one step, one sample and one pixel")
    check_like(features, like, owner)


def check_like(x: Tensor, like: Tensor | None, owner: str) -> None:
    """Raise InputError unless `x` is a floating tensor of the type and on the device of the weight `like`.

    Autocast casts any floating type but float64 by itself.
    """
    if not x.is_floating_point():
        raise InputError(f"{owner} got {x.dtype}; expected floating numbers: convert with .float()")
    if like is None:
        return
    if x.device != like.device:
        raise InputError(f"{owner} is on {like.device} and its input on {x.device}; expected the same device")
    if x.dtype != like.dtype and (x.dtype == torch.float64 or not autocasts(x.device.type)):
        raise InputError(f"{owner} got {x.dtype}; its weights are {like.dtype}: convert with .to({like.dtype})")


def weight_of(module: nn.Module) -> Tensor | None:
    """Return a weight that `module` multiplies its input with; None where it has none to show, as quantized ones."""
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else next(module.parameters(), None)


def full_name(part: nn.Module) -> str:
    """Return the name of a module's class, the whole of it: many a wrapper is called as what it wraps."""
    kind = type(part)
    stock = kind is getattr(nn, kind.__name__, None)
    return f"torch.nn.{kind.__name__}" if stock else f"{kind.__module__}.{kind.__qualname__}"


def quantized_part(model: nn.Module) -> str | None:
    """Return the place and the class of a layer that PyTorch quantized, as `output (a ...Linear)`, if there is one."""
    return next(
        (
            f"{name or 'the model'} (a {full_name(part)})"
            for name, part in model.named_modules()
            if ".quantized" in type(part).__module__ and type(part).__module__.startswith("torch.")
        ),
        None,
    )


def as_tensor(frames: np.ndarray[Any, Any] | Tensor) -> Tensor:
    """Return frames as a tensor, of the memory of an array where torch can have it.

    Raises:
        InputError: the array holds no real numbers.

    """
    if isinstance(frames, Tensor):
        return frames
    if frames.dtype.kind not in "biuf":
        raise InputError(f"got frames of {frames.dtype} values; expected counts of events, in any type of real number")
    # torch takes neither foreign byte orders nor arrays that run backwards, and warns of read-only ones.
    return torch.from_numpy(np.require(frames, frames.dtype.newbyteorder("="), ["C", "W"]))


def check_state(state: object, shapes: Sequence[tuple[int, ...]], owner: str, like: Tensor) -> None:
    """Raise InputError unless `state` is None or a tuple of floating tensors of `shapes`, on the device of `like`."""
    if state is None:
        return
    if (
        not isinstance(state, tuple | list)
        or len(state) != len(shapes)
        or not all(isinstance(tensor, Tensor) and tensor.is_floating_point() for tensor in state)
    ):
        raise InputError(
            f"{owner} got a {type(state).__name__} as its state; expected what an earlier call returned, or None"
        )
    for tensor, shape in zip(state, shapes, strict=True):
        if tuple(tensor.shape) != shape or tensor.device != like.device:
            raise InputError(
                f"{owner} got a state of shape {tuple(tensor.shape)} on {tensor.device} for input that needs {shape} "
                f"on {like.device}: a state belongs to the batch and frame size it came from; pass state=None to "
                "start afresh"
            )


def check_kind(state: object, kind: type, owner: str) -> None:
    """Raise InputError unless `state` is None or of the class that `owner` returns as its state."""
    if state is not None and not isinstance(state, kind):
        raise InputError(
            f"{owner} got a {type(state).__name__} as its state; expected the {kind.__name__} that an earlier call "
            "returned, or None"
        )
