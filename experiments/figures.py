"""The pictures of a run: what the model was fed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.data import ImageDataModule

COLUMNS, ROWS = 8, 3


def save_training_picture(path: Path, mix: Any, data: ImageDataModule) -> str:
    """Draw the last mixed batch, or plain training images where nothing has been mixed, into a PNG.

    Args:
        path: The file to write.
        mix: A mixing callback whose `last` is the last mixed batch; None: training without mixing.
        data: The data module, set up.

    Returns:
        What the picture shows, for the line that announces it.
    """
    last = None if mix is None else mix.last
    if last is None:
        images, targets = next(iter(data.train_dataloader()))
        figure = draw_images(images, targets, mean=data.mean, std=data.std, class_names=data.class_names)
        caption = "training images, not mixed"
    else:
        # Imported late: runs with mix=none do not need the plugin.
        from lightning_puzzlemix.figures import draw_mixes

        figure = draw_mixes(last, mean=data.mean, std=data.std, class_names=data.class_names)
        caption = "mixed images"
    figure.savefig(path, dpi=150)
    return caption


def draw_images(
    images: Tensor,
    targets: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str],
) -> Figure:
    """Draw up to 24 normalised images (B,C,H,W), C 1 or 3, under the names of their classes (B,)."""
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
