"""The picture of a mix: both images, where the model looks in them, the mask, and the result. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.mixer import MixedBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ("first image", "its saliency", "second image", "its saliency", "mask", "mixed")
# Both colour maps grow evenly in lightness, so that they read the same with any colour vision and in grey.
_SALIENCY_COLOURS = "magma"
_MASK_COLOURS = "cividis"
_INCHES = 1.7


def draw_mixes(
    mixed: MixedBatch,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    rows: int = 6,
    targets: Tensor | None = None,
) -> Figure:
    """Draw the first pairs of a mixed batch, one a row.

    Args:
        mixed: The batch, on any device.
        mean: Per-channel mean that the images were normalised with; ``None`` with ``std=None`` for images in [0, 1].
        std: Per-channel standard deviation.
        class_names: A name for each class; class numbers are shown without.
        rows: Most pairs to draw, at least 1.
        targets: (B,) class indices of the originals, named above them where given.

    Returns:
        The figure; save it with ``figure.savefig(path)``. No global matplotlib state is touched.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If ``rows`` is below 1.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw_mixes needs matplotlib: pip install matplotlib") from error
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    count = min(rows, len(mixed.images))
    partner = mixed.draw.permutation[:count].to(mixed.images.device)
    labels = None if targets is None else targets.detach().cpu()
    figure = Figure(figsize=(_INCHES * len(_COLUMNS), (_INCHES + 0.4) * count + 0.7), layout="constrained")
    grid = figure.subplots(count, len(_COLUMNS), squeeze=False)
    for row in range(count):
        second = int(partner[row])
        first_name, second_name = ("", "") if labels is None else (_name(labels[i], class_names) for i in (row, second))
        axes = grid[row]
        _show_image(axes[0], mixed.originals[row], mean, std, first_name)
        _show_saliency(axes[1], mixed.saliency, row)
        _show_image(axes[2], mixed.originals[second], mean, std, second_name)
        _show_saliency(axes[3], mixed.saliency, second)
        _show_mask(axes[4], mixed.mask[row], f"{float(mixed.ratio[row]):.0%} of the first")
        _show_image(axes[5], mixed.images[row], mean, std, _describe(mixed.targets[row], class_names))
    for axes, title in zip(grid[0], _COLUMNS, strict=True):
        axes.annotate(
            title, (0.5, 1), xytext=(0, 29), xycoords="axes fraction", textcoords="offset points", ha="center",
            weight="bold", fontsize=9,
        )  # fmt: skip
    blocks = mixed.mask.shape[-1]
    figure.supxlabel(f"mask over {blocks} x {blocks} blocks: bright shows the first image, dark the second", fontsize=8)
    return figure


def _name(label: Tensor | int, class_names: Sequence[str] | None) -> str:
    return str(int(label)) if class_names is None else str(class_names[int(label)])


def _describe(soft: Tensor, class_names: Sequence[str] | None) -> str:
    """Name the one or two classes with the largest shares."""
    shares, labels = soft.detach().float().cpu().topk(min(2, len(soft)))
    parts = [
        f"{share:.2f} {_name(label, class_names)}" for share, label in zip(shares, labels, strict=True) if share > 0
    ]
    return "\n".join(parts)


def _pixels(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> np.ndarray:
    """Bring one (C, H, W) image back to [0, 1] and to (H, W, 3), or (H, W) where it is not in colour."""
    pixels = image.detach().float().cpu()
    if mean is not None and std is not None:
        pixels = pixels * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    pixels = pixels.clamp(0, 1)
    return pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels.mean(0).numpy()


def _show(axes: Axes, values: np.ndarray, title: str, **options: object) -> None:
    axes.imshow(values, interpolation="nearest", **options)  # type: ignore[arg-type]
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def _show_image(
    axes: Axes, image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None, title: str
) -> None:
    pixels = _pixels(image, mean, std)
    _show(axes, pixels, title, vmin=0, vmax=1, cmap="gray" if pixels.ndim == 2 else None)


def _show_saliency(axes: Axes, saliency: Tensor | None, row: int) -> None:
    if saliency is None:
        axes.axis("off")
        return
    _show(axes, saliency[row].detach().float().cpu().numpy(), "", cmap=_SALIENCY_COLOURS)


def _show_mask(axes: Axes, mask: Tensor, title: str) -> None:
    values = mask.detach().float().cpu().numpy()
    _show(axes, values, title, vmin=0, vmax=1, cmap=_MASK_COLOURS, aspect="auto")
    axes.set_box_aspect(1)
    # Lines between blocks, as ticks of no length at their borders.
    borders = np.arange(0.5, len(values) - 1)
    axes.set_xticks(borders, minor=True)
    axes.set_yticks(borders, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.4)
    axes.tick_params(which="minor", length=0)
