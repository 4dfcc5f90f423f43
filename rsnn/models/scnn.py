"""SCNN: the spiking CNN alone, on the frames themselves."""

from __future__ import annotations

from rsnn.models.base import EventClassifier
from rsnn.models.config import register_model


@register_model
class SCNN(EventClassifier):
    """Stand-alone spiking CNN: what RSNN is compared with, to see what the recurrent encoder adds.

    On 128 x 128 frames the paper's 3- and 4-layer networks would have 0.27 and 4.3 billion weights in their first
    fully connected layer; frames are average-pooled by 4 first, which leaves the networks that stand over the encoder.

    Args:
        encoder: a [`FramePool`][rsnn.nn.FramePool], or any module from frames to features.
        classifier: a [`rsnn.nn.SCNN`][], or any module from features (T, N, C, H, W) to logits (N, K).
        class_names: names of the K classes, in order.
        preprocessing: how recordings become frames; without it only frames can be classified.
        logit_scale: rates times this are the logits.

    Raises:
        InputError: the parts do not fit each other.

    """
