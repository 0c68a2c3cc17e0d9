"""The classifier: what it logs, on mixed batches and of each split."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from experiments.common import UserError
from experiments.runs.summary import EpochSeconds
from experiments.training.callbacks import EpochRecord
from experiments.training.module import Classifier


def run_trainer(classifier: Classifier, images: Tensor, targets: Tensor) -> pl.Trainer:
    """One epoch of training at rate ~0 (the weights stay), then a test, on the same batches."""
    loader = DataLoader(list(zip(images, targets, strict=True)), batch_size=7)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(classifier, loader)
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_train_metrics_with_soft_targets() -> None:
    torch.manual_seed(0)
    images = torch.randn(20, 6)
    targets = torch.rand(20, 6).softmax(dim=1)
    classifier = Classifier(nn.Linear(6, 6), num_classes=6, optimizer=partial(torch.optim.SGD, lr=1e-12))
    logits = classifier(images).detach()
    metrics = run_trainer(classifier, images, targets).callback_metrics
    loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert metrics["train_loss"].item() == pytest.approx(loss.item(), abs=1e-5)
    hits = logits.argmax(dim=1) == targets.argmax(dim=1)
    assert 0 < hits.sum() < 20
    assert metrics["train_accuracy"].item() == pytest.approx(hits.float().mean().item())
    top5 = (logits.topk(5, dim=1).indices == targets.argmax(dim=1)[:, None]).any(dim=1)
    assert metrics["train_top5"].item() == pytest.approx(top5.float().mean().item())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("classes", [5, 7])
def test_a_network_with_another_number_of_outputs_is_refused(classes: int) -> None:
    with pytest.raises(UserError, match=rf"logits have shape \(7, 6\), not \(batch size, {classes}\)"):
        run_trainer(Classifier(nn.Linear(6, 6), num_classes=classes), torch.randn(20, 6), torch.randint(5, (20,)))


@pytest.mark.filterwarnings("ignore")
def test_test_metrics_against_a_computation_by_hand() -> None:
    torch.manual_seed(0)
    images, targets = 3 * torch.randn(40, 6), torch.randint(6, (40,))
    classifier = Classifier(nn.Identity(), num_classes=6)
    loader = DataLoader(list(zip(images, targets, strict=True)), batch_size=7)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    (metrics,) = trainer.test(classifier, loader, verbose=False)
    confidence, predicted = images.softmax(dim=1).max(dim=1)
    hits = (predicted == targets).float()
    assert metrics["test_accuracy"] == pytest.approx(hits.mean().item())
    top5 = (images.topk(5, dim=1).indices == targets[:, None]).any(dim=1).float()
    assert metrics["test_top5"] == pytest.approx(top5.mean().item())
    assert metrics["test_nll"] == pytest.approx(F.cross_entropy(images, targets).item(), abs=1e-5)
    bins = (confidence * 15).ceil().int()
    error = sum(
        abs(hits[bins == index].sum() - confidence[bins == index].sum()).item() for index in bins.unique().tolist()
    )
    assert metrics["test_calibration_error"] == pytest.approx(error / 40, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_second_validation_loader_is_scored_as_test_images() -> None:
    torch.manual_seed(0)
    loaders, expected = [], []
    for count in (20, 30):
        images, targets = 3 * torch.randn(count, 6), torch.randint(6, (count,))
        loaders.append(DataLoader(list(zip(images, targets, strict=True)), batch_size=7))
        expected.append((images.argmax(dim=1) == targets).float().mean().item())
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(Classifier(nn.Identity(), num_classes=6), loaders, verbose=False)
    metrics = trainer.callback_metrics
    assert [metrics["val_accuracy"].item(), metrics["test_accuracy"].item()] == pytest.approx(expected)
    assert set(metrics) == {
        f"{split}_{name}" for split in ("val", "test") for name in ("accuracy", "top5", "calibration_error", "nll")
    }


def test_few_classes_have_no_top5() -> None:
    assert set(Classifier(nn.Identity(), num_classes=5).metrics["val"].keys()) == {
        "val_accuracy",
        "val_calibration_error",
    }


def test_typical_seconds_are_the_median_after_the_first_epoch() -> None:
    record = EpochRecord()
    record.seconds = [[100.0, 50.0, 20.0]]
    assert record.typical_seconds() == EpochSeconds(100.0, 50.0, 20.0)
    record.seconds += [[1.0, 0.5, 0.1], [9.0, 0.7, 0.3], [2.0, 0.6, 0.2]]
    assert record.typical_seconds() == EpochSeconds(2.0, 0.6, 0.2)
    record.seconds = [[1.0], [3.0]]
    assert record.typical_seconds() == EpochSeconds(3.0)
