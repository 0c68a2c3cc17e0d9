"""Find and replace images and targets in what a DataLoader yields; batches themselves are never written into."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Key = str | int
Path = tuple[Key, ...]
_IMAGE_NAMES = ("image", "images", "img", "imgs", "x", "input", "inputs", "pixel_values", "data")
_TARGET_NAMES = ("target", "targets", "label", "labels", "y", "class", "classes")


@dataclass(frozen=True)
class BatchKeys:
    """Under which keys of a batch the images and the targets lie: names, or positions in a list or tuple."""

    images: Key
    targets: Key


@dataclass(frozen=True)
class Location:
    """Where a nested batch holds one pair of images and targets: the keys to follow from the outside in."""

    images: Path
    targets: Path


class _NotHereError(ValueError):
    """A container holds no images or no targets itself."""


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple)) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _entries(batch: Any) -> dict[Any, Any]:
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
    entries = _entries(batch)
    parts = [
        f"{key!r}: {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else f"{key!r}: {type(value).__name__}"
        for key, value in entries.items()
    ]
    return f"{type(batch).__name__} with {', '.join(parts) or 'nothing'}"


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _is_targets(value: Any, batch: int) -> bool:
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or len(value) != batch or value.dtype == torch.bool:
        return False
    return value.is_floating_point() == (value.ndim == 2)


def _choose(what: str, batch: Any, candidates: dict[Any, Any], names: tuple[str, ...], known: Key | None) -> Key:
    """Choose the entry that holds ``what``: the named one, the first in a sequence, a usual name, or the only one."""
    argument = "image_key" if what == "images" else "target_key"
    if known is not None:
        entries = _entries(batch)
        position = known + len(entries) if isinstance(known, int) and known < 0 else known
        if position not in entries:
            raise _NotHereError(
                f"{argument}={known!r} is not in the batch ({describe(batch)}): name one of its entries"
            )
        return position
    if not candidates:
        shape = (
            "a (B, C, H, W) tensor" if what == "images" else "(B,) integer classes or (B, classes) float probabilities"
        )
        raise _NotHereError(f"found no {what} ({shape}) in the batch ({describe(batch)}): pass {argument}=")
    if isinstance(batch, (list, tuple)):
        return next(iter(candidates))
    usual = [key for key in candidates if isinstance(key, str) and key.lower() in names]
    chosen = usual if len(usual) == 1 else list(candidates)
    if len(chosen) > 1:
        raise ValueError(f"found several {what} {usual or chosen} in the batch ({describe(batch)}): pass {argument}=")
    return chosen[0]


def find_keys(batch: Any, image_key: Key | None = None, target_key: Key | None = None) -> BatchKeys:
    """Find out where a batch holds its images and targets.

    Images are (B, C, H, W) tensors; targets are (B,) integers or (B, classes) floats. In a list or tuple the first of each
    is taken, in a dict or dataclass the one with a usual name, else the only one.

    Args:
        batch: A list, tuple, namedtuple, mapping or dataclass.
        image_key: Where the images are, if known.
        target_key: Where the targets are, if known.

    Raises:
        TypeError: If the batch is no such container.
        ValueError: If they are not found, or not uniquely.
    """
    entries = _entries(batch)
    images = _choose("images", batch, {k: v for k, v in entries.items() if _is_images(v)}, _IMAGE_NAMES, image_key)
    if not isinstance(entries[images], Tensor):
        raise TypeError(f"image_key={images!r} must name a tensor of images, got {type(entries[images]).__name__}")
    count = len(entries[images])
    others = {k: v for k, v in entries.items() if k != images and _is_targets(v, count)}
    return BatchKeys(images, _choose("targets", batch, others, _TARGET_NAMES, target_key))


def find_samples(batch: Any, image_key: Key | None = None, target_key: Key | None = None) -> list[Location]:
    """Find every pair of images and targets in a batch, however deeply it is nested.

    A container that holds both is one pair, and is not searched further. In any other the entries that are containers are
    searched, as the batches of CombinedLoader are; those without images or targets are left alone.

    Args:
        batch: What a DataLoader yields.
        image_key: Where the images are, if known: a key, or a path of keys such as ``"labelled.0"``.
        target_key: Where the targets are, if known; a path too where the other is one.

    Raises:
        TypeError: If the batch is no container.
        ValueError: If there is no such pair, or one is ambiguous.
    """
    if _is_path(image_key) or _is_path(target_key):
        if image_key is None or target_key is None:
            raise ValueError(
                f"image_key={image_key!r} and target_key={target_key!r} must both be given where one is a path"
            )
        return [Location(_resolved(batch, "image_key", image_key), _resolved(batch, "target_key", target_key))]
    found: list[Location] = []
    _search(batch, (), image_key, target_key, found)
    if not found:
        find_keys(batch, image_key, target_key)  # raises, saying what it saw
    return found


def _search(batch: Any, path: Path, image_key: Key | None, target_key: Key | None, found: list[Location]) -> None:
    try:
        keys = find_keys(batch, image_key, target_key)
    except _NotHereError:
        for key, value in _entries(batch).items():
            if _is_container(value):
                _search(value, (*path, key), image_key, target_key, found)
    else:
        found.append(Location((*path, keys.images), (*path, keys.targets)))


def _is_path(key: Key | None) -> bool:
    return isinstance(key, str) and "." in key


def _resolved(batch: Any, argument: str, key: Key) -> Path:
    """Follow a dotted path through a batch; its parts are names, or positions in lists and tuples."""
    path: list[Key] = []
    for part in str(key).split("."):
        entries = _entries(batch) if _is_container(batch) else {}
        chosen: Key = part if part in entries or not part.lstrip("-").isdigit() else int(part)
        chosen = chosen + len(entries) if isinstance(chosen, int) and chosen < 0 else chosen
        if chosen not in entries:
            raise ValueError(f"{argument}={key!r}: {part!r} is not one of {list(entries)}, so the path leads nowhere")
        path.append(chosen)
        batch = entries[chosen]
    return tuple(path)


def read(batch: Any, key: Key | Path) -> Any:
    """Return one entry of a batch, by its key or by the path to it."""
    for part in key if isinstance(key, tuple) else (key,):
        batch = _entries(batch)[part]
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
