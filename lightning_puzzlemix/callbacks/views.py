"""What a batch is given in place of its images and targets: also of several views of one image, several forms of one label."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_puzzlemix.callbacks.batch import Location
from lightning_puzzlemix.callbacks.containers import Path, joined, read
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.saliency.source import SaliencySource
from lightning_puzzlemix.targets import PairTargets, mix_task_targets, pair_targets


@runtime_checkable
class MixesViews(Protocol):
    """A mixer that can mix a second view of a batch as it has mixed the first."""

    def mix_view(self, view: Tensor, mixed: MixedBatch) -> Tensor:
        """Mix (B, C, H, W) images by the permutation, mask and plan of a mixed batch of the same B."""
        ...


def mixed_entries(mixer: object, batch: Any, where: Location, mixed: MixedBatch, form: str) -> dict[Path, Any]:
    """Return what stands in a batch for each of its views and each form of its label, by path.

    All are mixed by the draw, the mask and the ratio of the first view.

    Args:
        mixer: What has mixed the first view.
        batch: The batch before.
        where: Where its views and targets are.
        mixed: The first view, mixed with the first form of the targets.
        form: ``"soft"`` or ``"pair"``.

    Raises:
        ValueError: If a view cannot be mixed like the first.
    """
    entries: dict[Path, Any] = {where.images: mixed.images}
    for path in where.other_images:
        if not isinstance(mixer, MixesViews):
            raise ValueError(
                f"image_key names several views, which {type(mixer).__name__} cannot mix alike: define "
                "mix_view(self, view, mixed), or name one view"
            )
        try:
            entries[path] = mixer.mix_view(read(batch, path), mixed)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"image_key: the view {joined(path)!r} cannot be mixed like the first: {error}"
            ) from error
    permutation, ratio = mixed.draw.permutation, mixed.ratio
    for path in (where.targets, *where.other_targets):
        targets = read(batch, path)
        if form == "pair":
            entries[path] = pair_targets(targets, permutation=permutation, ratio=ratio)
        elif path == where.targets:
            entries[path] = mixed.targets
        else:
            classes = _classes_of(targets, columns(mixed.targets))
            entries[path] = mix_task_targets(
                targets, permutation=permutation, ratio=ratio, num_classes=classes, bounded=_is_bounded(mixer, classes)
            )
    return entries


def unmixed_entries(mixer: object, batch: Any, where: Location, form: str, num_classes: int | None) -> dict[Path, Any]:
    """Return what stands in an unmixed batch for its targets, in the same form as in a mixed one: each image counts alone.

    Args:
        mixer: What mixes other batches.
        batch: The batch.
        where: Where its targets are.
        form: ``"soft"`` or ``"pair"``.
        num_classes: The number of classes, where :func:`needs_classes`.
    """
    entries: dict[Path, Any] = {}
    for path in (where.targets, *where.other_targets):
        targets = read(batch, path)
        ratio = torch.ones(len(targets), device=targets.device)
        if form == "pair":
            entries[path] = PairTargets(targets, targets, ratio)
            continue
        classes = _classes_of(targets, num_classes)
        alone = torch.arange(len(targets), device=targets.device)
        entries[path] = mix_task_targets(
            targets, permutation=alone, ratio=ratio, num_classes=classes, bounded=_is_bounded(mixer, classes)
        )
    return entries


def needs_classes(batch: Any, where: Location, form: str) -> bool:
    """Tell whether the number of classes must be known to give unmixed targets the form of mixed ones."""
    paths = (where.targets, *where.other_targets)
    return form == "soft" and not all(_says_classes(read(batch, path)) for path in paths)


def columns(targets: Tensor) -> int:
    """Return the number of classes that soft targets have, 1 for (B,) of them."""
    return targets.shape[1] if targets.ndim == 2 else 1


def _says_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim == 2


def _classes_of(targets: Tensor, num_classes: int | None) -> int:
    if _says_classes(targets):
        return targets.shape[1]
    assert num_classes is not None
    return num_classes


def _is_bounded(mixer: object, num_classes: int) -> bool:
    """Tell whether float targets must lie in [0, 1], as the mixer asks for: not those of a regression."""
    source = getattr(mixer, "source", None)
    return source.asks_for_probabilities(num_classes) if isinstance(source, SaliencySource) else num_classes > 1
