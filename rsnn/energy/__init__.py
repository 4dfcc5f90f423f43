"""Energy: the operations a network really performs on given recordings, counted from outside, and what they cost."""

from rsnn.energy.costs import EnergyModel, energy_models
from rsnn.energy.measure import energy_report
from rsnn.energy.report import EnergyReport, LayerEnergy

__all__ = ["EnergyModel", "EnergyReport", "LayerEnergy", "energy_models", "energy_report"]
