"""Data sets of recordings: where their files are, which sample is in which part, and how to get them."""

from rsnn.data.datasets.base import EventDataset, Sample
from rsnn.data.datasets.cifar10dvs import CIFAR10DVS
from rsnn.data.datasets.folder import EventFolder
from rsnn.data.datasets.gesture import DVS128Gesture
from rsnn.data.datasets.nmnist import NMNIST

__all__ = ["CIFAR10DVS", "NMNIST", "DVS128Gesture", "EventDataset", "EventFolder", "Sample"]
