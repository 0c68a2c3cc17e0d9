"""Which entries of a batch could be its images or its targets, and advice for entries that nearly are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_puzzlemix.callbacks.containers import dotted, tensors_of
from lightning_puzzlemix.targets import is_targets, target_advice
from lightning_puzzlemix.validation import describe_value

_IMAGE_NAMES = ("image", "images", "img", "imgs", "x", "input", "inputs", "pixel_values", "data")
_TARGET_NAMES = ("target", "targets", "label", "labels", "y", "class", "classes")
_ID_WORDS = {"id", "ids", "idx", "index", "indices", "indexes", "uid", "uuid"}
_LABEL_PARTS = ("label", "target", "class", "category", "onehot", "one_hot")
_LABEL_WORDS = {"y", "soft", "hot", "prob", "probs", "probability", "probabilities", "distribution"}
_MAX_LISTED = 8


def image_candidates(entries: Mapping[Any, Any], names: Mapping[Any, str]) -> list[Any]:
    """Return the key of the (B, C, H, W) images; several keys if it is not clear which entry it is, none if there is none.

    Floating point and uint8 tensors come before others of four dimensions. Of several one with a usual name is chosen, if
    the others are masks.
    """
    four = [key for key, value in entries.items() if isinstance(value, Tensor) and value.ndim == 4]
    found = [key for key in four if entries[key].is_floating_point() or entries[key].dtype == torch.uint8] or four
    usual = [key for key in found if names.get(key, "").lower() in _IMAGE_NAMES]
    others = [key for key in found if key not in usual and "mask" not in names.get(key, "").lower()]
    return usual if len(usual) == 1 and not others else found


def target_candidates(entries: Mapping[Any, Any], names: Mapping[Any, str], batch: int) -> list[Any]:
    """Return the key of the targets, (B,) integers or (B, classes) floats; several keys or none as for the images.

    One-hot integers or booleans beside them count as a second form of the label. Of several one with a usual name is chosen,
    if no other can be a label. The number of the samples is not taken for targets.
    """
    targets = [key for key, value in entries.items() if is_targets(value, batch)]
    if not targets:
        return []
    found = [key for key, value in entries.items() if key in targets or _is_one_hot(value, batch)]
    if len(found) > 1:
        usual = [key for key in found if names.get(key, "").lower() in _TARGET_NAMES]
        others = [key for key in found if key not in usual]
        labels = [key for key in others if _is_label(names.get(key, "")) or _is_one_hot(entries[key], batch)]
        found = usual if len(usual) == 1 and not labels else found
    return [] if len(found) == 1 and _is_id(names.get(found[0], "")) else found


def _is_one_hot(value: Any, batch: int) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 2 or value.shape[0] != batch or value.shape[1] < 2:
        return False
    if value.is_floating_point() or value.is_complex():
        return False
    # This waits for the device, in the rare batches with such an entry and no target_key.
    return bool(((value == 0) | (value == 1)).all() & (value.sum(1) == 1).all())


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def _is_label(name: str) -> bool:
    return any(part in name.lower() for part in _LABEL_PARTS) or bool(_words(name) & _LABEL_WORDS)


def _is_id(name: str) -> bool:
    return bool(_words(name) & _ID_WORDS) and not _is_label(name)


def image_hints(entries: Mapping[Any, Any]) -> str:
    """Return advice for the entries that are nearly images; empty if there are none."""
    advice = {
        3: "add the channels, for example with .unsqueeze(1)",
        5: "videos and volumes are not mixed, only images of four dimensions",
    }
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor) and value.ndim in advice}
    return "".join(f"; {key!r} is {describe_value(value)}: {advice[value.ndim]}" for key, value in tensors.items())


def target_hints(entries: Mapping[Any, Any], batch: int) -> str:
    """Return advice for the entries that are nearly targets; empty if there are none."""
    advice = {key: target_advice(value, batch) for key, value in entries.items()}
    return "".join(f"; {key!r} is {describe_value(entries[key])}: {text}" for key, text in advice.items() if text)


def nested_hints(batch: Any) -> str:
    """Return the paths of the tensors in containers inside a batch; empty if there are none."""
    inside = [f"{dotted(path)!r}: {describe_value(value)}" for path, value in tensors_of(batch) if len(path) > 1]
    if not inside:
        return ""
    more = ", ..." if len(inside) > _MAX_LISTED else ""
    return (
        f". The containers in it hold {', '.join(inside[:_MAX_LISTED])}{more}: to mix entries of different containers pass "
        "image_key= and target_key=, both as such paths"
    )
