"""What an energy measurement says: per layer, in total and per part, all per sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from rsnn.energy.costs import EnergyModel

PICO = 1e-12


@dataclass
class LayerEnergy:
    """One layer's operations per sample, summed over the time steps.

    Attributes:
        name: path of the module (and of the weight, where the module has several).
        kind: `"convolution"`, `"linear"`, `"product"` (of activations), `"pointwise"`, `"function"`, `"neuron"`, ...
        part: `"encoder"`, `"classifier"`, or `"other"` where the model has no such parts.
        binary: whether its input can only hold zeros and ones, by construction.
        dense_mac, mac: multiply-accumulates: all, and those with non-zero input and weight.
        dense_ac, ac: accumulates: all, and those with non-zero input and weight.
        spikes, neuron_steps: spikes that its neurons fired, and how often they could have.
        inputs, nonzero_inputs: elements of its inputs, and how many are not zero.
        weights, nonzero_weights: elements of its weight, and how many are not zero.
        parameters: learned numbers of the layer.
        state_bytes: what it carries from step to step.
        activation_bytes: its outputs over all steps.
        outputs: elements of its outputs over all steps.
        steps: how often a sample goes through it; its memories hold what it needs for one time.
        joules: of the effective operations, and of memory access where the energy model has it.

    """

    name: str
    kind: str
    part: str = "other"
    binary: bool = False
    dense_mac: float = 0.0
    mac: float = 0.0
    dense_ac: float = 0.0
    ac: float = 0.0
    spikes: float = 0.0
    neuron_steps: float = 0.0
    inputs: float = 0.0
    nonzero_inputs: float = 0.0
    weights: int = 0
    nonzero_weights: int = 0
    parameters: int = 0
    state_bytes: float = 0.0
    activation_bytes: float = 0.0
    outputs: float = 0.0
    steps: float = 0.0
    joules: float = 0.0

    @property
    def label(self) -> str:
        """Name and, where it is not clear from that, kind."""
        if self.kind == "total":
            return {"classifier": "classifier (decision part)"}.get(self.name, self.name)
        plain = self.kind in ("convolution", "linear")
        return self.name if plain else f"{self.name} {self.kind}"

    @property
    def firing_rate(self) -> float | None:
        """Spikes per neuron and step; None where nothing can fire."""
        return self.spikes / self.neuron_steps if self.neuron_steps else None

    @property
    def activation_sparsity(self) -> float | None:
        """Share of zeros in the inputs; None where they were not looked at."""
        return 1 - self.nonzero_inputs / self.inputs if self.inputs else None

    @property
    def weight_sparsity(self) -> float | None:
        """Share of zeros in the weights; None without weights."""
        return 1 - self.nonzero_weights / self.weights if self.weights else None

    def cost(self, model: EnergyModel) -> float:
        """Return the joules of this layer's effective operations under `model`, with its memory access."""
        picojoules = self.mac * model.mac_pj + self.ac * model.ac_pj
        if model.memory is not None:
            weight = model.word_pj(4 * self.weights) if self.weights else 0.0
            steps = self.steps or 1.0
            outside = model.word_pj(4 * self.outputs / steps)
            inside = model.word_pj(4 * self.inputs / steps) if self.inputs else outside
            # A multiply-accumulate reads its input and weight and keeps the sum in a register until it is written; an
            # accumulate is driven by a spike: one read of the spike, then weight, read and write of the sum for each.
            picojoules += self.mac * (inside + weight) + self.ac * (weight + 2 * outside)
            picojoules += self.nonzero_inputs * inside if self.binary else self.outputs * outside
        return picojoules * PICO

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {
            "firing_rate": self.firing_rate,
            "activation_sparsity": self.activation_sparsity,
            "weight_sparsity": self.weight_sparsity,
        }


_SUMMED = [f.name for f in fields(LayerEnergy) if f.name not in ("name", "kind", "part", "binary", "steps")]


def summed(name: str, layers: Iterable[LayerEnergy]) -> LayerEnergy:
    """Return the sum of layers as a layer of that name."""
    total = LayerEnergy(name, "total", name)
    for layer in layers:
        for field in _SUMMED:
            setattr(total, field, getattr(total, field) + getattr(layer, field))
    return total


@dataclass(frozen=True)
class EnergyReport:
    """Operations and energy of a model on recordings, per sample.

    Attributes:
        layers: in the order in which they first ran.
        not_counted: operations that are not understood, `"aten.name in path"`, and how often each ran;
            the figures are a lower bound where there are any.
        samples: recordings that were averaged over.
        model: the energy model.

    """

    layers: tuple[LayerEnergy, ...]
    not_counted: dict[str, int]
    samples: int
    model: EnergyModel

    @property
    def total(self) -> LayerEnergy:
        """All layers together."""
        return summed("total", self.layers)

    @property
    def parts(self) -> dict[str, LayerEnergy]:
        """Subtotals of encoder and classifier; the classifier's is the paper's definition, "decision part only"."""
        names = dict.fromkeys(layer.part for layer in self.layers)
        return {name: summed(name, (layer for layer in self.layers if layer.part == name)) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, ready for JSON."""
        return {
            "samples": self.samples,
            "energy_model": asdict(self.model),
            "layers": [layer.to_dict() for layer in self.layers],
            "parts": {name: part.to_dict() for name, part in self.parts.items()},
            "total": self.total.to_dict(),
            "not_counted": self.not_counted,
        }

    def tables(self) -> tuple[list[tuple[str, ...]], ...]:
        """Return three tables of text, the first row of each its header: operations, activity, memory."""
        layers = (*self.layers, *(p for p in self.parts.values() if p.name != "other"), self.total)
        operations: list[tuple[str, ...]] = [("operations", "MAC", "dense MAC", "AC", "dense AC", "µJ")]
        activity: list[tuple[str, ...]] = [("activity", "spikes", "firing rate", "zero inputs", "zero weights")]
        memory: list[tuple[str, ...]] = [("memory", "parameters", "state bytes", "activation bytes")]
        for layer in layers:
            if layer.dense_mac or layer.dense_ac:
                counts = (layer.mac, layer.dense_mac, layer.ac, layer.dense_ac)
                operations.append((layer.label, *map(_amount, counts), f"{1e6 * layer.joules:.4g}"))
            if layer.neuron_steps or layer.inputs or layer.weights:
                shares = (layer.firing_rate, layer.activation_sparsity, layer.weight_sparsity)
                spikes = _amount(layer.spikes) if layer.neuron_steps else ""
                activity.append((layer.label, spikes, *("" if s is None else f"{s:.1%}" for s in shares)))
            if layer.parameters or layer.state_bytes or layer.activation_bytes:
                kept = (layer.parameters, layer.state_bytes, layer.activation_bytes)
                memory.append((layer.label, *map(_amount, kept)))
        return operations, activity, memory

    def __str__(self) -> str:
        lines = []
        for rows in self.tables():
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for label, *cells in rows:
                aligned = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
                lines.append("  ".join((label.ljust(widths[0]), *aligned)).rstrip())
            lines.append("")
        lines.append(f"per sample, mean of {self.samples}; {self.model.source}")
        lines += [f"not counted: {what} ({times} x)" for what, times in self.not_counted.items()]
        return "\n".join(lines)


def _amount(number: float) -> str:
    """Return a number with three digits: 32.7 M, 5.1 k, 10."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
