"""Energy models: what one operation, and one access to a memory of a given size, costs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from rsnn.errors import InputError, UnknownNameError, suggest

# Horowitz 2014, 45 nm, 0.9 V: (bytes of the memory, pJ of a 64-bit access).
_HOROWITZ_MEMORY = ((8 * 1024, 10.0), (32 * 1024, 20.0), (1024 * 1024, 100.0))
_WORDS_PER_ACCESS = 2  # 32-bit words in a 64-bit access


@dataclass(frozen=True)
class EnergyModel:
    """Cost of the operations, in picojoules.

    Attributes:
        name: what it is selected by.
        mac_pj: one multiplication with its addition.
        ac_pj: one addition.
        memory: (bytes, pJ of a 64-bit access) points to interpolate between; None leaves memory access out.
        source: where the figures are from.

    """

    name: str
    mac_pj: float
    ac_pj: float
    memory: tuple[tuple[float, float], ...] | None
    source: str

    def __post_init__(self) -> None:
        sizes = None if self.memory is None else [size for size, _ in self.memory]
        if sizes is not None and (not sizes or sizes != sorted(set(sizes))):
            raise InputError(f"memory={self.memory!r}: expected (bytes, pJ) points, by growing bytes, or None")

    def word_pj(self, size_bytes: float) -> float:
        """Return the cost of one 32-bit word of a memory of `size_bytes`: linear between the points, extended above.

        Below the smallest point its cost is kept, as no smaller memory was measured; a single point holds for all.
        """
        if self.memory is None:
            return 0.0
        if size_bytes <= self.memory[0][0] or len(self.memory) == 1:
            return self.memory[0][1] / _WORDS_PER_ACCESS
        pieces = list(pairwise(self.memory))
        (low, low_pj), (high, high_pj) = next((piece for piece in pieces if size_bytes <= piece[1][0]), pieces[-1])
        return (low_pj + (size_bytes - low) * (high_pj - low_pj) / (high - low)) / _WORDS_PER_ACCESS


_HOROWITZ = "Horowitz, Computing's energy problem, ISSCC 2014, 45 nm"
_MODELS = {
    model.name: model
    for model in (
        EnergyModel("horowitz", 3.7 + 0.9, 0.9, None, f"{_HOROWITZ}: 32-bit float, operations only"),
        EnergyModel("horowitz-int8", 0.2 + 0.03, 0.03, None, f"{_HOROWITZ}: 8-bit integer, operations only"),
        EnergyModel(
            "horowitz-memory", 3.7 + 0.9, 0.9, _HOROWITZ_MEMORY, f"{_HOROWITZ}: 32-bit float, and memory access"
        ),
        EnergyModel(
            "lemaire",
            3.1 + 0.1,
            0.1,
            _HOROWITZ_MEMORY,
            "Lemaire et al., An Analytical Estimation of Spiking Neural Networks Energy Efficiency, ICONIP 2022: "
            "32-bit integer, and memory access by linear interpolation of Horowitz' figures",
        ),
    )
}


def energy_models() -> tuple[str, ...]:
    """Return the names of the energy models that can be selected."""
    return tuple(_MODELS)


def energy_model(model: str | EnergyModel) -> EnergyModel:
    """Return the energy model of that name, or `model` itself.

    Raises:
        UnknownNameError: there is none of that name.

    """
    if isinstance(model, EnergyModel):
        return model
    if model not in _MODELS:
        raise UnknownNameError(
            f"there is no energy model {model!r}; expected one of {list(_MODELS)} or an EnergyModel."
            + suggest(str(model), _MODELS)
        )
    return _MODELS[model]
