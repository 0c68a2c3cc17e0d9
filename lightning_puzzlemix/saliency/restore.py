"""Functions that give one object its recorded state back; each writes only where something differs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, MutableMapping
from typing import Any

from torch import Tensor

from lightning_puzzlemix.saliency.user_code import is_kept


def restore_names(names: MutableMapping[str, Any], found: dict[str, Any], skip: frozenset[str] | None) -> None:
    """Bind names as they were, and delete new ones except those in ``skip``; ``None`` keeps all, as in a module's globals."""
    if skip is not None:
        for name in [name for name in names if name not in found and name not in skip]:
            del names[name]
    for name, value in found.items():
        if name not in names or names[name] is not value:
            names[name] = value


def restore_slots(owner: Any, slots: Iterable[str], found: dict[str, Any]) -> None:
    """Bind the attributes in an object's slots as they were, and delete new ones."""
    for name in slots:
        if name not in found:
            if hasattr(owner, name):
                delattr(owner, name)
        elif getattr(owner, name, restore_slots) is not found[name]:
            setattr(owner, name, found[name])


def restore_class(kind: type, found: dict[str, Any]) -> None:
    """Bind a class's own data as they were, and delete new data."""
    for name in [name for name, value in vars(kind).items() if name not in found and is_kept(name, value)]:
        type.__delattr__(kind, name)
    for name, value in found.items():
        if vars(kind).get(name, kind) is not value:
            type.__setattr__(kind, name, value)


def restore_collection(collection: Any, kept: Any) -> None:
    """Give a list, deque, dict or set its entries back, and a dict or list the order of them."""
    if isinstance(collection, set):
        same = collection == kept
    elif isinstance(collection, dict):
        same = len(collection) == len(kept) and all(
            name in collection and collection[name] is value for name, value in kept.items()
        )
    else:
        same = len(collection) == len(kept) and all(a is b for a, b in zip(collection, kept, strict=True))
    if same:
        return
    collection.clear()
    if isinstance(collection, (dict, set)):
        collection.update(kept)
    else:
        collection.extend(kept)


def restore_tensor(tensor: Tensor, values: Tensor) -> None:
    """Copy values back into a tensor, without comparing, which would wait for the device."""
    if tensor.shape == values.shape and tensor.dtype == values.dtype:
        # Through .data, since a graph may have kept the tensor and would miss its old version.
        tensor.data.copy_(values)
    else:
        tensor.data = values


def warn_if_changed(tensor: Tensor, version: int, path: str) -> None:
    """Warn of a change to a tensor that was too large to be copied."""
    if tensor._version != version:
        warnings.warn(
            f"{path}, a tensor of {tuple(tensor.shape)}, was changed in place by the pass for saliency or for the number of "
            "classes, and is too large to be copied in each batch: let forward change it only if self.training",
            stacklevel=2,
        )
