"""Which entries of a batch could be its images or its targets, and what is said where none or several could."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_puzzlemix.targets import is_targets, target_advice
from lightning_puzzlemix.validation import describe_value

IMAGE_NAMES = ("image", "images", "img", "imgs", "x", "input", "inputs", "pixel_values", "data")
TARGET_NAMES = ("target", "targets", "label", "labels", "y", "class", "classes")
_ID_WORDS = {"id", "ids", "idx", "index", "indices", "indexes", "uid", "uuid"}
_LABEL_PARTS = ("label", "target", "class", "category", "onehot", "one_hot")
_LABEL_WORDS = {"y", "soft", "hot", "prob", "probs", "probability", "probabilities", "distribution"}


def image_candidates(entries: Mapping[Any, Any]) -> list[Any]:
    """Return the keys of the entries that could be (B, C, H, W) images: floating point or uint8, else any of 4 dimensions."""
    four = [key for key, value in entries.items() if isinstance(value, Tensor) and value.ndim == 4]
    usual = [key for key in four if entries[key].is_floating_point() or entries[key].dtype == torch.uint8]
    return usual or four


def target_candidates(entries: Mapping[Any, Any], batch: int) -> list[Any]:
    """Return the keys of the entries that could be targets: (B,) integers or (B, classes) floats.

    Integers or booleans (B, classes) with a single one in each row stand beside them as a second form of the label.
    """
    found = [key for key, value in entries.items() if is_targets(value, batch)]
    return [key for key, value in entries.items() if key in found or _is_one_hot(value, batch)] if found else []


def _is_one_hot(value: Any, batch: int) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 2 or value.shape[0] != batch or value.shape[1] < 2:
        return False
    if value.is_floating_point() or value.is_complex():
        return False
    # The one look at values: it waits for the device, in the rare batches with such an entry and no target_key.
    return bool(((value == 0) | (value == 1)).all() & (value.sum(1) == 1).all())


def pick_image(candidates: list[Any], names: Mapping[Any, str]) -> Any | None:
    """Return the candidate whose name says that it holds the images, where no other one's name allows it to; else ``None``."""
    if len(candidates) == 1:
        return candidates[0]
    usual = [key for key in candidates if names.get(key, "").lower() in IMAGE_NAMES]
    others = [key for key in candidates if key not in usual and "mask" not in names.get(key, "").lower()]
    return usual[0] if len(usual) == 1 and not others else None


def pick_target(candidates: list[Any], names: Mapping[Any, str], entries: Mapping[Any, Any]) -> Any | None:
    """Return the candidate whose name says that it holds the targets, where no other one could be another form of them."""
    if len(candidates) == 1:
        return candidates[0]
    usual = [key for key in candidates if names.get(key, "").lower() in TARGET_NAMES]
    others = [key for key in candidates if key not in usual]
    second = any(
        _sounds_like_label(names.get(key, "")) or _is_one_hot(entries[key], len(entries[key])) for key in others
    )
    return usual[0] if len(usual) == 1 and not second else None


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _sounds_like_label(name: str) -> bool:
    return any(part in name.lower() for part in _LABEL_PARTS) or bool(_words(name) & _LABEL_WORDS)


def sounds_like_id(name: str) -> bool:
    """Tell whether a name says that its entry numbers the samples."""
    return bool(_words(name) & _ID_WORDS) and not _sounds_like_label(name)


def image_hints(entries: Mapping[Any, Any]) -> str:
    """Say what would make images of entries that nearly are: empty where there is none."""
    hints = []
    for key, value in entries.items():
        if not isinstance(value, Tensor) or len(value.shape) < 3:
            continue
        if value.ndim == 3:
            hints.append(f"{key!r} is {describe_value(value)}: add the channels, for example with .unsqueeze(1)")
        elif value.ndim == 5:
            hints.append(
                f"{key!r} is {describe_value(value)}: videos and volumes are not mixed, only images of four dimensions"
            )
    return "".join(f"; {hint}" for hint in hints)


def target_hints(entries: Mapping[Any, Any], batch: int) -> str:
    """Say what would make targets of the entries that nearly are: empty where there is none."""
    advice = {key: target_advice(value, batch) for key, value in entries.items()}
    return "".join(f"; {key!r} is {describe_value(entries[key])}: {text}" for key, text in advice.items() if text)
