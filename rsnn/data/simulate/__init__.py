"""Simulated recordings: an event camera, moving images and gestures."""

from rsnn.data.simulate.camera import to_events
from rsnn.data.simulate.gestures import SimulatedGestures
from rsnn.data.simulate.parameters import PRESETS, DVSParameters

__all__ = ["PRESETS", "DVSParameters", "SimulatedGestures", "to_events"]
