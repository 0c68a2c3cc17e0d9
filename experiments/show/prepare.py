"""Images with their saliency, ready to be mixed with one setting after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.common import UserError
from experiments.show.image_files import SourceImage
from experiments.show.saliency_model import SaliencyModel
from lightning_puzzlemix import MixDraw, MixedBatch, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.saliency import SaliencySource
from lightning_puzzlemix.validation import shorten

LONGEST_NAME = 18


@dataclass(frozen=True)
class PreparedImages:
    """B images and everything that mixing needs to know about them.

    Args:
        model: Where their predictions are from.
        images: (B, C, H, W), normalized.
        partners: (B,) integers, the partner of each image.
        logits: (B, classes).
        saliency: (B, H, W) >= 0.
        titles: B names, with the predicted class on a second line where there is a network.
        class_names: None: they are not known.
    """

    model: SaliencyModel
    images: Tensor
    partners: Tensor
    logits: Tensor
    saliency: Tensor
    titles: tuple[str, ...]
    class_names: tuple[str, ...] | None

    def mix(self, lam: float, blocks: int, hyperparameters: dict[str, Any]) -> MixedBatch:
        """Mix every image with its partner: `lam` is the target ratio, `blocks` those along each side of the mask.

        Raises:
            UserError: If a setting is out of its range or does not fit the images, or the solver is not installed.
        """
        side = min(self.images.shape[2:])
        if blocks > side:
            raise UserError(
                f"--blocks must be at most the shorter image side, {side}, got {blocks}; or give a larger --size"
            )
        try:
            config = PuzzleMixConfig(mean=self.model.mean, std=self.model.std, **hyperparameters)
            mixer = PuzzleMix(config, saliency=lambda *_: self.saliency, num_classes=self.logits.shape[1])
            return mixer(nn.Identity(), self.images, self.logits.argmax(1), MixDraw(self.partners, lam, blocks))
        except (ImportError, ValueError) as error:
            raise UserError(str(error)) from error


def prepare(
    images: Sequence[SourceImage],
    rows: Sequence[int],
    partners: Sequence[int],
    model: SaliencyModel,
    saliency: str | None,
) -> PreparedImages:
    """Read the images `rows` and their partners, predict their classes and compute their saliency.

    Without a choice, saliency is "gradient" with a network, else "spectral".

    Raises:
        UserError: If an image cannot be read, or the network does not take it.
    """
    if model.net is None and saliency not in (None, "spectral"):
        raise UserError(f"--saliency {saliency} is that of a network; add a --checkpoint, or use --saliency spectral")
    needed = list(dict.fromkeys([*rows, *(partners[row] for row in rows)]))
    # Images that are only partners are mixed with themselves, and not shown.
    local = [needed.index(partners[index]) if index in rows else place for place, index in enumerate(needed)]
    size = {"height": model.height, "width": model.width, "channels": model.channels}
    normalized = model.normalize(torch.stack([images[index].read(**size) for index in needed]))
    logits = model.predict(normalized)
    targets = logits.argmax(1)
    names = titles = class_names = tuple(shorten(images[index].name, LONGEST_NAME) for index in needed)
    if model.net is not None:
        class_names = model.class_names
        classes = [f"class {label}" if class_names is None else class_names[label] for label in targets.tolist()]
        titles = tuple(f"{name},\npredicted as {each}" for name, each in zip(names, classes, strict=True))
    source = SaliencySource(saliency or ("spectral" if model.net is None else "gradient"))
    try:
        found = source.compute(model.net or nn.Identity(), normalized, targets)
    # For example a network without a feature map.
    except ValueError as error:
        raise UserError(str(error)) from error
    return PreparedImages(model, normalized, torch.tensor(local), logits, found.saliency, titles, class_names)
