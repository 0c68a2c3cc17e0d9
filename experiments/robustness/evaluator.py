"""The network under evaluation and the passes over its images: clean, attacked, corrupted."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from experiments.checkpoints import Checkpoint, CheckpointLocation, load_weights
from experiments.common import Stream, UserError, mask_settings, torch_seed, with_progress
from experiments.common.versions import gather_versions
from experiments.data import SEVERITIES, CorruptedImages, ImageDataModule
from experiments.robustness.attacks import Attack, PixelModel
from experiments.robustness.results import Accuracy, CleanScores, CorruptionScores
from experiments.training.module import classification_metrics

Batches = Iterable[tuple[Tensor, Tensor]]
Images = Dataset[tuple[Tensor, int]]
T = TypeVar("T", bound=Accuracy)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluator:
    """Measures a network.

    Args:
        net: The network, in evaluation mode on `device`.
        data: Its data, set up for the test.
        device: Where the passes run.
        batch_size: Images in a batch.
        limit: Number of images of every part; None: all.
        seed: Fixes what is random in attacks, together with the number of the batch.
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
        return _logged("clean", score_clean(self.net, batches, num_classes=self.data.num_classes))

    def measure_attack(self, name: str, attack: Attack) -> Accuracy:
        """Score the test images under an attack."""
        model = PixelModel(self.net, self.data.mean, self.data.std).to(self.device)
        return _logged(
            name, score_attacked(model, self._batches(self.data.split("test"), name), attack, seed=self.seed)
        )

    def measure_corruption(self, corrupted: CorruptedImages, name: str, scores: CorruptionScores) -> None:
        """Score one type of corruption at all severities; they are added to `scores`."""
        before = scores.seconds
        for severity in SEVERITIES:
            batches = self._batches(corrupted.split(name, severity), f"{name} {severity}")
            scores.add(name, severity, score(self.net, batches))
        accuracies = " ".join(f"{accuracy:.4f}" for accuracy in scores.accuracy[name].values())
        log.info(f"{name:<20} accuracy {accuracies}  {scores.seconds - before:.1f} s")

    def _batches(self, images: Images, description: str) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            subsample(images, self.limit),
            batch_size=self.batch_size,
            num_workers=self.data.num_workers,
            pin_memory=self.device.type == "cuda",
            # Seeds its processes; without it the global random state would advance.
            generator=torch.Generator(),
        )
        for batch, targets in with_progress(loader, description):
            yield batch.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)


def _logged(name: str, scores: T) -> T:
    log.info(f"{name:<20} accuracy {scores.accuracy:.4f}  {scores.images} images  {scores.seconds:.1f} s")
    return scores


def build_evaluator(cfg: DictConfig, path: Any) -> tuple[Evaluator, Checkpoint]:
    """Open the data `cfg.data`, build the network `cfg.model` and load its weights from the checkpoint `path`.

    Raises:
        UserError: If the checkpoint does not fit the model, there is no such device, or the batch size is below 1.
        MissingDataError: If the data set is not there.
    """
    device = choose_device(cfg.device)
    if cfg.batch_size is not None and cfg.batch_size < 1:
        raise UserError(f"batch_size must be null or at least 1, got {cfg.batch_size}")
    data: ImageDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup("test")
    # Initial weights, soon replaced, are random.
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels)
    checkpoint = load_weights(net, path)
    size = data.batch_size if cfg.batch_size is None else cfg.batch_size
    return Evaluator(net.to(device).eval(), data, device, size, cfg.limit, cfg.seed), checkpoint


def gather_facts(
    cfg: DictConfig, location: CheckpointLocation, checkpoint: Checkpoint, evaluator: Evaluator
) -> dict[str, Any]:
    """What `evaluation.json` tells of the origin of its numbers."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    return {
        "checkpoint": str(location.path.absolute()),
        "checkpoint_source": checkpoint.source,
        "epoch": checkpoint.epoch,
        "architecture": checkpoint.architecture,
        "results_in_checkpoint": checkpoint.results,
        "data": mask_settings(settings["data"]),
        "model": mask_settings(settings["model"]),
        "settings": {key: settings[key] for key in ("attacks", "corruptions", "limit", "batch_size", "seed")},
        "device": str(evaluator.device),
        "test_images": len(evaluator.data.split("test")),
        "versions": gather_versions(),
        # The folder of the sweep and the number of this job in it.
        "sweep_job": [hydra.sweep.dir, hydra.job.num] if hydra is not None and hydra.mode == RunMode.MULTIRUN else None,
    }


def choose_device(name: Any) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises:
        UserError: If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    # A build without CUDA asserts, one with it and no GPU raises RuntimeError.
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name} cannot be used ({reason}); take auto or cpu") from error


def score_clean(net: nn.Module, batches: Batches, *, num_classes: int) -> CleanScores:
    """Score a network in evaluation mode on normalized images (B,C,H,W) and classes (B,), all on one device.

    Raises:
        UserError: If the network gives NaN or another number of logits.
    """
    start, metrics, losses = time.perf_counter(), classification_metrics(num_classes), []
    with torch.inference_mode():
        for images, targets in batches:
            logits = net(images).float()
            if logits.shape[1] != num_classes:
                raise UserError(f"the model gives {logits.shape[1]} logits, the data has {num_classes} classes")
            metrics.to(logits.device).update(logits, targets)
            losses.append(F.cross_entropy(logits, targets, reduction="none"))
    loss = torch.cat(losses)
    values = {name: float(value) for name, value in metrics.compute().items()}
    if bool(loss.isnan().any()):
        raise UserError("the model gives NaN for some of the test images; its weights have probably diverged")
    seconds = time.perf_counter() - start
    return CleanScores(nll=float(loss.mean()), images=len(loss), seconds=seconds, **{"top5": None, **values})


def score(net: nn.Module, batches: Batches) -> Accuracy:
    """Accuracy of a network in evaluation mode on normalized images (B,C,H,W) and classes (B,), all on one device.

    Raises:
        UserError: If images are NaN: a gradient was, which would pass for an attack that failed.
    """
    start, correct, invalid = time.perf_counter(), [], []
    for images, targets in batches:
        with torch.inference_mode():
            correct.append(net(images).argmax(dim=1) == targets)
            invalid.append(images.isnan().flatten(1).any(dim=1))
    hits, failed = int(torch.cat(correct).sum()), int(torch.cat(invalid).sum())
    total = sum(map(len, correct))
    if failed:
        raise UserError(
            f"the gradient was NaN for {failed} of {total} images, so the attack says nothing about the model; "
            "look for a division, a root or a logarithm in it whose gradient is infinite"
        )
    return Accuracy(accuracy=hits / total, images=total, seconds=time.perf_counter() - start)


def score_attacked(model: PixelModel, batches: Batches, attack: Attack, *, seed: int) -> Accuracy:
    """Accuracy under an attack; what is random about a batch is fixed by `seed` and the number of the batch."""
    attacked = (
        (attack.perturb(model, images, targets, seed=torch_seed(Stream.ATTACK, seed, index)), targets)
        for index, (images, targets) in enumerate(batches)
    )
    return score(model.model, attacked)


def subsample(images: Images, limit: int | None) -> Images:
    """At most `limit` images, evenly spaced: where they are sorted by class, the first ones would be of one class.

    Raises:
        UserError: If the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be null or at least 1, got {limit}")
    total = len(images)
    if limit is None or limit >= total:
        return images
    return Subset(images, [index * total // limit for index in range(limit)])
