"""Images with their saliency, by a trained network or without one, ready to be mixed with one setting after another."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from experiments.checkpoints import complete_config, find_checkpoint, load_weights
from experiments.common import UserError
from experiments.data import ImageDataModule, MissingDataError
from experiments.runs import CONFIG
from experiments.show.image_files import read_pixels
from experiments.test_results import TEST_RESULTS, TestResults
from lightning_puzzlemix import MixDraw, MixedBatch, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.saliency import SaliencySource
from lightning_puzzlemix.validation import shorten

DEFAULT_SIZE, LONGEST_NAME = 224, 18

log = logging.getLogger(__name__)


class PreparedImages:
    """Pairs of images with predicted classes and saliency; without a checkpoint, each image is a class of its own.

    Args:
        paths: The first images of all pairs, then the second ones.
        checkpoint: Of the network, see `load_network`, also for `allow`.
        size: Height and width in pixels; None: those that the network was trained on, or `DEFAULT_SIZE`.
        saliency: "gradient", "feature" or "spectral"; None: "gradient" with a network, else "spectral".
    """

    def __init__(
        self, paths: Sequence[Path], checkpoint: str | None = None, *, allow: Collection[str] = (),
        size: tuple[int, int] | None = None, saliency: str | None = None,
    ) -> None:  # fmt: skip
        if checkpoint is None and saliency not in (None, "spectral"):
            raise UserError(f"--saliency {saliency} needs a network: add a --checkpoint, or use --saliency spectral")
        net, data, class_names = load_network(checkpoint, allow=allow) if checkpoint else (None, None, None)
        channels, side = (data.in_channels, data.image_size) if data else (3, DEFAULT_SIZE)
        self.mean, self.std = (data.mean, data.std) if data else (None, None)
        height, width = size or (side, side)
        pixels = torch.stack([read_pixels(path, height=height, width=width, channels=channels) for path in paths])
        self.images = normalize(pixels, self.mean, self.std) if data else pixels
        self.logits = torch.eye(len(paths)) if net is None else _predict(net, self.images)
        self.targets = self.logits.argmax(1)
        self.titles = self.class_names = [shorten(path.stem, LONGEST_NAME) for path in paths]
        if net is not None:
            self.class_names = class_names
            classes = [class_names[label] if class_names else f"class {label}" for label in self.targets.tolist()]
            self.titles = [f"{name},\npredicted as {each}" for name, each in zip(self.titles, classes, strict=True)]
        source = SaliencySource(saliency or ("spectral" if net is None else "gradient"))
        self.saliency = source.compute(nn.Identity() if net is None else net, self.images, self.targets).saliency

    def mix(self, lam: float, blocks: int, hyperparameters: dict[str, Any]) -> MixedBatch:
        """Mix all pairs, and the second images with the first ones: `lam` is the target ratio of the pairs' first images."""
        side = min(self.images.shape[2:])
        if blocks > side:
            raise UserError(f"--blocks must be at most the shorter image side {side}, got {blocks}; or enlarge --size")
        config = PuzzleMixConfig(mean=self.mean, std=self.std, **hyperparameters)
        mixer = PuzzleMix(config, saliency=lambda *_: self.saliency, num_classes=self.logits.shape[1])
        partners = torch.arange(len(self.images)).roll(len(self.images) // 2)
        return mixer(nn.Identity(), self.images, self.targets, MixDraw(partners, lam, blocks))


def _predict(net: nn.Module, images: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return net(images)
    # What networks raise that are built for one size, or reduce small images to nothing.
    except (AssertionError, RuntimeError, ValueError) as error:
        size = " x ".join(map(str, images.shape[2:]))
        raise UserError(
            f"The network does not take {size} pixels ({error}); leave out --size for the size that it was trained on"
        ) from error


def load_network(
    checkpoint: str, *, allow: Collection[str] = ()
) -> tuple[nn.Module, ImageDataModule, tuple[str, ...] | None]:
    """Load the network of a run folder, or of a checkpoint inside one, in evaluation mode.

    With it come its data, not set up, and the names of its classes if they are known. `allow`: names of classes and functions
    that the run may name although they are not part of this study. A MissingDataError if only the missing data set would tell
    the number of classes.
    """
    source = find_checkpoint(checkpoint)
    if source.run_dir is None:
        raise UserError(
            f"--checkpoint must be a run folder of this study or a .ckpt in its checkpoints/, got {checkpoint}: there is no "
            f"{source.path.absolute().parents[1] / CONFIG}, which names the network and its data"
        )
    cfg = complete_config(OmegaConf.create({"data": {}, "model": {}}), source, allow=allow)
    data: ImageDataModule = instantiate(cfg.data)
    results, class_names = source.run_dir / TEST_RESULTS, None
    try:
        class_names = TestResults.load(results).class_names if results.is_file() else tuple(data.class_names)
    except MissingDataError:
        log.warning(f"Classes are shown by number: neither the data set nor {TEST_RESULTS} is there to name them")
    classes = len(class_names) if class_names else data.num_classes
    # The random initial weights are replaced.
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = instantiate(cfg.model, num_classes=classes, in_channels=data.in_channels)
    load_weights(net, source.path)
    return net.eval(), data, class_names
