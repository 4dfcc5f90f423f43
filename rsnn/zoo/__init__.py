"""The model zoo: every network by name, with or without its published weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from rsnn import hub
from rsnn.errors import InputError, UnknownNameError, shown, suggest
from rsnn.models import EventClassifier
from rsnn.models.pretrained import load_model
from rsnn.zoo.names import BUILDERS, Settings
from rsnn.zoo.weights import WEIGHTS

__all__ = ["create_model", "list_models", "load"]

hub.register(WEIGHTS, BUILDERS)

HUB_OPTIONS = tuple(inspect.signature(hub.resolve).parameters)[1:]
# What others are called elsewhere, and how it is done here.
_ELSEWHERE = {
    "num_classes": " For other classes: create_model(source, pretrained=True, num_classes=...), or from_pretrained.",
    "device": " Models are loaded on the CPU: load(source).to(device).",
}


def list_models(pattern: str | Iterable[str] | None = None, *, pretrained: bool = False) -> list[str]:
    """Return the sorted names of the zoo's models.

    Args:
        pattern: a glob, as in `"rsnn-*"`, or several, of which a name has to match one; None for all.
        pretrained: only those with published weights.

    Raises:
        InputError: `pattern` is something else.

    """
    given = "*" if pattern is None else pattern
    patterns = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(one, str) for one in patterns):
        raise InputError(f"pattern={shown(pattern)}: expected a glob such as 'rsnn-*', a list of them, or None")
    return [
        name
        for name in BUILDERS
        if any(fnmatchcase(name, one) for one in patterns) and (not pretrained or hub.find_entry(name) is not None)
    ]


def create_model(
    name: str, pretrained: bool = False, *, num_classes: int | None = None, **settings: Any
) -> EventClassifier:
    """Build the model of a zoo name.

    Args:
        name: one of `list_models()`; with `pretrained` also one with a tag, or anything `load` takes.
        pretrained: load the published weights; the model is then in eval mode.
        num_classes: another number of classes; of a pretrained model it replaces the last layer only.
        **settings: for an untrained model `frame_size=(height, width)`, `num_frames=`, `in_channels=`,
            `class_names=`, `split_by=`, `normalize=`, `clip_at=`, `max_step_ms=`, as in
            [`Preprocessing`][rsnn.models.Preprocessing]; for a pretrained one what `load` takes.

    Raises:
        UnknownNameError: the zoo has no such name, or no weights for it.
        InputError: a setting is unknown, or cannot be changed in a pretrained model.

    """
    if not isinstance(pretrained, bool):
        raise InputError(
            f"pretrained={shown(pretrained)}: expected True or False; the tag of certain weights is part of the name, "
            "as in create_model('rsnn-gesture-cl.sim', pretrained=True)"
        )
    if pretrained:
        if fixed := sorted(set(settings) - set(HUB_OPTIONS)):
            raise InputError(
                f"{fixed} cannot be changed in a pretrained model, whose checkpoint says what they are; "
                f"expected num_classes=, or where it is loaded from: {', '.join(HUB_OPTIONS)}"
            )
        model = load(name, **settings)
        if num_classes not in (None, model.num_classes):
            model.reset_classifier(num_classes)
        return model
    if not isinstance(name, str):
        raise InputError(f"name is {shown(name)}; expected one of list_models(), such as 'rsnn-gesture-cl'")
    if name not in BUILDERS:
        tagged = f" To load its weights pass pretrained=True: create_model({name!r}, pretrained=True)."
        hint = tagged if hub.find_entry(name) else suggest(name, BUILDERS)
        raise UnknownNameError(f"the zoo has no model {name!r}; list_models() lists those it has.{hint}")
    try:
        chosen = Settings(num_classes=num_classes, **settings)
    except TypeError as error:
        known = sorted(set(Settings.__dataclass_fields__) - {"num_classes"})
        unknown = sorted(set(settings) - set(known))
        raise InputError(
            f"create_model has no setting {unknown[0]!r}; expected some of {known}.{suggest(unknown[0], known)}"
        ) from error
    return BUILDERS[name](chosen)


def load(source: str | os.PathLike[str], **hub_options: Any) -> EventClassifier:
    """Load a checkpoint, whatever class of model it is, in eval mode on the CPU.

    Args:
        source: a zoo name, a folder written as a path, or `"org/name[@revision]"` on the Hub.
        **hub_options: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`, as in huggingface_hub.

    Raises:
        RSNNError: there is no such checkpoint, or it is damaged.

    """
    for option in hub_options:
        if option not in HUB_OPTIONS:
            hint = _ELSEWHERE.get(option) or suggest(option, HUB_OPTIONS)
            raise InputError(
                f"load has no argument {option!r}; expected some of {', '.join(HUB_OPTIONS)}, and the source.{hint}"
            )
    model = load_model(source, **hub_options)
    assert isinstance(model, EventClassifier)
    return model
