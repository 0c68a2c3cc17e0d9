"""Mix whatever else lies on the pixels of a batch, as its images were mixed."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_puzzlemix.core import mix_like
from lightning_puzzlemix.results import MixedBatch


@torch.no_grad()
def apply_mix(values: Tensor, mixed: MixedBatch) -> Tensor:
    """Move and blend values by the partners, the mask and the moves of a mixed batch.

    For segmentation masks (one-hot or probabilities), depth, heat maps, a second view of the images. Values that must not be
    averaged need ``num_labels=2``, by which each block shows one image alone, or labels that are not between two others.

    Examples:
        >>> masks = torch.nn.functional.one_hot(classes, 21).movedim(-1, 1).float()  # doctest: +SKIP
        >>> mixed_masks = apply_mix(masks, callback.last)  # doctest: +SKIP

    Args:
        values: (B, ..., H, W) floating point, at any resolution that has at least a pixel for each block of the mix.
        mixed: The batch, by Puzzle Mix or a baseline. Its adversarial noise, if any, is not added to the values.

    Returns:
        A new tensor of the shape and dtype of the values, attached to no graph.

    Raises:
        TypeError: If the values are not floating point.
        ValueError: If their shape does not fit, or a layer's output was mixed in place of the images.
    """
    if mixed.layer is not None:
        raise ValueError(
            f"the output of the layer {mixed.layer!r} was mixed, and no pixels: use layers=['input'], or mix no other values"
        )
    batch = len(mixed.ratio)
    if values.ndim < 3 or len(values) != batch or 0 in values.shape:
        raise ValueError(
            f"values must have shape ({batch}, ..., H, W), as many as the mixed images, got {tuple(values.shape)}"
        )
    if not values.is_floating_point():
        raise TypeError(
            f"values must be floating point, got {values.dtype}: pass images as floats, and the one-hot code of classes, which "
            "cannot be blended (torch.nn.functional.one_hot(classes, num_classes).movedim(-1, 1).float())"
        )
    maps = values.detach().reshape(batch, -1, *values.shape[-2:])
    if mixed.boxes is None:
        return mix_like(maps, mixed.mask, mixed.plan, mixed.draw.permutation).reshape(values.shape)
    inside = _inside_boxes(mixed, maps.shape[2:], values.device).to(values.dtype)
    partner = maps[mixed.draw.permutation.to(values.device, torch.int64)]
    return torch.lerp(maps, partner, inside).reshape(values.shape)


def _inside_boxes(mixed: MixedBatch, size: torch.Size, device: torch.device) -> Tensor:
    """Return (1 or B, 1, H, W), how much of each pixel lies in the box, whose ratio thus stays right at every resolution."""
    assert mixed.boxes is not None
    edges = torch.from_numpy(mixed.boxes).to(device, torch.float32, non_blocking=True)
    before = mixed.originals.shape[2:]
    rows = _covered(size[0], edges[:, 0:2] * (size[0] / before[0]))
    cols = _covered(size[1], edges[:, 2:4] * (size[1] / before[1]))
    return (rows[:, :, None] * cols[:, None, :])[:, None]


def _covered(size: int, edges: Tensor) -> Tensor:
    """Return (B, size): how much of each pixel lies between the (B, 2) edges, in pixels."""
    pixel = torch.arange(size, device=edges.device)
    return (torch.minimum(edges[:, 1:], pixel + 1) - torch.maximum(edges[:, :1], pixel)).clamp(0, 1)
