"""Pictures that have been looked at, ready to be mixed in one way after another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from experiments.common.errors import UserError
from experiments.show.image_files import Picture
from experiments.show.options import Settings
from experiments.show.saliency_model import SaliencyModel
from lightning_puzzlemix import MixDraw, MixedBatch, PuzzleMix
from lightning_puzzlemix.saliency.source import SaliencySource
from lightning_puzzlemix.validation import shorten

LONGEST_NAME = 18


@dataclass(frozen=True)
class PreparedImages:
    """Pictures and all that mixing asks about them.

    Args:
        names: (B,) of the pictures.
        viewer: Who looks at them.
        images: (B, C, H, W), normalized for the viewer.
        partners: (B,) integers, the partner of each picture.
        targets: (B,) their classes.
        saliency: (B, H, W) >= 0.
        pairs: So many of the pictures, from the first on, are shown with their partners.
    """

    names: tuple[str, ...]
    viewer: SaliencyModel
    images: Tensor
    partners: Tensor
    targets: Tensor
    saliency: Tensor
    pairs: int

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the targets' classes; without a network those of the pictures."""
        return self.names if self.viewer.net is None else self.viewer.class_names

    def describe(self, place: int) -> str:
        """The name of a picture and, on a second line, what the network takes it for."""
        name = shorten(self.names[place], LONGEST_NAME)
        if self.viewer.net is None:
            return name
        target = int(self.targets[place])
        seen = f"class {target}" if self.class_names is None else self.class_names[target]
        return f"{name},\nseen as {shorten(seen, LONGEST_NAME)}"

    def mix(self, settings: Settings) -> MixedBatch:
        """Mix every picture with its partner.

        Raises:
            UserError: If the settings do not fit, or their solver is not installed.
        """
        settings.check_blocks(*self.images.shape[2:])
        config = replace(settings.config, mean=self.viewer.mean, std=self.viewer.std)
        net = nn.Identity() if self.viewer.net is None else self.viewer.net
        classes = len(self.names) if self.viewer.net is None else None
        # However often the pictures are mixed, they have been looked at once.
        mixer = PuzzleMix(config, saliency=lambda *_: self.saliency, num_classes=classes)
        try:
            return mixer(net, self.images, self.targets, MixDraw(self.partners, settings.lam, settings.blocks))
        except ImportError as error:
            raise UserError(str(error)) from error


def prepare(
    pictures: Sequence[Picture],
    rows: Sequence[int],
    partners: Sequence[int],
    *,
    viewer: SaliencyModel,
    saliency: str | None,
) -> PreparedImages:
    """Read the pictures that are needed and look at them.

    Args:
        pictures: All pictures.
        rows: Positions of those that are shown with their partners.
        partners: For each of all pictures the position of its partner.
        viewer: Who looks at them.
        saliency: "gradient", "feature" or "spectral"; None: what suits the viewer.

    Raises:
        UserError: If a picture cannot be read, or the viewer cannot look at it like this.
    """
    if viewer.net is None and saliency not in (None, "spectral"):
        raise UserError(f"--saliency {saliency} is that of a network; give a --checkpoint, or take --saliency spectral")
    needed = list(dict.fromkeys([*rows, *(partners[row] for row in rows)]))
    chosen = [pictures[position] for position in needed]
    read = [each.read(height=viewer.height, width=viewer.width, channels=viewer.channels) for each in chosen]
    images = viewer.normalize(torch.stack(read))
    targets = viewer.classify(images)
    # Those that are only partners are mixed with themselves, and not shown.
    local = [needed.index(partners[row]) if row in rows else place for place, row in enumerate(needed)]
    try:
        source = SaliencySource(saliency or viewer.default_saliency)
        found = source.compute(nn.Identity() if viewer.net is None else viewer.net, images, targets)
    # A network without a feature map to look at, say.
    except ValueError as error:
        raise UserError(str(error)) from error
    names = tuple(picture.name for picture in chosen)
    return PreparedImages(names, viewer, images, torch.tensor(local), targets, found.saliency, len(rows))
