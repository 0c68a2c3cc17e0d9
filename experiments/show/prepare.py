"""Images with their saliency, ready to be mixed with one setting after another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        images: (B, C, H, W), normalized.
        partners: (B,) integers, the partner of each image.
        targets: (B,) classes.
        saliency: (B, H, W) >= 0.
        titles: (B,) names of the images, with the predicted class on a second line where there is a network.
        num_classes: Number of classes.
        class_names: None: they are not known.
        mean: Per-channel mean of the normalization; None: images are in [0, 1].
        std: Per-channel standard deviation.
        shown: The first `shown` images are shown with their partners.
    """

    images: Tensor
    partners: Tensor
    targets: Tensor
    saliency: Tensor
    titles: tuple[str, ...]
    num_classes: int
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    shown: int

    def mix(self, config: PuzzleMixConfig, lam: float, blocks: int) -> MixedBatch:
        """Mix every image with its partner: `lam` is the target ratio, `blocks` those along each side of the mask.

        Raises:
            UserError: If the settings do not fit the images, or the solver is not installed.
        """
        side = min(self.images.shape[2:])
        if blocks > side:
            raise UserError(
                f"--blocks must be at most the shorter image side, {side}, got {blocks}; or give a larger --size"
            )
        config = replace(config, mean=self.mean, std=self.std)
        mixer = PuzzleMix(config, saliency=lambda *_: self.saliency, num_classes=self.num_classes)
        try:
            return mixer(nn.Identity(), self.images, self.targets, MixDraw(self.partners, lam, blocks))
        except (ImportError, ValueError) as error:
            raise UserError(str(error)) from error


def prepare(
    images: Sequence[SourceImage],
    rows: Sequence[int],
    partners: Sequence[int],
    *,
    model: SaliencyModel,
    saliency: str | None = None,
) -> PreparedImages:
    """Read the images that are needed, predict their classes and compute their saliency.

    Args:
        images: All images.
        rows: Indices of those that are shown with their partners.
        partners: For each of all images the index of its partner.
        model: The network.
        saliency: "gradient", "feature" or "spectral"; None: "gradient" with a network, else "spectral".

    Raises:
        UserError: If an image cannot be read, or the network does not take it.
    """
    if model.net is None and saliency not in (None, "spectral"):
        raise UserError(f"--saliency {saliency} is that of a network; add a --checkpoint, or use --saliency spectral")
    needed = list(dict.fromkeys([*rows, *(partners[row] for row in rows)]))
    chosen = [images[index] for index in needed]
    read = [each.read(height=model.height, width=model.width, channels=model.channels) for each in chosen]
    normalized = model.normalize(torch.stack(read))
    logits = model.predict(normalized)
    targets = logits.argmax(1)
    source = SaliencySource(saliency or ("spectral" if model.net is None else "gradient"))
    try:
        maps = source.compute(nn.Identity() if model.net is None else model.net, normalized, targets).saliency
    # For example a network without a feature map.
    except ValueError as error:
        raise UserError(str(error)) from error
    names = tuple(shorten(each.name, LONGEST_NAME) for each in chosen)
    titles, class_names = names, names
    if model.net is not None:
        class_names = model.class_names
        classes = [f"class {label}" if class_names is None else class_names[label] for label in targets.tolist()]
        titles = tuple(
            f"{name},\npredicted as {shorten(each, LONGEST_NAME)}" for name, each in zip(names, classes, strict=True)
        )
    # Images that are only partners are mixed with themselves, and not shown.
    local = [needed.index(partners[index]) if index in rows else place for place, index in enumerate(needed)]
    return PreparedImages(
        images=normalized,
        partners=torch.tensor(local),
        targets=targets,
        saliency=maps,
        titles=titles,
        num_classes=logits.shape[1],
        class_names=class_names,
        mean=model.mean,
        std=model.std,
        shown=len(rows),
    )
