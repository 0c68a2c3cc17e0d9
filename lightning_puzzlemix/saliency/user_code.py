"""Distinguishes code of the user from libraries, and finds what a function of the user's keeps outside of itself."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
from collections import deque
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

_OWN_PACKAGE = __name__.partition(".")[0]
_KEPT_IN_GLOBALS = (int, float, str, bool, type(None), list, dict, set, deque, tuple, np.ndarray, Tensor)


# What a user derives from these is large (data), or used by other threads meanwhile; no forward pass writes into it. By name,
# since Lightning has two classes of each name.
_LARGE_OR_SHARED = frozenset(
    {"Trainer", "Dataset", "DataLoader", "LightningDataModule", "Logger", "Thread", "BaseProcess", "Executor"}
)


def _is_left_alone(kind: type) -> bool:
    return not _LARGE_OR_SHARED.isdisjoint(each.__name__ for each in kind.__mro__)


@functools.cache
def _is_user_module(name: str | None) -> bool:
    """Tell whether a module is neither installed nor part of Python: its objects are safe to inspect and to restore."""
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
    if _is_left_alone(type(value)):
        return None
    names = getattr(value, "__dict__", None)
    return names if isinstance(names, dict) else None


def user_slots(value: Any) -> list[str]:
    """Return the attributes that an object keeps in ``__slots__`` of classes that the user wrote."""
    kinds = type(value).__mro__
    if _is_left_alone(type(value)):
        return []
    slots = [vars(kind).get("__slots__", ()) for kind in kinds if _is_user_module(kind.__module__)]
    names = [name for each in slots for name in ((each,) if isinstance(each, str) else each)]
    return [name for name in names if not name.startswith("__")]


def is_kept(name: str, value: Any) -> bool:
    """Tell whether a name of a class or of a module's globals is bound to data, and not to code."""
    return isinstance(value, _KEPT_IN_GLOBALS) and not (name.startswith("__") and name.endswith("__"))


def user_classes(kind: type) -> list[type]:
    """Return a class and its bases, as far as the user wrote them."""
    return [each for each in kind.__mro__ if _is_user_module(each.__module__)]


def methods(kind: type) -> list[FunctionType]:
    """Return the functions of a class of the user, for which any of them may be called."""
    if _is_left_alone(kind):
        return []
    return [function for each in user_classes(kind) for value in vars(each).values() for function in _functions(value)]


def methods_called(kind: type, *starts: str) -> list[FunctionType]:
    """Return those functions of the user's classes that methods named ``starts`` call by name, directly or not.

    Not all, since other methods of a module, such as those of training, reach data sets and much else.
    """
    spaces = [vars(each) for each in user_classes(kind)]
    reached: list[FunctionType] = []
    names, seen = list(starts) if spaces else [], set(starts)
    while names:
        name = names.pop()
        functions = [function for space in spaces if name in space for function in _functions(space[name])]
        reached += functions
        new = {each for function in functions for each in _names_in(function.__code__)[1]} - seen
        seen |= new
        names += new
    return reached


def _functions(value: Any) -> list[FunctionType]:
    """Return the plain functions inside a method, a static or class method, or a property."""
    if isinstance(value, property):
        return [each for each in (value.fget, value.fset) if isinstance(each, FunctionType)]
    value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    # A decorated one has the original inside, which its wrapper calls.
    found = [each for each in (value, getattr(value, "__wrapped__", None)) if isinstance(each, FunctionType)]
    return [each for each in found if is_user_code(each)]


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the globals and the attributes that code names, functions and comprehensions inside it included."""
    names, attributes = set(), set(code.co_names)
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL"):
            names.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            inner_names, inner_attributes = _names_in(inner)
            names |= inner_names
            attributes |= inner_attributes
    return frozenset(names), frozenset(attributes)


@dataclass
class Captured:
    """What a function reaches beyond its arguments.

    Attributes:
        cells: The cells of closures with their present contents.
        names: Namespaces of globals, each with those of their bindings that the function names.
        values: Everything found, to be recorded.
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
    names, attributes = _names_in(function.__code__)
    named = _look_up(function.__globals__, names, found)
    for module in [value for value in named.values() if isinstance(value, ModuleType)]:
        # Globals of another file of the user's, reached through it.
        if _is_user_module(module.__name__):
            found.values += _look_up(vars(module), attributes, found).values()
    found.values += [content for _, content in found.cells]
    found.values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *named.values()]
    return found


def _look_up(space: dict[str, Any], names: frozenset[str], found: Captured) -> dict[str, Any]:
    """Return the named globals, and record those that are data."""
    named = {name: space[name] for name in names if name in space}
    kept = {name: value for name, value in named.items() if is_kept(name, value)}
    if kept:
        found.names.append((space, kept))
    return named
