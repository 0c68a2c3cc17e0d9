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
_IMAGE_NAMES = ("image", "images", "img", "imgs", "x", "input", "inputs", "pixel_values", "data")
_TARGET_NAMES = ("target", "targets", "label", "labels", "y", "class", "classes")


@dataclass(frozen=True)
class BatchKeys:
    """Under which keys of a batch the images and the targets lie: names, or positions in a list or tuple."""

    images: Key
    targets: Key


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
            raise ValueError(f"{argument}={known!r} is not in the batch ({describe(batch)}): name one of its entries")
        return position
    if not candidates:
        shape = (
            "a (B, C, H, W) tensor" if what == "images" else "(B,) integer classes or (B, classes) float probabilities"
        )
        raise ValueError(f"found no {what} ({shape}) in the batch ({describe(batch)}): pass {argument}=")
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


def read(batch: Any, key: Key) -> Any:
    """Return one entry of a batch."""
    return _entries(batch)[key]


def replaced(batch: Any, values: Mapping[Key, Any]) -> Any:
    """Return a batch of the same type with some entries replaced and all others shared; the given batch is unchanged."""
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
