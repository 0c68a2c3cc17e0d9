"""The containers that batches come in: their entries by key, and copies with some of them replaced."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_puzzlemix.validation import describe_value

Key = str | int
# One entry, or several: views of the same images, forms of the same label.
Keys = Key | list[Key]
Path = tuple[Key, ...]


def is_container(value: Any) -> bool:
    """Tell whether a value is a list, tuple, mapping or dataclass."""
    return isinstance(value, (Mapping, list, tuple)) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def entries_of(batch: Any) -> dict[Any, Any]:
    """List the entries of a batch by key: position, mapping key or field name."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if isinstance(batch, (list, tuple)):
        return dict(enumerate(batch))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    raise TypeError(
        f"batch must be a list, tuple, namedtuple, dict or dataclass that holds images and targets, got "
        f"{type(batch).__name__}: let the collate function return one of these"
    )


def describe(batch: Any) -> str:
    """Describe a batch in a few words for a message."""
    entries = entries_of(batch)
    parts = [f"{key!r}: {describe_value(value)}" for key, value in entries.items()]
    return f"{type(batch).__name__} with {', '.join(parts) or 'nothing'}"


_MOST_HINTS = 8


def nested_hints(batch: Any) -> str:
    """Say which tensors lie in containers inside a batch, and how keys name them: empty where there are none."""
    inside = [(path, value) for path, value in tensors_of(batch) if len(path) > 1]
    if not inside:
        return ""
    listed = [f"{joined(path)!r}: {describe_value(value)}" for path, value in inside[:_MOST_HINTS]]
    more = ", ..." if len(inside) > _MOST_HINTS else ""
    return (
        f". In the containers in it lie {', '.join(listed)}{more}: to mix what does not lie in one container pass image_key= "
        "and target_key=, both as such paths"
    )


def tensors_of(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors of a batch, however deeply it is nested, with their paths."""
    for key, entry in entries_of(value).items():
        if isinstance(entry, Tensor):
            yield (*path, key), entry
        elif is_container(entry):
            yield from tensors_of(entry, (*path, key))


def as_keys(key: Keys | None) -> tuple[Key, ...]:
    """Return one key or several as a tuple; none for ``None``."""
    if key is None:
        return ()
    return (key,) if isinstance(key, (str, int)) else tuple(key)


def check_keys(argument: str, keys: object) -> Keys | None:
    """Return a key, a list of keys, or ``None``.

    Raises:
        TypeError: If it is something else.
        ValueError: If a list names nothing, or one entry twice.
    """
    if keys is None or (isinstance(keys, (str, int)) and not isinstance(keys, bool)):
        return keys
    if not isinstance(keys, Sequence) or not all(
        isinstance(key, (str, int)) and not isinstance(key, bool) for key in keys
    ):
        raise TypeError(f"{argument} must be a name, a position, a path, or a list of these, got {keys!r}")
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(f"{argument} must name at least one entry, and each once, got {keys!r}")
    return list(keys)


def names_of(batch: Any) -> dict[Any, str]:
    """Return what the entries are called, by key; nothing where they have positions alone."""
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return dict(enumerate(batch._fields))
    return {} if isinstance(batch, (list, tuple)) else {key: key for key in entries_of(batch) if isinstance(key, str)}


def joined(path: Path) -> Key:
    """Write a path as ``image_key`` and ``target_key`` take it."""
    return path[0] if len(path) == 1 else ".".join(str(part) for part in path)


def read(batch: Any, key: Key | Path) -> Any:
    """Return one entry of a batch, by its key or by the path to it."""
    for part in key if isinstance(key, tuple) else (key,):
        batch = entries_of(batch)[part]
    return batch


def replaced(batch: Any, values: Mapping[Any, Any]) -> Any:
    """Return a batch of the same type with some entries replaced and all others shared; the given batch is unchanged.

    Args:
        batch: What a DataLoader yields.
        values: New entries by key, or by the path to them.
    """
    inner: dict[Key, dict[Path, Any]] = {}
    own: dict[Key, Any] = {}
    for key, value in values.items():
        path = key if isinstance(key, tuple) else (key,)
        if len(path) == 1:
            own[path[0]] = value
        else:
            inner.setdefault(path[0], {})[path[1:]] = value
    own |= {key: replaced(read(batch, key), below) for key, below in inner.items()}
    return _with_entries(batch, own)


def _with_entries(batch: Any, values: Mapping[Key, Any]) -> Any:
    if isinstance(batch, tuple):
        entries = [values.get(index, value) for index, value in enumerate(batch)]
        return type(batch)(*entries) if hasattr(batch, "_fields") else type(batch)(entries)
    changed = copy.copy(batch)
    for key, value in values.items():
        if isinstance(batch, (Mapping, list)):
            changed[key] = value
        else:
            # Frozen dataclasses too: this copy is nobody else's yet.
            object.__setattr__(changed, str(key), value)
    return changed
