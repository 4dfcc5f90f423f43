"""Models as plain data: what `config.json` says of a model, and the model it describes.

A module of the library is described by its class's name and its constructor's arguments, which it keeps as
attributes of the same names; an argument that is itself a module (or a surrogate, or the preprocessing) is described
the same way. So whatever is composed of the library's own parts round-trips, with no second list of its arguments.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import nn

from rsnn import kernels
from rsnn import nn as blocks
from rsnn.errors import ConfigError, InputError, shortened, shown, suggest
from rsnn.models.composition import PLAIN_TEXT, is_plain_text
from rsnn.models.preprocessing import Preprocessing

_PARTS: dict[str, type] = {
    part.__name__: part
    for part in (
        Preprocessing,
        kernels.ATan,
        kernels.Exponential,
        kernels.Rectangle,
        kernels.Sigmoid,
        *(getattr(blocks, name) for name in blocks.__all__ if name != "ConvLSTMState"),
    )
}
_MODELS: dict[str, type] = {}

# A size beyond these is a mistake or an attack: no published network comes near.
LARGEST_NUMBER = 2**20
_LONGEST_LIST = 2**6  # of numbers, as the channels of all layers
_MOST_NAMES = 2**12
_DEEPEST = 2**4

OWN_PARTS_ADVICE = (
    "Save its weights with safetensors.torch.save_file(model.state_dict(), 'model.safetensors') and build it in your "
    "own code"
)

Model = TypeVar("Model", bound=nn.Module)


def register_model(model: type[Model]) -> type[Model]:
    """Let configurations name this class of model (a decorator)."""
    _MODELS[model.__name__] = model
    return model


def model_types() -> list[str]:
    """Return the names of the registered model classes."""
    return sorted(_MODELS)


def public_name(kind: str) -> str:
    """Return where users find a class of model, as in `"rsnn.RSNN"`."""
    return f"rsnn.{kind}" if kind in ("RSNN", "ConvLSTMClassifier", "SCNN") else f"rsnn.models.{kind}"


def is_stock(part: object) -> bool:
    """Tell whether `part` is of a class a configuration can name (a subclass is not: it may do anything)."""
    return type(part) in _PARTS.values() or type(part) in _MODELS.values()


def describe(part: object) -> dict[str, Any]:
    """Describe a model or one of its parts as plain data that `build_model` turns back into it, without its weights.

    Raises:
        ConfigError: a part is not the library's own, so its class and arguments cannot be written down.

    """
    if not is_stock(part):
        raise ConfigError(
            f"{type(part).__module__}.{type(part).__qualname__} is not a part of rsnn, so config.json cannot describe "
            f"it and from_pretrained could not build it again. {OWN_PARTS_ADVICE}"
        )
    kind: Any = type(part)
    return {"type": kind.__name__, **{name: _plain(getattr(part, name)) for name in _arguments(kind)}}


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    # NumPy's become Python's.
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else describe(value)


def build_model(description: object) -> nn.Module:
    """Build the model that `description` (parsed JSON, as `describe` made it) describes; weights are fresh.

    Raises:
        ConfigError: an unknown class or key, a missing one, a wrong type, or a value out of range.

    """
    model: nn.Module = _build(description, "model", _MODELS)
    return model


def _build(description: object, where: str, known: Mapping[str, type]) -> Any:
    if not isinstance(description, Mapping):
        raise ConfigError(f'{where}: got {shown(description)}; expected an object with a "type"')
    kind = description.get("type")
    if not isinstance(kind, str) or kind not in known:
        hint = suggest(kind, known) if isinstance(kind, str) else ""
        raise ConfigError(f"{where}.type: got {shown(kind)}; expected one of {', '.join(sorted(known))}.{hint}")
    part = known[kind]
    if where.count(".") > _DEEPEST:
        raise ConfigError(f"model: parts lie within parts more than {_DEEPEST} deep; expected fewer")
    accepted = _arguments(part)
    arguments = {}
    for name, value in description.items():
        if name == "type":
            continue
        if name not in accepted:
            raise ConfigError(f"{where}: {kind} has no argument {shown(name)}.{suggest(str(name), accepted)}")
        arguments[name] = _checked(value, accepted[name].annotation, f"{where}.{name}")
    missing = [name for name, argument in accepted.items() if argument.required and name not in arguments]
    if missing:
        raise ConfigError(f"{where}: {kind} needs {', '.join(missing)}, which is missing")
    try:
        return part(**arguments)
    except InputError as error:
        raise ConfigError(f"{where}: {shortened(str(error), 400)}") from error


class _Argument:
    """One argument of a constructor: its annotation, and whether it has a default."""

    def __init__(self, annotation: Any, required: bool) -> None:
        self.annotation = annotation
        self.required = required


@cache
def _arguments(part: Any) -> dict[str, _Argument]:
    if part.__init__ is nn.Module.__init__:
        return {}
    hints = get_type_hints(part.__init__)
    parameters = list(inspect.signature(part.__init__).parameters.values())[1:]
    return {p.name: _Argument(hints[p.name], p.default is p.empty) for p in parameters}


def _checked(value: object, annotation: Any, where: str) -> Any:
    """Return `value` in the form that `annotation` asks for (tuples for lists, parts for objects)."""
    origin, options = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        options = tuple(option for option in options if option is not type(None))
        return _checked(value, options[0], where) if len(options) == 1 else _checked_part(value, options, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in options:
            raise ConfigError(f"{where}: got {shown(value)}; expected one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple:
        return _checked_list(value, options, where)
    if annotation in (bool, int, float, str):
        return _checked_scalar(value, annotation, where)
    return _checked_part(value, (annotation,), where)


def _checked_part(value: object, classes: tuple[Any, ...], where: str) -> Any:
    part = _build(value, where, _PARTS)
    if not isinstance(part, classes):
        names = " or ".join(option.__name__ for option in classes)
        raise ConfigError(f"{where}: got a {type(part).__name__}; expected {names}")
    return part


def _checked_list(value: object, options: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    longest = _MOST_NAMES if options[0] is str else _LONGEST_LIST
    if not isinstance(value, list | tuple) or len(value) > longest:
        raise ConfigError(f"{where}: got {shown(value)}; expected a list of at most {longest} entries")
    if options[-1] is not Ellipsis and len(value) != len(options):
        raise ConfigError(f"{where}: got {len(value)} entries; expected {len(options)}")
    return tuple(_checked(item, options[0], f"{where}[{i}]") for i, item in enumerate(value))


def _checked_scalar(value: object, kind: type, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= LARGEST_NUMBER else value
    if type(value) is not kind:
        raise ConfigError(f"{where}: got {shown(value)}; expected {kind.__name__}")
    if isinstance(value, int | float) and not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise ConfigError(f"{where}: got {shown(value)}; expected a number of at most {LARGEST_NUMBER}")
    if isinstance(value, str) and not is_plain_text(value):
        raise ConfigError(f"{where}: got {shown(value)}; expected {PLAIN_TEXT}")
    return value
