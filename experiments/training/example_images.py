"""`images.png` of a run: what the model was trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from experiments.common import save_figure
from experiments.data import ImageDataModule
from lightning_puzzlemix import PuzzleMixCallback, RandomMixCallback
from lightning_puzzlemix.monitoring import plot_mixes, show_image
from lightning_puzzlemix.normalization import Denormalizer

COLUMNS, ROWS = 8, 3


def save_training_images(path: Path, model: nn.Module, mix: Any, data: ImageDataModule) -> str:
    """Plot a batch of training images into a PNG, as `mix` mixes it for the trained model or unmixed (None); return which."""
    images, targets, *_ = next(iter(data.train_dataloader()))
    if mix is None:
        pixels = Denormalizer(data.mean, data.std)
        figure = Figure(figsize=(1.3 * COLUMNS, 1.5 * ROWS), layout="constrained")
        places = figure.subplots(ROWS, COLUMNS, subplot_kw={"frame_on": False, "xticks": [], "yticks": []})
        for axes, image, target in zip(places.flat, images, targets, strict=False):
            show_image(axes, pixels.shown(image), data.class_names[int(target)][:16])
    else:
        chosen = mix.choose() if isinstance(mix, RandomMixCallback) else mix
        draw = chosen.draw(images)
        if isinstance(chosen, PuzzleMixCallback):
            # A half and half mix on a middling grid shows best what happens; a random draw may show next to nothing.
            sizes = sorted(chosen.config.grid_sizes)
            draw = replace(draw, lam=0.5, blocks_per_side=sizes[len(sizes) // 2])
        mixed = chosen.mixer(model, images, targets, draw)
        figure = plot_mixes(mixed, mean=data.mean, std=data.std, class_names=data.class_names, targets=targets)
    save_figure(figure, path, dpi=150)
    return "training images, not mixed" if mix is None else "mixed images"
