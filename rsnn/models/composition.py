"""Any encoder under any classifier: how the two are called, and whether they fit each other.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rsnn.errors import InputError
from rsnn.models.preprocessing import Preprocessing


def with_state(module: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Call `module` with or without a state, whichever it takes, and return its output and state."""
    output = module(x) if state is None else module(x, state)
    return output if isinstance(output, tuple) else (output, None)


def check_fit(encoder: nn.Module, classifier: nn.Module, preprocessing: Preprocessing | None) -> None:
    """Raise InputError unless the classifier takes what the encoder gives."""
    encoder_name, classifier_name = type(encoder).__name__, type(classifier).__name__
    given, wanted = getattr(encoder, "out_channels", None), getattr(classifier, "in_channels", None)
    if given is not None and wanted is not None and given != wanted:
        raise InputError(
            f"{encoder_name} gives features of {given} channels, but {classifier_name} takes {wanted}; "
            f"expected the classifier with in_channels={given}"
        )
    if preprocessing is None:
        return
    room = getattr(classifier, "num_frames", None)
    if room is not None and room < preprocessing.num_frames:
        raise InputError(
            f"{classifier_name} has room for {room} frames, but preprocessing makes {preprocessing.num_frames} of a "
            f"recording; expected num_frames={room} at most, or a classifier for {preprocessing.num_frames}"
        )
    frame_size = preprocessing.frame_size
    output_size, in_size = getattr(encoder, "output_size", None), getattr(classifier, "in_size", None)
    if output_size is not None and in_size is not None:
        if output_size(frame_size) != in_size:
            raise InputError(
                f"{encoder_name} turns frames of {frame_size} into features of {output_size(frame_size)} pixels, but "
                f"{classifier_name} takes {in_size}; expected the classifier with in_size={output_size(frame_size)}"
            )
    elif given is None or output_size is None or wanted is None:
        _try(encoder, classifier, frame_size)


@torch.no_grad()
def _try(encoder: nn.Module, classifier: nn.Module, frame_size: tuple[int, int]) -> None:
    """Run one empty frame through copies of modules that do not tell their sizes; raise InputError where that fails."""
    like = next(iter((*encoder.parameters(), *classifier.parameters())), torch.empty(0))
    if like.is_meta:  # a checkpoint's model before its weights are there: it was tried before it was saved
        return
    frames = torch.zeros(1, 1, getattr(encoder, "in_channels", 2), *frame_size, device=like.device, dtype=like.dtype)
    features = None
    try:
        features, _ = with_state(deepcopy(encoder).eval(), frames, None)
        logits, _ = with_state(deepcopy(classifier).eval(), features, None)
    except (RuntimeError, ValueError) as error:
        shown = f"features {tuple(features.shape)}" if features is not None else f"frames {tuple(frames.shape)}"
        failed = type(encoder if features is None else classifier).__name__
        raise InputError(f"{failed} does not take {shown}: {error}") from error
    if logits.ndim != 2 or logits.shape[0] != 1:
        raise InputError(
            f"{type(classifier).__name__} makes {tuple(logits.shape)} of one sample's features "
            f"{tuple(features.shape)}; expected logits (1, K)"
        )
