"""Parts of a package that are imported when they are asked for, so that importing the package stays light."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType


def later(package: str, *parts: str) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """Return a `__getattr__` and a `__dir__` for `package` that know these parts of it.

    A package has them where no type checker sees them, or it would take any name for an attribute.
    """

    def get(name: str) -> ModuleType:
        if name in parts:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package])

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *parts})

    return get, names
