"""Passes over the test images: clean, attacked, corrupted. Counts stay on the device until the end of a pass."""

import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

import torch
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from experiments.common.errors import UserError
from experiments.common.random_streams import Stream, torch_seed
from experiments.robustness.attacks import Attack
from experiments.robustness.pixel_space import PixelSpace
from experiments.test_results.counts import CALIBRATION_BINS

Batches = Iterable[tuple[Tensor, Tensor]]
Images = Dataset[tuple[Tensor, int]]


@dataclass(frozen=True, kw_only=True)
class CleanScores:
    """How good a model is on the images as they are.

    Args:
        accuracy: Share in [0,1] of the images whose most probable class is right.
        top5: Share in [0,1] whose class is among the five most probable; None with five classes or fewer.
        calibration_error: Expected calibration error over 15 bins, in [0,1].
        nll: Mean cross-entropy, in nats.
        images: Number of images.
        seconds: Time of the pass.
    """

    accuracy: float
    top5: float | None
    calibration_error: float
    nll: float
    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share in [0,1] of so many images that were classified rightly, and the seconds that the pass took."""

    accuracy: float
    images: int
    seconds: float


def score_clean(model: nn.Module, batches: Batches, *, num_classes: int, device: torch.device) -> CleanScores:
    """Score the model, which must be in evaluation mode on `device`, on normalized images (B,C,H,W) and classes (B,).

    Raises:
        UserError: If the model gives NaN or another number of logits.
    """
    start = time.perf_counter()
    metrics = _clean_metrics(num_classes).to(device)
    nll, images = torch.zeros((), device=device, dtype=_widest(device)), 0
    with torch.inference_mode():
        for inputs, targets in _moved(batches, device):
            logits = model(inputs).float()
            if logits.shape[1] != num_classes:
                raise UserError(f"the model gives {logits.shape[1]} logits, the data has {num_classes} classes")
            metrics.update(logits, targets)
            nll += F.cross_entropy(logits, targets, reduction="sum")
            images += len(targets)
    values = {name: float(value) for name, value in metrics.compute().items()}
    if bool(nll.isnan()):
        raise UserError("the model gives NaN for some of the test images; its weights have probably diverged")
    return CleanScores(
        accuracy=values["accuracy"],
        top5=values.get("top5"),
        calibration_error=values["calibration_error"],
        nll=float(nll) / images,
        images=images,
        seconds=time.perf_counter() - start,
    )


def _clean_metrics(num_classes: int) -> MetricCollection:
    metrics = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
        "calibration_error": MulticlassCalibrationError(num_classes, n_bins=CALIBRATION_BINS, norm="l1"),
    }
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False)
    # One state per metric: sharing would tie top-1 to top-5, which count different hits.
    return MetricCollection(metrics, compute_groups=False)  # type: ignore[arg-type]


def score_plain(model: nn.Module, batches: Batches, *, device: torch.device) -> Accuracy:
    """Accuracy of the model, in evaluation mode on `device`, on normalized images (B,C,H,W) and classes (B,)."""
    start = time.perf_counter()
    hits, images = torch.zeros((), device=device, dtype=torch.long), 0
    with torch.inference_mode():
        for inputs, targets in _moved(batches, device):
            hits += (model(inputs).argmax(dim=1) == targets).sum()
            images += len(targets)
    return Accuracy(accuracy=int(hits) / images, images=images, seconds=time.perf_counter() - start)


def score_attacked(
    model: nn.Module, batches: Batches, attack: Attack, *, space: PixelSpace, device: torch.device, seed: int
) -> Accuracy:
    """Accuracy of the model, in evaluation mode on `device`, on attacked images.

    What is random about a batch is fixed by `seed` and the number of the batch, so also by the batch size.

    Raises:
        UserError: If a gradient was NaN, which would pass for an attack that failed.
    """
    start = time.perf_counter()
    hits, broken = (torch.zeros((), device=device, dtype=torch.long) for _ in range(2))
    images = 0
    for index, (inputs, targets) in enumerate(_moved(batches, device)):
        batch_seed = torch_seed(Stream.ATTACK, seed, index)
        attacked = attack.perturb(model, inputs, targets, space=space, seed=batch_seed)
        with torch.inference_mode():
            hits += (model(attacked).argmax(dim=1) == targets).sum()
            broken += attacked.isnan().flatten(1).any(dim=1).sum()
        images += len(targets)
    if int(broken) > 0:
        raise UserError(
            f"the gradient was NaN for {int(broken)} of {images} images, so the attack says nothing about the model; "
            "look for a division, a root or a logarithm in it whose gradient is infinite"
        )
    return Accuracy(accuracy=int(hits) / images, images=images, seconds=time.perf_counter() - start)


def _moved(batches: Batches, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for images, targets in batches:
        yield images.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def _widest(device: torch.device) -> torch.dtype:
    """The widest float that the device can add in: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def subsample(images: Images, limit: int | None) -> Images:
    """At most `limit` of the images, evenly spread: where they are sorted by class, the first ones would be of one class.

    Raises:
        UserError: If the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be null or at least 1, got {limit}")
    total = len(images)  # type: ignore[arg-type]
    if limit is None or limit >= total:
        return images
    return Subset(images, [index * total // limit for index in range(limit)])


def load(images: Images, *, batch_size: int, num_workers: int) -> Batches:
    """Batches of the images in order."""
    return DataLoader(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        shuffle=False,
        # Its processes are seeded by it, and not by the program's random state, which would go on.
        generator=torch.Generator(),
    )


def with_progress(batches: Batches, description: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches, with a bar in a terminal while they are drawn; gone when they are used up."""
    console = get_console()
    if not console.is_terminal:
        yield from batches
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    total = len(batches) if isinstance(batches, Sized) else None
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(batches, total=total, description=description)
