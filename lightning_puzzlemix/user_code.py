"""Tell code of the user from that of libraries, and find what a function of theirs keeps outside of itself."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

_OWN_PACKAGE = __name__.partition(".")[0]
_KEPT_IN_GLOBALS = (int, float, str, bool, type(None), list, dict, set, tuple, np.ndarray, Tensor)


# What a user derives from these is large (data), or used by other threads meanwhile; no forward pass writes into it.
_LARGE_OR_ALIVE = {
    "Trainer",
    "Dataset",
    "DataLoader",
    "LightningDataModule",
    "Logger",
    "Thread",
    "BaseProcess",
    "Executor",
}


@functools.cache
def _is_user_module(name: str | None) -> bool:
    """Tell whether a module is neither installed nor part of Python: its objects are safe to look into and to change back."""
    if name is None or name.partition(".")[0] == _OWN_PACKAGE:
        return False
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if path is None:
        # A notebook or an interactive session; all others without a file are built in.
        return name == "__main__"
    parts = path.replace("\\", "/").split("/")
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    return not any(path.startswith(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib"))


def is_user_code(value: Any) -> bool:
    """Tell whether a function, or the class of any other object, was written by the user."""
    if isinstance(value, functools.partial):
        return is_user_code(value.func)
    if isinstance(value, MethodType):
        value = value.__func__
    named = value if isinstance(value, FunctionType) else type(value)
    return _is_user_module(getattr(named, "__module__", None))


def user_attributes(value: Any) -> dict[str, Any] | None:
    """Return the namespace of an object whose class the user wrote (or a ``SimpleNamespace``); else ``None``."""
    if isinstance(value, (ModuleType, type, FunctionType, MethodType)):
        return None
    if not isinstance(value, SimpleNamespace) and not is_user_code(value):
        return None
    if _LARGE_OR_ALIVE & {kind.__name__ for kind in type(value).__mro__}:
        return None
    names = getattr(value, "__dict__", None)
    return names if isinstance(names, dict) else None


def class_attributes(kind: type) -> list[Any]:
    """Return what the user's classes among a class and its bases hold themselves."""
    return [value for each in kind.__mro__ if _is_user_module(each.__module__) for value in vars(each).values()]


@dataclass
class Captured:
    """What a function reaches beyond its arguments.

    Attributes:
        cells: The cells of closures with their present contents.
        names: Namespaces of globals, each with those of their bindings that the function names.
        values: Everything found, to be looked into.
    """

    cells: list[tuple[CellType, Any]] = field(default_factory=list)
    names: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


def captured(function: FunctionType | MethodType | functools.partial[Any]) -> Captured:
    """Find what a function keeps in its closure, its defaults and the globals that it names, or the object it is bound to."""
    found = Captured()
    if isinstance(function, functools.partial):
        found.values += [function.func, *function.args, *function.keywords.values()]
        return found
    if isinstance(function, MethodType):
        found.values.append(function.__self__)
        function = function.__func__  # type: ignore[assignment]
    if not isinstance(function, FunctionType):
        return found
    for cell in function.__closure__ or ():
        try:
            found.cells.append((cell, cell.cell_contents))
        # A name that has no value yet.
        except ValueError:
            continue
    spaces = function.__globals__
    named = {name: spaces[name] for name in function.__code__.co_names if name in spaces}
    kept = {name: value for name, value in named.items() if isinstance(value, _KEPT_IN_GLOBALS)}
    if kept:
        found.names.append((spaces, kept))
    found.values += [content for _, content in found.cells]
    found.values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *named.values()]
    return found
