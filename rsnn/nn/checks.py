"""Checks at the boundary of a module, so that no one reads a bare shape mismatch from deep inside."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rsnn.errors import InputError


def check_positive(**sizes: object) -> None:
    """Raise InputError unless every argument is a whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{name}={size!r}: expected a whole number of at least 1")


def check_features(features: object, channels: int, owner: str) -> None:
    """Raise InputError unless `features` is a floating tensor (T, N, channels, H, W) of at least one step."""
    if not isinstance(features, Tensor):
        raise InputError(
            f"{owner} got a {type(features).__name__}; expected a tensor (T, N, {channels}, H, W). "
            "Arrays become one with torch.from_numpy(array).float()"
        )
    shape = tuple(features.shape)
    if features.ndim == 4 and shape[1] == channels:
        raise InputError(
            f"{owner} got shape {shape}, which has no batch dimension; expected (T, N, {channels}, H, W). "
            "For one sample use frames[:, None]"
        )
    if features.ndim != 5 or shape[2] != channels:
        raise InputError(f"{owner} got shape {shape}; expected (T, N, {channels}, H, W)")
    if 0 in shape:
        raise InputError(f"{owner} got shape {shape}; expected at least one step, one sample and one pixel")
    if not features.is_floating_point():
        raise InputError(f"{owner} got {features.dtype}; expected floating numbers: convert with frames.float()")


def check_state(state: Iterable[Tensor] | None, shape: tuple[int, ...], owner: str) -> None:
    """Raise InputError unless `state` is None or holds tensors of `shape`."""
    for tensor in state or ():
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{owner} got a state of shape {tuple(tensor.shape)} for input that needs {shape}: a state belongs to "
                "the batch and frame size it came from; pass state=None to start afresh"
            )
