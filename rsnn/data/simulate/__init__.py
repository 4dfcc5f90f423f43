"""Simulated recordings: an event camera, moving images and gestures."""

from rsnn.data.simulate.camera import iter_events, to_events
from rsnn.data.simulate.cifar10dvs import SimulatedCIFAR10DVS, build_cifar10dvs
from rsnn.data.simulate.footage import read_frames
from rsnn.data.simulate.gestures import SimulatedGestures
from rsnn.data.simulate.moving import moving_image
from rsnn.data.simulate.parameters import PRESETS, DVSParameters
from rsnn.data.simulate.stills import record_images

__all__ = [
    "PRESETS",
    "DVSParameters",
    "SimulatedCIFAR10DVS",
    "SimulatedGestures",
    "build_cifar10dvs",
    "iter_events",
    "moving_image",
    "read_frames",
    "record_images",
    "to_events",
]
