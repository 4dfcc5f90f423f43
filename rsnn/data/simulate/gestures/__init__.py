"""Simulated performers of the eleven gestures of DVS128 Gesture."""

from rsnn.data.simulate.gestures.dataset import SUBJECTS, SimulatedGestures

__all__ = ["SUBJECTS", "SimulatedGestures"]
