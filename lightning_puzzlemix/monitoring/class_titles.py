"""Titles of images in a plot, from their targets: a class, several classes, one of two, or a value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_puzzlemix.targets import dominant_class
from lightning_puzzlemix.validation import shorten

# Wider titles do not fit above an image.
TITLE_WIDTH = 24
# Rows of probabilities sum to 1 within this rounding, also in bfloat16.
_ROUNDING = 1e-2


def class_titles(targets: Tensor | None, class_names: Sequence[str] | None) -> list[str]:
    """Return the names of each image's classes; an empty list without targets.

    Args:
        targets: (B,) class indices; (B, classes) floats: the dominant class if rows sum to 1, else all classes with a share of
            at least one half; (B, 1) or (B,) floats of one logit: class 1 from one half, else class 0, or the value itself
            if any is outside [0, 1].
        class_names: A name for each class; for one logit those of 0 and 1, or only that of 1.
    """
    if targets is None:
        return []
    targets = targets.detach().cpu()
    if targets.ndim == 1 and not targets.is_floating_point():
        return [_name(label, class_names) for label in targets.tolist()]
    if targets.ndim == 1 or targets.shape[1] == 1:
        values = targets.reshape(-1).tolist()
        binary = all(0 <= value <= 1 for value in values)
        return [_binary_name(value >= 0.5, class_names) if binary else f"{value:.4g}" for value in values]
    rows = targets.float()
    if bool(((rows.sum(1) - 1).abs() <= _ROUNDING).all()):
        return [_name(label, class_names) for label in dominant_class(rows).tolist()]
    return [_names([label for label, share in enumerate(row) if share >= 0.5], class_names) for row in rows.tolist()]


def shares_title(soft: Tensor, class_names: Sequence[str] | None) -> str:
    """Return the one or two classes with the largest shares of a mixed image, one a line.

    Args:
        soft: (classes,) floats, or one of one logit, in the shape () or (1,).
        class_names: As for :func:`class_titles`.
    """
    if soft.numel() == 1:
        share = float(soft)
        if not 0 <= share <= 1:
            return f"{share:.4g}"
        parts = [(share, _binary_name(True, class_names)), (1 - share, _binary_name(False, class_names))]
        return "\n".join(f"{part:.2f} {name}" for part, name in sorted(parts, reverse=True) if part > 0)
    shares, labels = torch.topk(soft, min(2, len(soft)))
    parts = [(share, _name(label, class_names)) for share, label in zip(shares.tolist(), labels.tolist(), strict=True)]
    return "\n".join(f"{part:.2f} {name}" for part, name in parts if part > 0) or "no class"


def _binary_name(positive: bool, class_names: Sequence[str] | None) -> str:
    if class_names is not None and len(class_names) == 1:
        return shorten(str(class_names[0]) if positive else f"not {class_names[0]}", TITLE_WIDTH)
    return _name(int(positive), class_names)


def _names(labels: list[int], class_names: Sequence[str] | None) -> str:
    """Join the names of several classes; of those that do not fit only the number is shown."""
    names = [str(label) if class_names is None else str(class_names[label]) for label in labels]
    for count in range(len(names), 0, -1):
        more = f" +{len(names) - count}" if count < len(names) else ""
        text = ", ".join(names[:count]) + more
        if len(text) <= TITLE_WIDTH:
            return text
    return shorten(f"{len(names)} classes: {names[0]}", TITLE_WIDTH) if names else "no class"


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return shorten(str(label) if class_names is None else str(class_names[label]), TITLE_WIDTH)
