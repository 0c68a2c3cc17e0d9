"""What mixing returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from lightning_puzzlemix.sampling import MixDraw


@dataclass(frozen=True)
class MixResult:
    """What :func:`puzzle_mix` returns.

    Attributes:
        images: (B, C, H, W) mixed images, a new tensor in the dtype of the inputs.
        ratio: (B,) float32, the share of the first image: the mean of the mask over all pixels.
        mask: (B, n, n) float32 in [0, 1], 1 where a block shows the first image.
        plan: (2, B, R, C) integers, the transport plans of the first images and of their partners: the source block of each
            block, in row-major order. R and C are n, or more with ``transport_size``. ``None`` without transport.
    """

    images: Tensor
    ratio: Tensor
    mask: Tensor
    plan: Tensor | None = None


class CleanLoss(Protocol):
    """The loss of clean regularization, to be added to that of the mixed batch."""

    def surrogate_loss(self) -> Tensor:
        """Return a scalar whose gradients are those of the weighted loss of the clean batch."""
        ...


@dataclass(frozen=True)
class MixedBatch:
    """A mixed batch and what it was made from; nothing in it is attached to a graph.

    Attributes:
        images: (B, C, H, W) mixed images.
        targets: (B, classes) soft targets; for one logit (B, 1) or (B,), like the targets that they were made from.
        ratio: (B,) share of the first image.
        mask: (B, n, n) share of the first image in each block.
        saliency: (B, H, W) saliency of the first images (partners: ``saliency[draw.permutation]``); ``None`` for baselines.
        draw: The random choices.
        originals: (B, C, H, W) the images before mixing.
        clean: Gradients of clean regularization where ``clean_weight`` > 0; add ``clean.surrogate_loss()`` to the loss.
        plan: (2, B, R, C) transport plans, see :class:`MixResult`; ``None`` without transport and for baselines.
        mean: Per-channel mean that the images were normalized with, if the mixer knows it.
        std: Per-channel standard deviation, likewise.
        boxes: (1 or B, 4) integers top, bottom, left, right in pixels: what CutMix took from the partners; else ``None``.
        layer: Name of the submodule whose output manifold mixup mixes in place of the images; else ``None``.
    """

    images: Tensor
    targets: Tensor
    ratio: Tensor
    mask: Tensor
    saliency: Tensor | None
    draw: MixDraw
    originals: Tensor
    clean: CleanLoss | None = None
    plan: Tensor | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    boxes: np.ndarray | None = None
    layer: str | None = None
