"""Any encoder under any classifier: how the two are called, and whether they fit each other.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rsnn.errors import InputError, shown
from rsnn.models.preprocessing import Preprocessing

_LONGEST_TEXT = 2**8
PLAIN_TEXT = f"at most {_LONGEST_TEXT} characters, none of them a line's end, a control or invisible"
_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # which Persian and emoji are written with


def is_plain_text(text: str) -> bool:
    """Tell whether a text may be in a configuration: one that is short, and shows where it is printed."""
    if len(text) > _LONGEST_TEXT:
        return False
    return not any(unicodedata.category(c) in _UNSEEN and c not in _JOINERS for c in text)


def with_state(module: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Call `module` with or without a state, whichever it takes, and return its output and state."""
    output = module(x) if state is None else module(x, state)
    return output if isinstance(output, tuple) else (output, None)


def check_fit(encoder: nn.Module, classifier: nn.Module, preprocessing: Preprocessing | None) -> None:
    """Raise InputError unless the classifier takes what the encoder gives."""
    for role, part in (("encoder", encoder), ("classifier", classifier)):
        if not isinstance(part, nn.Module):
            raise InputError(f"{role}={shown(part)}: expected a torch.nn.Module, such as one of rsnn.nn")
    if not isinstance(preprocessing, Preprocessing | None):
        raise InputError(f"preprocessing={shown(preprocessing)}: expected an rsnn.Preprocessing, or None")
    encoder_name, classifier_name = type(encoder).__name__, type(classifier).__name__
    if (
        hasattr(encoder, "num_classes")
        and hasattr(classifier, "output_size")
        and not hasattr(classifier, "num_classes")
    ):
        raise InputError(
            f"encoder is the classifier {encoder_name}, and classifier {classifier_name}; expected the other order"
        )
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
    if room is not None and preprocessing.max_step_ms is not None:
        raise InputError(
            f"{classifier_name} has room for {room} frames, but with max_step_ms={preprocessing.max_step_ms} a long "
            f"recording has 2, 3, ... times {preprocessing.num_frames}; expected max_step_ms=None, or a classifier for "
            "any number of frames"
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


def check_class_names(names: object, num_classes: int | None) -> tuple[str, ...] | None:
    """Return the names of the classes as a tuple, None for None.

    Args:
        names: what came.
        num_classes: K, None where it is not known.

    Raises:
        InputError: they are not K texts, or two are the same.

    """
    if names is None:
        return None
    if isinstance(names, str | set | frozenset) or not isinstance(names, Iterable):
        raise InputError(
            f"class_names={shown(names)}: expected a list of text, a name for each class, as in ('left', 'right')"
        )
    listed = list(names)
    for index, name in enumerate(listed):
        if not isinstance(name, str):
            raise InputError(f"class_names[{index}] is {shown(name)}; expected text")
        if not is_plain_text(name):
            raise InputError(f"class_names[{index}] is {shown(name)}; expected {PLAIN_TEXT}")
        if (first := listed.index(name)) < index:
            raise InputError(f"class_names {first} and {index} are both {shown(name)}; expected another for each class")
    if num_classes not in (None, len(listed)):
        raise InputError(f"got {len(listed)} class_names for a classifier of {num_classes} classes")
    return tuple(map(str, listed))


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
