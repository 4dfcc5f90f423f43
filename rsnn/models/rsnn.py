"""RSNN: a ConvLSTM encoder that carries time, under a spiking CNN that classifies."""

from __future__ import annotations

from copy import deepcopy
from typing import Self

from torch import nn

from rsnn.errors import InputError, shown
from rsnn.models.base import EventClassifier
from rsnn.models.config import register_model


@register_model
class RSNN(EventClassifier):
    """Recurrent spiking neural network: the paper's encoder (CL or CLA) under its spiking CNN.

    Args:
        encoder: a [`ConvLSTMEncoder`][rsnn.nn.ConvLSTMEncoder], or any module from frames to features.
        classifier: an [`SCNN`][rsnn.nn.SCNN], or any module from features (T, N, C, H, W) to logits (N, K).
        class_names: names of the K classes, in order.
        preprocessing: how recordings become frames; without it only frames can be classified.
        logit_scale: rates times this are the logits.

    Raises:
        InputError: the parts do not fit each other.

    """

    @classmethod
    def from_rnn(
        cls,
        rnn: EventClassifier,
        classifier: nn.Module,
        *,
        freeze_encoder: bool = True,
        logit_scale: float = 10.0,
    ) -> Self:
        """Put the trained encoder of `rnn` under a new spiking classifier (the paper's second phase).

        Args:
            rnn: the model whose encoder, class names and preprocessing are copied; it stays as it is.
            classifier: what goes over the encoder, usually an [`SCNN`][rsnn.nn.SCNN].
            freeze_encoder: keep the encoder's weights out of training; else they train on, whether or not they were
                frozen in `rnn`.
            logit_scale: rates times this are the logits.

        Raises:
            InputError: `rnn` is no model, or the classifier does not fit its encoder.

        """
        if not isinstance(rnn, EventClassifier):
            raise InputError(f"rnn is {shown(rnn)}; expected a model, as rsnn.load(...) returns one")
        model = cls(
            deepcopy(rnn.encoder),
            classifier,
            class_names=rnn.class_names if getattr(classifier, "num_classes", None) == rnn.num_classes else None,
            preprocessing=rnn.preprocessing,
            logit_scale=logit_scale,
        )
        return model.freeze("encoder") if freeze_encoder else model.unfreeze("encoder")
