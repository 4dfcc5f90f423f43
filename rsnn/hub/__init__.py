"""Checkpoints as files: find, download, verify, read, write and publish them. Nothing here knows a model.

A checkpoint is a folder of three files: `config.json` (the model as plain data, labels and preprocessing included),
`model.safetensors` (its weights) and `README.md` (the model card).
"""

from rsnn.hub.checkpoint import Checkpoint
from rsnn.hub.entries import WeightsEntry, entries_of, find_entry, register
from rsnn.hub.files import CARD_FILE, CONFIG_FILE, FORMAT_VERSION, HERE, RESULTS_FOLDER, WEIGHTS_FILE, sha256_of, write
from rsnn.hub.remote import push
from rsnn.hub.resolution import resolve

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "FORMAT_VERSION",
    "HERE",
    "RESULTS_FOLDER",
    "WEIGHTS_FILE",
    "Checkpoint",
    "WeightsEntry",
    "entries_of",
    "find_entry",
    "push",
    "register",
    "resolve",
    "sha256_of",
    "write",
]
