"""What has been counted so far: a layer for each name and kind, and the rules that both ways of counting share.

Sums over all samples; `energy_report` divides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from rsnn.energy import arithmetic
from rsnn.energy.report import LayerEnergy

PRODUCTS = ("convolution", "linear", "product")


@dataclass
class _Convolution:
    """Calls of one convolution on inputs of one shape: their non-zero inputs summed (C, *S), and how many samples."""

    layer: LayerEnergy
    taps: Tensor
    every: int
    how: tuple[Any, ...]
    nonzero: Tensor
    samples: int = 0


class Ledger:
    """Layers with their counts.

    Attributes:
        layers: by name and kind, in the order in which they first ran.
        not_counted: operations without a rule, and how often each ran.
        seen: addresses of the parameters that took part in anything.

    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[tuple[str, str], LayerEnergy] = {}
        self.not_counted: Counter[str] = Counter()
        self.seen: set[int] = set()
        self._owners = {
            tensor.data_ptr(): (owner, owner if key == "weight" else f"{owner}.{key}".lstrip("."))
            for owner, module in model.named_modules()
            for key, tensor in module.named_parameters(recurse=False)
        }
        self._masks: dict[tuple[Any, ...], Tensor] = {}
        self._convolutions: dict[tuple[Any, ...], _Convolution] = {}
        self._carried: dict[tuple[str, str], float] = {}

    def layer(self, name: str, kind: str, weight: Tensor | None = None, sums: Tensor | None = None) -> LayerEnergy:
        """Return the layer of that name and kind, a new one where there is none.

        Args:
            name, kind: of the layer.
            weight: what it multiplies by, if anything.
            sums: of the weight's non-zero mask, along some axes.

        """
        layer = self.layers.get((name, kind))
        if layer is None:
            layer = self.layers[name, kind] = LayerEnergy(name, kind, binary=kind in PRODUCTS)
            if weight is not None and sums is not None:
                repeated = prod(size for size, step in zip(weight.shape, weight.stride(), strict=True) if step == 0)
                layer.weights, layer.nonzero_weights = weight.numel() // repeated, int(sums.sum()) // repeated
        return layer

    def is_parameter(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is a parameter of the model, or starts where one does."""
        return tensor.data_ptr() in self._owners

    def use(self, tensor: Tensor) -> None:
        """Note that a tensor took part, in case it is a parameter."""
        self.seen.add(tensor.data_ptr())

    def name_of(self, weight: Tensor | None, here: str) -> str:
        """Return the name of the layer that a weight makes: its module's, or `here` for what is no parameter."""
        owner = None if weight is None else self._owners.get(weight.data_ptr())
        return here if owner is None else owner[1]

    def convolution(
        self,
        name: str,
        weight: Tensor,
        nonzero: Tensor,
        samples: int,
        out_size: Sequence[int],
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool = False,
        groups: int = 1,
        binary: bool,
        bytes_per_element: int,
    ) -> None:
        """Count a convolution.

        Args:
            name: of the layer.
            weight: (D, C / groups, *K), or (C, D / groups, *K) where `transposed`.
            nonzero: its non-zero inputs, summed over steps and samples (C, *S).
            samples: how many inputs (C, *S) there were.
            out_size: of the output, without batch and channels.
            stride, padding, dilation, transposed, groups: as in `torch.nn.functional.conv2d` and its kind.
            binary: whether the input can only hold zeros and ones.
            bytes_per_element: of the output.

        """
        self.use(weight)
        taps = self._mask(weight, ("taps", groups, transposed))
        layer = self.layer(name, "convolution", weight, taps)
        layer.inputs += samples * nonzero.numel()
        layer.steps += samples
        layer.nonzero_inputs += int(nonzero.sum())
        self.split(layer, binary, 0, 0)
        every, channels = (
            (weight.shape[1], weight.shape[1] * groups) if transposed else (weight.shape[0] // groups, weight.shape[0])
        )
        how = (tuple(out_size), tuple(stride), tuple(padding), tuple(dilation), transposed)
        # The products are linear in the map of non-zero inputs: steps of one convolution are counted together.
        key = (id(layer), id(taps), tuple(nonzero.shape), *how)
        known = self._convolutions.setdefault(key, _Convolution(layer, taps, every, how, torch.zeros_like(nonzero)))
        known.nonzero += nonzero
        known.samples += samples
        outputs = samples * channels
        for side in out_size:
            outputs *= side
        self.wrote(layer, outputs, bytes_per_element)

    def carries(self, layer: LayerEnergy, size: float) -> None:
        """Note that a layer carries a state of `size` bytes a sample from one call to the next: the largest counts."""
        key = (layer.name, layer.kind)
        self._carried[key] = max(size, self._carried.get(key, 0.0))

    def finish(self, samples: int) -> None:
        """Add the convolutions and states that were collected in a pass of so many samples to their layers."""
        for key, size in self._carried.items():
            self.layers[key].state_bytes += samples * size
        self._carried.clear()
        for one in self._convolutions.values():
            effective = arithmetic.convolution(one.nonzero, one.taps, *one.how)
            pairs = arithmetic.taps_inside(one.nonzero.shape[1:], one.taps.shape[1:], *one.how)
            dense = len(one.nonzero) * one.every * pairs * one.samples
            self.split(one.layer, one.layer.binary, effective, dense)
        self._convolutions.clear()

    def linear(
        self, name: str, weight: Tensor, nonzero: Tensor, rows: int, *, binary: bool, bytes_per_element: int
    ) -> None:
        """Count `rows` inputs (F,) times a weight (D, F), of which `nonzero` (F,) are not zero."""
        self.use(weight)
        columns = self.columns(weight.t())
        layer = self.layer(name, "linear", weight, columns)
        effective = arithmetic.matrix_product(nonzero, columns)
        self.split(layer, binary, effective, rows * weight.numel())
        layer.inputs += rows * weight.shape[1]
        layer.steps += rows
        layer.nonzero_inputs += int(nonzero.sum())
        self.wrote(layer, rows * weight.shape[0], bytes_per_element)

    def product(self, here: str, left: Tensor, right: Tensor, out: Tensor, *, binary: bool) -> None:
        """Count a matrix product (..., m, k) by (..., k, n); a parameter among the two makes it a linear layer."""
        weight = next((t for t in (right, left) if self.is_parameter(t)), None)
        activation = left if weight is not left else right
        rows, columns = self.rows(left), self.columns(right)
        kind, sums = ("product", None) if weight is None else ("linear", rows if weight is left else columns)
        layer = self.layer(self.name_of(weight, here), kind, weight, sums)
        dense = left.numel() * (right.shape[-1] if right.ndim > 1 else 1)
        self.split(layer, binary, arithmetic.matrix_product(rows, columns), dense)
        layer.inputs += activation.numel()
        shared = activation.shape[-1] if activation is left else right.shape[-2 if right.ndim > 1 else 0]
        layer.steps += activation.numel() // shared
        layer.nonzero_inputs += int((rows if activation is left else columns).sum())
        self.wrote(layer, out.numel(), out.element_size())

    def pointwise(
        self, name: str, kind: str, elements: int, bytes_per_element: int, **counts: int | tuple[int, int]
    ) -> LayerEnergy:
        """Count operations by element: `mac` and `ac`, each one number, or an effective and a dense one."""
        layer = self.layer(name, kind)
        for what, count in counts.items():
            effective, dense = count if isinstance(count, tuple) else (count, count)
            setattr(layer, what, getattr(layer, what) + effective)
            setattr(layer, f"dense_{what}", getattr(layer, f"dense_{what}") + dense)
        self.wrote(layer, elements, bytes_per_element)
        return layer

    def split(self, layer: LayerEnergy, binary: bool, effective: int, dense: int) -> None:
        """Add products to a layer: accumulates where its input is binary at every call, else multiply-accumulates."""
        # What one call finds real is real: earlier calls (a state of zeros) move over.
        if not binary and (layer.binary or layer.dense_ac):
            layer.mac, layer.dense_mac = layer.mac + layer.ac, layer.dense_mac + layer.dense_ac
            layer.ac = layer.dense_ac = 0.0
        layer.binary = binary and layer.binary
        if layer.binary:
            layer.ac, layer.dense_ac = layer.ac + effective, layer.dense_ac + dense
        else:
            layer.mac, layer.dense_mac = layer.mac + effective, layer.dense_mac + dense

    @staticmethod
    def wrote(layer: LayerEnergy, elements: int, bytes_per_element: int) -> None:
        """Add outputs to a layer."""
        layer.outputs += elements
        layer.activation_bytes += elements * bytes_per_element

    def rows(self, left: Tensor) -> Tensor:
        """Return how many non-zeros the columns of (..., m, k) have: (..., k)."""
        return self._mask(left, ("rows",))

    def columns(self, right: Tensor) -> Tensor:
        """Return how many non-zeros the rows of (..., k, n) have: (..., k)."""
        return self._mask(right, ("columns",))

    def _mask(self, weight: Tensor, how: tuple[Any, ...]) -> Tensor:
        """Return the sums of a tensor's non-zero mask; a parameter's once for the whole measurement."""
        key = (weight.data_ptr(), tuple(weight.shape), tuple(weight.stride()), *how)
        if key in self._masks:
            return self._masks[key]
        if how[0] == "taps":
            sums = arithmetic.nonzero_per_tap(weight, how[1], how[2])
        elif weight.ndim == 1:
            sums = (weight != 0).long()
        else:
            along = -2 if how[0] == "rows" else -1
            sums = arithmetic.nonzero_map(weight.movedim(along, 0))
        if self.is_parameter(weight):
            self._masks[key] = sums
        return sums
