"""The trained network whose saliency guides the mixing, or none: then saliency comes from the images alone."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from experiments.checkpoints import complete_config, find_checkpoint, load_weights
from experiments.common import UserError
from experiments.data import ImageDataModule, MissingDataError
from experiments.runs import CONFIG
from experiments.test_results import TEST_RESULTS, TestResults

DEFAULT_SIZE = 224

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaliencyModel:
    """A network in evaluation mode and the images it takes, normalized by `mean` and `std` from [0, 1]; None: unknown."""

    net: nn.Module | None = None
    channels: int = 3
    height: int = DEFAULT_SIZE
    width: int = DEFAULT_SIZE
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize images (B, C, H, W) in [0, 1]."""
        return pixels if self.mean is None else normalize(pixels, self.mean, self.std)

    def predict(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of normalized images; without a network, each image has a class of its own.

        Raises:
            UserError: If the network does not take images of this size.
        """
        if self.net is None:
            return torch.eye(len(images))
        try:
            with torch.no_grad():
                return self.net(images)
        # What networks raise that are built for one size, or reduce small images to nothing.
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"The network does not take {self.height} x {self.width} pixels ({error}); leave out --size for the size "
                "that it was trained on"
            ) from error


def load_saliency_model(checkpoint: str | None, *, allow: Collection[str] = ()) -> SaliencyModel:
    """Load the network of a run, see `load_network`; without a checkpoint there is none."""
    if checkpoint is None:
        return SaliencyModel()
    net, data, class_names = load_network(checkpoint, allow=allow)
    if data.in_channels not in (1, 3):
        raise UserError(f"{checkpoint} was trained on images of {data.in_channels} channels; they must have 1 or 3")
    return SaliencyModel(net, data.in_channels, data.image_size, data.image_size, data.mean, data.std, class_names)


def load_network(
    checkpoint: str, *, allow: Collection[str] = ()
) -> tuple[nn.Module, ImageDataModule, tuple[str, ...] | None]:
    """Build the network of a run and load its weights.

    Args:
        checkpoint: A run folder, or a checkpoint inside one.
        allow: Names of classes and functions that the run may name although they are not part of this study.

    Returns:
        The network in evaluation mode, its data, not set up, and the names of its classes if they are known.

    Raises:
        UserError: If it cannot be found or read, is not from a run, does not fit the network, or the run names anything that is
            not built from a run folder.
        MissingDataError: If only the data set would tell the number of classes, and it is missing.
    """
    source = find_checkpoint(checkpoint)
    if source.run_dir is None:
        raise UserError(
            f"--checkpoint must be a run folder of this study or a .ckpt in its checkpoints/, got {checkpoint}: there is no "
            f"{source.path.absolute().parents[1] / CONFIG}, which names the network and its data"
        )
    cfg = complete_config(OmegaConf.create({"data": {}, "model": {}}), source, allow=allow)
    data: ImageDataModule = instantiate(cfg.data)
    class_names = None
    results = source.run_dir / TEST_RESULTS
    try:
        class_names = TestResults.load(results).class_names if results.is_file() else tuple(data.class_names)
    except MissingDataError:
        log.warning(f"Classes are shown by number: neither the data set nor {TEST_RESULTS} is there to name them")
    classes = data.num_classes if class_names is None else len(class_names)
    # The random initial weights are replaced.
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = instantiate(cfg.model, num_classes=classes, in_channels=data.in_channels)
    load_weights(net, source.path)
    return net.eval(), data, class_names
