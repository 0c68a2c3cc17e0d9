"""What a picture says of the targets of an image: the class, several of them, one of two, or a value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_puzzlemix.monitoring.plot_data import short

# Rows of probabilities sum to 1 but for rounding, also in bfloat16.
_ROUNDING = 1e-2


def class_titles(targets: Tensor | None, class_names: Sequence[str] | None) -> list[str]:
    """Name the classes of each image; empty where the targets are not given.

    Args:
        targets: (B,) class indices, named as such; (B, classes) floats: the class with the greatest share where rows sum to
            1, else all with a share of at least one half; (B, 1) or (B,) floats of one logit: class 1 from one half on, else
            class 0, or the value itself where any lies outside [0, 1].
        class_names: A name for each class; for one logit those of 0 and 1, or that of 1 alone.
    """
    if targets is None:
        return []
    targets = targets.detach().cpu()
    if targets.ndim == 1 and not targets.is_floating_point():
        return [_name(label, class_names) for label in targets.tolist()]
    if targets.ndim == 1 or targets.shape[1] == 1:
        values = targets.reshape(-1).tolist()
        one_of_two = all(0 <= value <= 1 for value in values)
        return [_one_of_two(value >= 0.5, class_names) if one_of_two else f"{value:.4g}" for value in values]
    rows = targets.float()
    if bool(((rows.sum(1) - 1).abs() <= _ROUNDING).all()):
        return [_name(label, class_names) for label in rows.argmax(1).tolist()]
    return [_names([label for label, share in enumerate(row) if share >= 0.5], class_names) for row in rows.tolist()]


def shares_title(soft: Tensor, class_names: Sequence[str] | None) -> str:
    """Name the one or two classes with the largest shares of a mixed image, one a line.

    Args:
        soft: (classes,) floats, or one of one logit, in the shape () or (1,).
        class_names: As for :func:`class_titles`.
    """
    if soft.numel() == 1:
        share = float(soft)
        if not 0 <= share <= 1:
            return f"{share:.4g}"
        parts = [(share, _one_of_two(True, class_names)), (1 - share, _one_of_two(False, class_names))]
        return "\n".join(f"{part:.2f} {name}" for part, name in sorted(parts, reverse=True) if part > 0)
    shares, labels = torch.topk(soft, min(2, len(soft)))
    parts = [(share, _name(label, class_names)) for share, label in zip(shares.tolist(), labels.tolist(), strict=True)]
    return "\n".join(f"{part:.2f} {name}" for part, name in parts if part > 0) or "no class"


def _one_of_two(positive: bool, class_names: Sequence[str] | None) -> str:
    if class_names is not None and len(class_names) == 1:
        return short(str(class_names[0]) if positive else f"not {class_names[0]}")
    return _name(int(positive), class_names)


def _names(labels: list[int], class_names: Sequence[str] | None) -> str:
    """Name several classes; where they do not fit over a panel, how many more there are."""
    names = [str(label) if class_names is None else str(class_names[label]) for label in labels]
    for count in range(len(names), 0, -1):
        more = f" +{len(names) - count}" if count < len(names) else ""
        text = ", ".join(names[:count]) + more
        if short(text) == text:
            return text
    return short(f"{len(names)} classes: {names[0]}") if names else "no class"


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return short(str(label) if class_names is None else str(class_names[label]))
