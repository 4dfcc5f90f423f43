"""Recipes as files, and single fields of them on the command line.

A recipe is a TOML file in `rsnn/training/recipes`, or one of the user's, on top of the defaults of
`rsnn.training.recipe`. `base = "name"` takes another recipe first and changes it. `--set part.field=value` changes
single fields. The JSON files of a run and of its checkpoints have the recipe too, under "recipe".
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rsnn.errors import ConfigError, UnknownNameError, suggest
from rsnn.training.recipe import Recipe, check

RECIPES = Path(__file__).parent / "recipes"
FILES = (".toml", ".json")


def list_recipes() -> list[str]:
    """Return the sorted names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name, or a `.toml` file, and change the fields that `overrides` names.

    Args:
        source: one of `list_recipes()`, or the path of a file: a `.toml`, a run's `recipe.json`, or the `config.json`
            of a model that `rsnn train` made.
        overrides: as on the command line: `"optimizer.lr=1e-3"`.

    Raises:
        UnknownNameError: there is no such recipe.
        ConfigError: a field is unknown, or its value of another type or out of range.

    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r}: expected a list of such changes, as in [{overrides!r}]")
    plain = _read(source, ())
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r}: expected a field and its value, as in optimizer.lr=1e-3")
        _put(plain, name.strip().split("."), _parsed(value.strip()))
    return recipe_from(plain)


def recipe_from(plain: Mapping[str, Any]) -> Recipe:
    """Return the recipe that plain data (of TOML or JSON) describe.

    Raises:
        ConfigError: a field is unknown, or its value of another type or out of range.

    """
    recipe: Recipe = _built(plain, Recipe, "")
    check(recipe)
    return recipe


def field_names(kind: Any = Recipe, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields, as `--set` takes them."""
    hints = get_type_hints(kind)
    names = []
    for each in dataclasses.fields(kind):
        inner = hints[each.name]
        name = f"{prefix}{each.name}"
        names += field_names(inner, f"{name}.") if dataclasses.is_dataclass(inner) else [name]
    return names


def _read(source: str | os.PathLike[str], users: tuple[str, ...]) -> dict[str, Any]:
    text = os.fspath(source)
    path = Path(text).expanduser()
    if not (isinstance(source, Path) or text.endswith(FILES) or os.sep in text):
        path = next((p for p in (RECIPES / f"{text}.toml", RECIPES / "bases" / f"{text}.toml") if p.is_file()), path)
        if not path.is_file():
            hint = suggest(text, list_recipes())
            raise UnknownNameError(f"there is no recipe {text!r}; rsnn train --list lists those there are.{hint}")
    if text in users:
        raise ConfigError(f"the recipe {text!r} is its own base: {' -> '.join((*users, text))}")
    try:
        content = path.read_text("utf-8-sig")
        own = _of_json(content, path) if path.suffix == ".json" else tomllib.loads(content)
    except OSError as error:
        raise ConfigError(f"the recipe {path} cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {path} is not valid TOML: {error}") from error
    base = own.pop("base", None)
    plain = {} if base is None else _read(_beside(str(base), path), (*users, text))
    own.setdefault("name", path.stem)
    return _merged(plain, own)


def _of_json(content: str, path: Path) -> dict[str, Any]:
    try:
        whole = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"the recipe {path} is not valid JSON: {error}") from error
    recipe = whole.get("recipe") if isinstance(whole, dict) else None
    if not isinstance(recipe, dict):
        raise ConfigError(
            f"{path} holds no recipe; expected a run's recipe.json, the config.json of a model that rsnn train made, "
            "or a .toml file"
        )
    return recipe


def _beside(base: str, path: Path) -> str | Path:
    """Return the base of a recipe: a file is looked for in the folder of the recipe that names it."""
    return path.parent / base if base.endswith(FILES) else base


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        former = result.get(name)
        result[name] = _merged(former, value) if isinstance(former, dict) and isinstance(value, Mapping) else value
    return result


def _put(plain: dict[str, Any], name: Sequence[str], value: object) -> None:
    inner = plain
    for part in name[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise _unknown(".".join(name))
    inner[name[-1]] = value


def _parsed(text: str) -> object:
    """Return a command line's value as TOML reads it, and `.5`, `1.`, `True`; what is none of these is text."""
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text}")["value"]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "." in text:
        with contextlib.suppress(ValueError):
            return float(text)
    return text


def _unknown(name: str) -> ConfigError:
    near = _nearest(name)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else suggest(name, field_names())
    return ConfigError(f"a recipe has no field {name!r}.{hint} rsnn train RECIPE --show lists them all")


def _nearest(name: str, most: int = 3) -> list[str]:
    """Return the fields whose last part is nearest to that of `name`, in the table that is, or in all."""
    table, _, last = name.rpartition(".")
    known = field_names()
    lasts = difflib.get_close_matches(last, {each.rpartition(".")[2] for each in known}, n=1)
    found = sorted((each for each in known if each.rpartition(".")[2] in lasts), key=lambda each: each.count("."))
    tables = difflib.get_close_matches(table, {each.rpartition(".")[0] for each in found}, n=1)
    return [each for each in found if not tables or each.rpartition(".")[0] in tables][:most]


def _built(plain: object, kind: Any, where: str) -> Any:
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where}: got {plain!r}; expected a table of fields, as in {where}.{_first(kind)} = ...")
    hints = get_type_hints(kind)
    values = {}
    for name, value in plain.items():
        dotted = f"{where}.{name}" if where else str(name)
        if name not in hints:
            while isinstance(value, Mapping) and value:
                inner_name, value = next(iter(value.items()))
                dotted += f".{inner_name}"
            raise _unknown(dotted)
        inner = hints[name]
        values[name] = (
            _built(value, inner, dotted) if dataclasses.is_dataclass(inner) else _checked(value, inner, dotted)
        )
    return kind(**values)


def _first(kind: Any) -> str:
    return dataclasses.fields(kind)[0].name


def _checked(value: Any, kind: Any, where: str) -> Any:
    origin, options = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in options:
            hint = suggest(str(value), map(str, options))
            raise ConfigError(f"{where} = {value!r}: expected one of {', '.join(map(repr, options))}.{hint}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r}: expected a list, as in [128, 128]")
        return tuple(_checked(item, options[0], where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ConfigError(f"{where} = {value!r}: expected {_WORDS[kind]}")
    return value


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
