"""Whether a value from the command line is one that a type hint allows, and how the allowed ones are named."""

import collections.abc
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor
from typing_extensions import Unpack, is_typeddict

NUMBER, WHOLE = "a number", "a whole number"
SCALARS: dict[Any, str] = {
    bool: "true or false", int: WHOLE, float: NUMBER, str: "a text", Path: "a path", type(None): "null"
}  # fmt: skip


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a config may be given where `hint` is asked for; what no config can hold is not judged."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        # No config holds a tensor, which torch's optimizers take too.
        inner = tuple(each for each in inner if each is not Tensor)
        if isinstance(value, int | float) and {int, float} & set(inner):
            # Where a number is asked for, any number would be a text as well.
            inner = tuple(each for each in inner if each is not str)
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(fits(each, inner[0]) for each in value)
        )
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping) and all(fits(each, inner[1]) for each in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, Path):
        # A name that looks like a number was meant as a name.
        return isinstance(value, str | int | float) and not isinstance(value, bool)
    if hint in (bool, type(None)):
        return isinstance(value, bool if hint is bool else type(None))
    # Objects: a config holds what makes them, a mapping, or a name that the receiver looks up.
    return hint is Any or not isinstance(value, int | float | bool | type(None))


def describe(hint: Any) -> str:
    """What a hint allows, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        named = [value for each in inner if get_origin(each) is Literal for value in get_args(each)]
        kinds = [describe(Literal[tuple(named)])] if named else []
        kinds += list(dict.fromkeys(describe(each) for each in inner if get_origin(each) is not Literal))
        if NUMBER in kinds and WHOLE in kinds:
            kinds.remove(WHOLE)
        return " or ".join(sorted(filter(None, kinds), key="null".__eq__))
    if origin is Literal:
        return "one of " + ", ".join(dict.fromkeys(map(str, inner)))
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return f"a list [...] of {describe(inner[0]).removeprefix('a ')}s" if inner[0] in SCALARS else "a list [...]"
    if origin in (dict, collections.abc.Mapping):
        return "settings {...}"
    return SCALARS.get(hint, "")


def parameters_of(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Hints of the settings that a class or function takes by name, and whether it may take others.

    What a class hands on as `**options` is looked up in the class that it inherits from.
    """
    functions = (
        [each.__init__ for each in target.__mro__ if "__init__" in vars(each)] if inspect.isclass(target) else [target]
    )
    found: dict[str, Any] = {}
    for function in functions:
        hints = get_type_hints(function)
        others = None
        for name, parameter in list(inspect.signature(function).parameters.items()):
            if parameter.kind is parameter.VAR_KEYWORD:
                others = hints.get(name, Any)
            elif name != "self":
                found.setdefault(name, hints.get(name, Any))
        if others is None:
            return found, False
        if get_origin(others) is Unpack and is_typeddict(get_args(others)[0]):
            return {**get_type_hints(get_args(others)[0]), **found}, False
    return found, True
