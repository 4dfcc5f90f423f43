"""ConvLSTMClassifier: a ConvLSTM encoder under an ordinary decision head (the paper's RNN module)."""

from __future__ import annotations

from rsnn.models.base import EventClassifier
from rsnn.models.config import register_model


@register_model
class ConvLSTMClassifier(EventClassifier):
    """Encoder (CL or CLA) with one of the five decision heads of Table 1; trained first, its encoder goes into RSNN.

    Args:
        encoder: a [`ConvLSTMEncoder`][rsnn.nn.ConvLSTMEncoder], or any module from frames to features.
        classifier: a [`DecisionHead`][rsnn.nn.DecisionHead], an [`LSTMHead`][rsnn.nn.LSTMHead], or any module from
            features (T, N, C, H, W) to logits (N, K).
        class_names: names of the K classes, in order.
        preprocessing: how recordings become frames; without it only frames can be classified.
        logit_scale: the head's output times this is the logits.

    Raises:
        InputError: the parts do not fit each other.

    """
