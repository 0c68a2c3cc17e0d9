"""The trained network under evaluation, its data, and the passes over them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.checkpoints.weights import Checkpoint, load_weights
from experiments.common.errors import UserError
from experiments.data import ImageDataModule
from experiments.data.corruptions import SEVERITIES, CorruptedImages
from experiments.robustness.attacks import Attack
from experiments.robustness.checkpoint_source import CheckpointSource
from experiments.robustness.pixel_space import PixelSpace
from experiments.robustness.results import CorruptionScores
from experiments.robustness.scoring import (
    Accuracy,
    CleanScores,
    Images,
    load,
    score_attacked,
    score_clean,
    score_plain,
    subsample,
    with_progress,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluator:
    """What is evaluated.

    Args:
        net: The network, in evaluation mode on `device`.
        data: Its data, set up for the test.
        device: Where the passes run.
        batch_size: Images in a batch.
        limit: Use so many images of every part; None: all.
        seed: Fixes what is random in attacks.
    """

    net: nn.Module
    data: ImageDataModule
    device: torch.device
    batch_size: int
    limit: int | None
    seed: int

    def measure_clean(self) -> CleanScores:
        """Score the test images as they are."""
        batches = self._batches(self.data.split("test"), "clean")
        scores = score_clean(self.net, batches, num_classes=self.data.num_classes, device=self.device)
        log.info(f"{'clean':<20} accuracy {scores.accuracy:.4f}  {scores.images} images  {scores.seconds:.1f} s")
        return scores

    def measure_attack(self, name: str, attack: Attack) -> Accuracy:
        """Score the test images under an attack."""
        batches = self._batches(self.data.split("test"), name)
        space = PixelSpace(self.data.mean, self.data.std)
        scores = score_attacked(self.net, batches, attack, space=space, device=self.device, seed=self.seed)
        log.info(f"{name:<20} accuracy {scores.accuracy:.4f}  {scores.images} images  {scores.seconds:.1f} s")
        return scores

    def measure_corruption(self, corrupted: CorruptedImages, name: str, scores: CorruptionScores) -> None:
        """Score one type of corruption at all severities; they are added to `scores`."""
        seconds = scores.seconds
        for severity in SEVERITIES:
            batches = self._batches(corrupted.split(name, severity), f"{name} {severity}")
            scores.add(name, severity, score_plain(self.net, batches, device=self.device))
        shares = " ".join(f"{share:.4f}" for share in scores.accuracy[name].values())
        log.info(f"{name:<20} accuracy {shares}  {scores.seconds - seconds:.1f} s")

    def _batches(self, images: Images, description: str) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = subsample(images, self.limit)
        return with_progress(load(chosen, batch_size=self.batch_size, num_workers=self.data.num_workers), description)


def build_evaluator(cfg: DictConfig, source: CheckpointSource) -> tuple[Evaluator, Checkpoint]:
    """Open the data, build the network and load its weights.

    Args:
        cfg: Settings with data and model.
        source: The checkpoint.

    Raises:
        UserError: If the checkpoint does not fit the model.
        UserError: If there is no such device, or the batch size is below 1.
        MissingDataError: If the data set is not there.
    """
    device = choose_device(cfg.device)
    if cfg.batch_size is not None and cfg.batch_size < 1:
        raise UserError(f"batch_size must be null or at least 1, got {cfg.batch_size}")
    data: ImageDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup("test")
    # Its first weights, which are replaced, are random.
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels)
    loaded = load_weights(net, source.path)
    size = data.batch_size if cfg.batch_size is None else cfg.batch_size
    return Evaluator(net.to(device).eval(), data, device, size, cfg.limit, cfg.seed), loaded


def choose_device(name: Any) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises:
        UserError: If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # A build without CUDA asserts, one with it and no GPU raises RuntimeError.
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} cannot be used ({reason}); take auto or cpu") from error
    return device
