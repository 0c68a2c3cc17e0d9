"""Who looks at the pictures: a trained network of a run, or nobody, and then saliency is that of the pictures alone."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from experiments.checkpoints.location import CheckpointLocation, complete_config, find_checkpoint
from experiments.checkpoints.weights import load_weights
from experiments.common.errors import UserError
from experiments.data import ImageDataModule, MissingDataError
from experiments.runs.run_folder import CONFIG
from experiments.test_results.results import TEST_RESULTS, TestResults

DEFAULT_SIZE = 224

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaliencyModel:
    """What pictures are prepared for, and what they are taken for.

    Args:
        net: The network, in evaluation mode; None: there is none.
        channels: Channels of the pictures, 1 or 3.
        height: Of the pictures, in pixels.
        width: Of the pictures, in pixels.
        mean: Mean of each channel to normalize with, in [0, 1] units; None: pictures stay in [0, 1].
        std: Standard deviation of each channel.
        class_names: One a class; None: they are not known.
    """

    net: nn.Module | None = None
    channels: int = 3
    height: int = DEFAULT_SIZE
    width: int = DEFAULT_SIZE
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def default_saliency(self) -> str:
        """The paper's, where there is a network to have a gradient."""
        return "spectral" if self.net is None else "gradient"

    def normalize(self, pixels: Tensor) -> Tensor:
        """Bring pictures (B, C, H, W) in [0, 1] to the network's scale."""
        if self.mean is None or self.std is None:
            return pixels
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def classify(self, images: Tensor) -> Tensor:
        """The class (B,) of each normalized picture: the network's best guess, without one a class for each picture.

        Raises:
            UserError: If the network does not take pictures of this size.
        """
        if self.net is None:
            return torch.arange(len(images))
        try:
            with torch.no_grad():
                return self.net(images).argmax(1)
        # What networks raise that are built for one size, or divide small pictures away.
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"The network cannot look at {self.height} x {self.width} pixels ({error}); leave out --size for the size that "
                "it was trained on"
            ) from error


def open_saliency_model(setting: str | None, *, allow: Collection[str] = ()) -> SaliencyModel:
    """Build the network of a run and load its weights; without one there is nobody to look.

    Args:
        setting: A run folder, or a checkpoint inside one; None: no network.
        allow: Names of classes and functions that the run may name though they are not of this study.

    Raises:
        UserError: If the checkpoint cannot be read or does not fit the model.
        UserError: If there is no such file.
        UserError: If the run names anything that is not built from a run folder.
        MissingDataError: If only the data set would say how many classes there are, and it is not there.
        UserError: If the checkpoint is not from a run, or its images are neither gray nor in color.
    """
    if setting is None:
        return SaliencyModel()
    source = find_checkpoint(setting)
    if source.run_dir is None:
        raise UserError(
            f"--checkpoint must be a run folder of this study or a .ckpt in its checkpoints/, got {setting}: there is no "
            f"{source.path.absolute().parents[1] / CONFIG}, which says what network it is and what it was trained on"
        )
    cfg = complete_config(OmegaConf.create({"data": {}, "model": {}}), source, allow=allow)
    data: ImageDataModule = instantiate(cfg.data)
    if data.in_channels not in (1, 3):
        raise UserError(f"{setting} was trained on images of {data.in_channels} channels; pictures have 1 or 3")
    class_names, classes = _find_classes(source, data)
    # Its first weights, which are replaced, are random.
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = instantiate(cfg.model, num_classes=classes, in_channels=data.in_channels)
    load_weights(net, source.path)
    size = data.image_size
    return SaliencyModel(net.eval(), data.in_channels, size, size, data.mean, data.std, class_names)


def _find_classes(source: CheckpointLocation, data: ImageDataModule) -> tuple[tuple[str, ...] | None, int]:
    """Names and number of the classes, from what the run left behind or else from its data."""
    outcome = None if source.run_dir is None else source.run_dir / TEST_RESULTS
    if outcome is not None and outcome.is_file():
        names = TestResults.load(outcome).class_names
        return names, len(names)
    try:
        names = tuple(data.class_names)
    except MissingDataError:
        try:
            classes = data.num_classes
        except MissingDataError:
            # Without their number there is no network: the data set is fetched for it, where that can be done.
            data.prepare_data()
            names = tuple(data.class_names)
        else:
            # Some data sets are known to have so many classes before they are there.
            log.warning(
                f"Classes are shown by number: their names are in the data set, which is not there ({TEST_RESULTS} neither)"
            )
            return None, classes
    return names, len(names)
