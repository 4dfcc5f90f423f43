"""Whole models: an encoder and a classifier, with labels, preprocessing, and the ways to load and keep them."""

from rsnn.models.base import EventClassifier, ModelState
from rsnn.models.baselines import SLAYER, STBP
from rsnn.models.convlstm_classifier import ConvLSTMClassifier
from rsnn.models.prediction import Prediction
from rsnn.models.preprocessing import Preprocessing
from rsnn.models.rsnn import RSNN
from rsnn.models.scnn import SCNN

__all__ = [
    "RSNN",
    "SCNN",
    "SLAYER",
    "STBP",
    "ConvLSTMClassifier",
    "EventClassifier",
    "ModelState",
    "Prediction",
    "Preprocessing",
]
