"""Surrogate derivatives of the spike: what backward uses in place of the Heaviside step's zero.

Each is a small frozen dataclass that, called with the distance to the threshold `H - V_th`, returns the
derivative there. The formulas and their default widths are the ones SpikingJelly uses under the same names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rsnn.checks import as_float, is_number
from rsnn.errors import InputError
from rsnn.kernels.watched import is_transformed


@dataclass(frozen=True)
class _Width:
    alpha: float

    def __post_init__(self) -> None:
        _check_positive(self, "alpha", "larger values make the derivative narrower")


def _check_positive(surrogate: object, name: str, meaning: str) -> None:
    value = getattr(surrogate, name)
    if not is_number(value) or not 0 < value < math.inf:
        raise InputError(f"{type(surrogate).__name__}({name}={value!r}): expected a positive number; {meaning}")
    object.__setattr__(surrogate, name, as_float(value))


@dataclass(frozen=True)
class ATan(_Width):
    """`alpha / 2 / (1 + (pi / 2 * alpha * x)^2)` (Fang et al. 2021)."""

    alpha: float = 2.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * x).square())


@dataclass(frozen=True)
class Sigmoid(_Width):
    """`alpha * s * (1 - s)` with `s = sigmoid(alpha * x)` (Zenke & Ganguli 2018 and others)."""

    alpha: float = 4.0

    def __call__(self, x: Tensor) -> Tensor:
        s = (self.alpha * x).sigmoid()
        return self.alpha * s * (1 - s)


@dataclass(frozen=True)
class Rectangle(_Width):
    """`alpha` where `|x| < 1 / (2 alpha)`, else 0: the window of STBP (Wu et al. 2018; their width a is 1 / alpha)."""

    alpha: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return (x.abs() < 0.5 / self.alpha).to(x.dtype) * self.alpha


@dataclass(frozen=True)
class Exponential(_Width):
    """`scale * exp(-alpha * |x|)`: SLAYER's spike escape rate (Shrestha & Orchard 2018)."""

    alpha: float = 10.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self, "scale", "it is the derivative at the threshold")

    def __call__(self, x: Tensor) -> Tensor:
        return self.scale * torch.exp(-self.alpha * x.abs())


Surrogate = ATan | Sigmoid | Rectangle | Exponential


class _Spike(torch.autograd.Function):
    """A spike whose derivative is computed in backward, so that it has one itself (of gradients)."""

    @staticmethod
    def forward(x: Tensor, surrogate: Surrogate) -> Tensor:  # noqa: ARG004  (backward's)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate], output: Tensor) -> None:  # noqa: ARG004
        x, ctx.surrogate = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * ctx.surrogate(x), None


class _CompiledSpike(torch.autograd.Function):
    """The same for torch.compile, which makes a number that changes between models (a width) a variable of its graph.

    It fails on such a variable within an autograd function.
    """

    @staticmethod
    def forward(x: Tensor, derivative: Tensor) -> Tensor:  # noqa: ARG004  (backward's)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (derivative,) = ctx.saved_tensors
        return gradient * derivative, None


def spike(x: Tensor, surrogate: Surrogate) -> Tensor:
    """Return 1 where `x >= 0`, else 0, in `x`'s type; derivatives, backward and forward, are `surrogate(x)`."""
    if is_transformed():
        # Single operations, as every transformation knows them; what is added is 0, and its derivative is not.
        at = x.detach()
        return (x >= 0).to(x.dtype) + surrogate(at) * (x - at)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return (x >= 0).to(x.dtype)
    if torch.compiler.is_compiling():
        compiled: Tensor = _CompiledSpike.apply(x, surrogate(x.detach()))
        return compiled
    result: Tensor = _Spike.apply(x, surrogate)
    return result
