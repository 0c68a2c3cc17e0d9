"""The containers that batches come in: their entries by key or path, and copies with some entries replaced."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_puzzlemix.validation import describe_value

# A position, mapping key or field name.
Key = str | int
# One entry, or several: views of the same images, forms of the same label.
Keys = Key | list[Key]
# The keys that lead to an entry of a nested batch, from the outside in.
Path = tuple[Key, ...]


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def is_container(value: Any) -> bool:
    """Tell whether a value is a list, tuple, mapping or dataclass."""
    return isinstance(value, (Mapping, list, tuple)) or _is_dataclass(value)


def entries_of(batch: Any) -> dict[Any, Any]:
    """Return the entries of a batch by key.

    Raises:
        TypeError: If the batch is not a list, tuple, mapping or dataclass.
    """
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, (list, tuple)):
        return dict(enumerate(batch))
    if _is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    raise TypeError(
        "batch must be a list, tuple, namedtuple, dict or dataclass that holds images and targets, got "
        f"{type(batch).__name__}: let the collate function return one of these"
    )


def names_of(batch: Any) -> dict[Any, str]:
    """Return the names of the entries by key; empty if they have only positions."""
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(enumerate(batch._fields))
    return {} if isinstance(batch, (list, tuple)) else {key: key for key in entries_of(batch) if isinstance(key, str)}


def tensors_of(batch: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors of a nested batch with their paths."""
    for key, entry in entries_of(batch).items():
        if isinstance(entry, Tensor):
            yield (*path, key), entry
        elif is_container(entry):
            yield from tensors_of(entry, (*path, key))


def describe(batch: Any) -> str:
    """Describe a batch in a few words for a message."""
    parts = [f"{key!r}: {describe_value(value)}" for key, value in entries_of(batch).items()]
    return f"{type(batch).__name__} with {', '.join(parts) or 'nothing'}"


def read(batch: Any, path: Path) -> Any:
    """Return the entry at a path."""
    for key in path:
        batch = entries_of(batch)[key]
    return batch


def replaced(batch: Any, values: Mapping[Path, Any]) -> Any:
    """Return a batch of the same type with the entries at some paths replaced and all others shared; nothing is changed."""
    if () in values:
        return values[()]
    below: dict[Key, dict[Path, Any]] = {}
    for (key, *rest), value in values.items():
        below.setdefault(key, {})[tuple(rest)] = value
    entries = entries_of(batch)
    new = {key: replaced(entries[key], inner) for key, inner in below.items()}
    if isinstance(batch, tuple):
        items = (entries | new).values()
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    changed = copy.copy(batch)
    for key, value in new.items():
        if isinstance(batch, (Mapping, list)):
            changed[key] = value
        else:
            # Also works for frozen dataclasses.
            object.__setattr__(changed, str(key), value)
    return changed


def dotted(path: Path) -> Key:
    """Write a path as ``image_key`` and ``target_key`` take it."""
    return path[0] if len(path) == 1 else ".".join(map(str, path))


def as_keys(keys: Keys | None) -> tuple[Key, ...]:
    """Return one key or several as a tuple; an empty one for ``None``."""
    if keys is None:
        return ()
    return (keys,) if isinstance(keys, (str, int)) else tuple(keys)


def _is_key(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def check_keys(argument: str, keys: Any) -> Keys | None:
    """Return a key, a list of keys, or ``None``.

    Raises:
        TypeError: If it is something else.
        ValueError: If a list is empty, or names an entry twice.
    """
    if keys is None or _is_key(keys):
        return keys
    if not isinstance(keys, Sequence) or not all(map(_is_key, keys)):
        raise TypeError(f"{argument} must be a name, a position, a path, or a list of these, got {keys!r}")
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(f"{argument} must name at least one entry, and each once, got {keys!r}")
    return list(keys)
