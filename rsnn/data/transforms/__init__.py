"""Changes of recordings and of their frames, for training and for cleaning: composable, seeded, picklable."""

from rsnn.data.transforms.base import Compose, Transform, Transformed
from rsnn.data.transforms.events import (
    BackgroundNoise,
    Crop,
    DropArea,
    DropEvents,
    DropTime,
    EventDrop,
    Flip,
    FlipPolarity,
    HotPixels,
    RandomWindow,
    Shift,
    TimeJitter,
    TimeScale,
)
from rsnn.data.transforms.filters import Denoise, Refractory
from rsnn.data.transforms.frames import (
    CutMix,
    Cutout,
    FlipFrames,
    MixUp,
    RotateFrames,
    ScaleFrames,
    ShiftFrames,
    ToFrames,
)

__all__ = [
    "BackgroundNoise",
    "Compose",
    "Crop",
    "CutMix",
    "Cutout",
    "Denoise",
    "DropArea",
    "DropEvents",
    "DropTime",
    "EventDrop",
    "Flip",
    "FlipFrames",
    "FlipPolarity",
    "HotPixels",
    "MixUp",
    "RandomWindow",
    "Refractory",
    "RotateFrames",
    "ScaleFrames",
    "Shift",
    "ShiftFrames",
    "TimeJitter",
    "TimeScale",
    "ToFrames",
    "Transform",
    "Transformed",
]
