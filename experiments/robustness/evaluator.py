"""The network under evaluation and the passes over its images: clean, attacked, corrupted."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import MetricCollection
from torchvision.transforms import v2

from experiments.checkpoints import CheckpointLocation, load_weights
from experiments.common import Stream, UserError, mask_settings, torch_seed, with_progress
from experiments.common.versions import gather_versions
from experiments.data import SEVERITIES, CorruptedImages, ImageDataModule
from experiments.robustness.attacks import Attack, Model
from experiments.robustness.results import AttackScores, CleanScores, CorruptionScores
from experiments.training.module import check_logits, classification_metrics
from lightning_puzzlemix.normalization import to_pixels

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Evaluator:
    """Measures `net`, in evaluation mode on `device`, with the test images of `data`, all or `limit` of every part.

    `seed` fixes what is random in attacks, together with the number of the batch.
    """

    net: nn.Module
    data: ImageDataModule
    device: torch.device
    limit: int | None
    seed: int

    def measure_clean(self) -> CleanScores:
        """Score the test images as they are."""
        metrics = classification_metrics(self.data.num_classes).to(self.device)
        return CleanScores(**score(self.net, self._batches(self.data.split("test"), "clean"), metrics))

    def measure_attack(self, name: str, attack: Attack) -> AttackScores:
        """Score the test images under an attack."""
        mean, std = list(self.data.mean), list(self.data.std)
        model = nn.Sequential(v2.Normalize(mean, std), self.net)
        batches = self._batches(self.data.split("test"), name)
        pixels = ((to_pixels(images, mean, std).clamp(0, 1), targets) for images, targets in batches)
        return AttackScores(**attack.model_dump(), **score(model, attacked(model, pixels, attack, self.seed)))

    def measure_corruption(self, corrupted: CorruptedImages, name: str, scores: CorruptionScores) -> None:
        """Score one type of corruption at all severities; they are added to `scores`."""
        for severity in SEVERITIES:
            batches = self._batches(corrupted.split(name, severity), f"{name} {severity}")
            part = score(self.net, batches)
            scores.accuracy.setdefault(name, {})[severity] = part["accuracy"]
            scores.images, scores.seconds = part["images"], scores.seconds + part["seconds"]

    def _batches(self, images: Dataset[Any], description: str) -> Iterator[tuple[Tensor, Tensor]]:
        settings = {name: getattr(self.data, name) for name in ("batch_size", "num_workers", "pin_memory")}
        # Without a generator of its own the global random state would advance.
        loader = DataLoader(subsample(images, self.limit), generator=torch.Generator(), **settings)
        for batch, targets in with_progress(loader, description):
            yield batch.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)


def build_evaluator(cfg: DictConfig, location: CheckpointLocation) -> tuple[Evaluator, dict[str, Any]]:
    """Open the data, load the network, and collect what `evaluation.json` tells of the origin of its numbers."""
    device = choose_device(cfg.device)
    data: ImageDataModule = instantiate(cfg.data, **({"batch_size": cfg.batch_size} if cfg.batch_size else {}))
    data.prepare_data()
    data.setup("test")
    with torch.random.fork_rng(devices=[]):
        net: nn.Module = instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels)
    checkpoint = load_weights(net, location.path)
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    facts = {
        "checkpoint": str(location.path.absolute()),
        "checkpoint_source": checkpoint.source,
        "epoch": checkpoint.epoch,
        "architecture": checkpoint.architecture,
        "results_in_checkpoint": checkpoint.results,
        **{group: mask_settings(settings[group]) for group in ("data", "model")},
        "settings": {key: settings[key] for key in ("attacks", "corruptions", "limit", "batch_size", "seed")},
        "device": str(device),
        "test_images": len(data.split("test")),
        "versions": gather_versions(),
    }
    # Frozen, as an attack may call `backward`.
    return Evaluator(net.to(device).eval().requires_grad_(False), data, device, cfg.limit, cfg.seed), facts


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=found if name == "auto" else name).device
    # A build without CUDA asserts, one with it and no GPU raises RuntimeError.
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used ({error}); take auto or cpu") from error


def score(net: Model, batches: Batches, metrics: MetricCollection | None = None) -> dict[str, Any]:
    """`accuracy`, `nll`, `images`, `seconds` and the metrics of a network on images (B,C,H,W) and classes (B,)."""
    start, losses, hits = time.perf_counter(), [], []
    for images, targets in batches:
        with torch.inference_mode():
            logits = net(images).float()
            losses.append(F.cross_entropy(logits, targets, reduction="none"))
            hits.append(logits.argmax(dim=1) == targets)
            if metrics:
                metrics.update(check_logits(logits, metrics["accuracy"].num_classes), targets)
    loss, correct = torch.cat(losses), torch.cat(hits)
    # It would pass for a wrong answer or, where it is the gradient's, for an attack that failed.
    if failed := int(loss.isnan().sum()):
        cause = "its weights have diverged or, under an attack only, its gradient is infinite somewhere, as that of a root at 0"
        raise UserError(f"the model gives NaN for {failed} of {len(loss)} images: {cause}")
    values = {name: float(value) for name, value in metrics.compute().items()} if metrics else {}
    totals = {"accuracy": int(correct.sum()) / len(loss), "nll": float(loss.mean()), "images": len(loss)}
    return {**values, **totals, "seconds": time.perf_counter() - start}


def attacked(model: Model, batches: Batches, attack: Attack, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Attack batches of pixels in [0,1]; what is random about each is fixed by `seed` and its number."""
    for index, (pixels, targets) in enumerate(batches):
        yield attack(model, pixels, targets, seed=torch_seed(Stream.ATTACK, seed, index)), targets


def subsample(images: Any, limit: int | None) -> Subset[Any]:
    """At most `limit` images, evenly spaced: where they are sorted by class, the first ones would be of one class."""
    count = min(limit or len(images), len(images))
    return Subset(images, [index * len(images) // count for index in range(count)])
