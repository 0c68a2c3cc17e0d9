"""The pictures of a run: what the model was fed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.common.atomic_files import save_figure
from experiments.data import ImageDataModule

COLUMNS, ROWS = 8, 3


def save_training_picture(path: Path, model: nn.Module, mix: Any, data: ImageDataModule) -> str:
    """Mix a batch of training images for the trained model and draw it, or draw it plain, into a PNG.

    Args:
        path: The file to write.
        model: The trained classifier.
        mix: The mixing callback, whose settings the picture is mixed with; None: training without mixing.
        data: The data module, set up.

    Returns:
        What the picture shows, for the line that announces it.
    """
    images, targets = next(iter(data.train_dataloader()))
    if mix is None:
        figure = draw_images(images, targets, mean=data.mean, std=data.std, class_names=data.class_names)
        caption = "training images, not mixed"
    else:
        # Imported late: runs with mix=none do not need the plugin.
        from lightning_puzzlemix import PuzzleMixCallback
        from lightning_puzzlemix.monitoring import plot_mixes

        draw = mix.draw(images)
        if isinstance(mix, PuzzleMixCallback):
            # A half and half mix on a middling grid shows best what happens; a random draw may show next to nothing.
            sizes = sorted(mix.config.grid_sizes)
            draw = replace(draw, lam=0.5, blocks_per_side=sizes[len(sizes) // 2])
        mixed = mix.mixer(model, images, targets, draw)
        figure = plot_mixes(mixed, mean=data.mean, std=data.std, class_names=data.class_names, targets=targets)
        caption = "mixed images"
    save_figure(figure, path, dpi=150)
    return caption


def draw_images(
    images: Tensor,
    targets: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
) -> Figure:
    """Draw up to 24 normalized images (B,C,H,W), C 1 or 3, under the names of their classes (B,)."""
    pixels = images[: ROWS * COLUMNS].cpu() * _per_channel(std) + _per_channel(mean)
    figure = Figure(figsize=(1.3 * COLUMNS, 1.5 * ROWS), layout="constrained")
    axes = figure.subplots(ROWS, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, target in zip(axes.flat, pixels.clamp(0, 1), targets, strict=False):
        axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(class_names[int(target)][:16], fontsize=8)
    return figure


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
