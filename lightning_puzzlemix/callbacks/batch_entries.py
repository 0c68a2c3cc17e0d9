"""The new entries of a batch: all views of its images and all forms of its targets, mixed alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_puzzlemix.callbacks.batch import SamplePaths
from lightning_puzzlemix.callbacks.containers import Path, dotted, read
from lightning_puzzlemix.mixers import apply_mix
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.saliency import SaliencySource
from lightning_puzzlemix.targets import mix_task_targets, pair_targets


def mixed_entries(mixer: object, batch: Any, where: SamplePaths, mixed: MixedBatch, form: str) -> dict[Path, Any]:
    """Return the mixed views and targets by path.

    Args:
        mixer: The mixer of the first view.
        batch: The batch before mixing.
        where: Where its views and targets are.
        mixed: The first view, mixed with the first form of the targets.
        form: ``"soft"`` or ``"pair"``.

    Raises:
        ValueError: If a view cannot be mixed like the first.
    """
    images = {path: _mix_view(batch, path, mixed) for path in where.images[1:]}
    known = {where.targets[0]: mixed.targets} if form == "soft" else {}
    others = [path for path in where.targets if path not in known]
    classes = mixed.targets.shape[1] if mixed.targets.ndim == 2 else 1
    targets = _mix_targets(mixer, batch, others, form, mixed.draw.permutation, mixed.ratio, classes)
    return {where.images[0]: mixed.images, **images, **known, **targets}


def unmixed_entries(
    mixer: object, batch: Any, where: SamplePaths, form: str, num_classes: int | None
) -> dict[Path, Any]:
    """Return the targets of an unmixed batch in the form that they have in a mixed one.

    Args:
        mixer: The mixer of other batches.
        batch: The batch.
        where: Where its targets are.
        form: ``"soft"`` or ``"pair"``.
        num_classes: The number of classes, needed where :func:`needs_num_classes`.
    """
    targets = read(batch, where.targets[0])
    alone, ratio = torch.arange(len(targets), device=targets.device), torch.ones(len(targets), device=targets.device)
    return _mix_targets(mixer, batch, where.targets, form, alone, ratio, num_classes)


def needs_num_classes(batch: Any, where: SamplePaths, form: str) -> bool:
    """Tell whether the form of the mixed targets depends on the number of classes."""
    return form == "soft" and not all(_has_columns(read(batch, path)) for path in where.targets)


def _mix_view(batch: Any, path: Path, mixed: MixedBatch) -> Tensor:
    try:
        view = read(batch, path)
        if mixed.draw.noise is not None:
            raise ValueError("adversarial noise is made for one view alone: use adversarial_prob=0")
        return apply_mix(view, mixed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"image_key: the view {dotted(path)!r} cannot be mixed like the first: {error}") from error


def _mix_targets(
    mixer: object, batch: Any, paths: Any, form: str, permutation: Tensor, ratio: Tensor, num_classes: int | None
) -> dict[Path, Any]:
    entries: dict[Path, Any] = {}
    source = getattr(mixer, "source", None)
    for path in paths:
        targets = read(batch, path)
        if form == "pair":
            entries[path] = pair_targets(targets, permutation=permutation, ratio=ratio)
            continue
        classes = targets.shape[1] if _has_columns(targets) else num_classes
        assert classes is not None
        # Float targets of a regression need not lie in [0, 1].
        bounded = source.asks_for_probabilities(classes) if isinstance(source, SaliencySource) else classes > 1
        entries[path] = mix_task_targets(
            targets, permutation=permutation, ratio=ratio, num_classes=classes, bounded=bounded
        )
    return entries


def _has_columns(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim == 2
