"""Metrics and losses of unmodified modules."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.classification.accuracy import Accuracy

import lightning_puzzlemix as pm

CONFIG = pm.PuzzleMixConfig(mean=(0.1307,), std=(0.3081,), grid_sizes=(2, 4, 7))


class TemplateModule(pl.LightningModule):
    """Written as lightning-hydra-template writes its MNIST module: nothing in it knows of soft targets."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
        self.criterion = torch.nn.CrossEntropyLoss()
        self.train_acc = Accuracy(task="multiclass", num_classes=10)
        self.val_acc = Accuracy(task="multiclass", num_classes=10)
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.val_acc_best = MaxMetric()
        self.counted: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_start(self) -> None:
        self.val_loss.reset()
        self.val_acc.reset()
        self.val_acc_best.reset()

    def model_step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self.forward(x)
        loss = self.criterion(logits, y)
        preds = torch.argmax(logits, dim=1)
        return loss, preds, y

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, preds, targets = self.model_step(batch)
        self.counted.append((preds, targets))
        self.train_loss(loss)
        self.train_acc(preds, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        loss, preds, targets = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(preds, targets)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def loader(batch_size: int = 20, count: int = 60) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, 28, 28, generator=generator)
    return DataLoader(TensorDataset((images - 0.1307) / 0.3081, torch.arange(count) % 10), batch_size=batch_size)


def fit(module: pl.LightningModule, *, data: DataLoader | None = None, epochs: int = 1, **arguments: Any) -> pl.Trainer:
    arguments.setdefault("seed", 3)
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[pm.PuzzleMixCallback(CONFIG, **arguments)], max_epochs=epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data or loader(), data or loader())
    return trainer


def test_the_template_module_trains_unmodified(caplog: pytest.LogCaptureFixture) -> None:
    module = TemplateModule()
    with caplog.at_level("INFO"):
        trainer = fit(module, epochs=2)
    assert all(targets.shape == (20, 10) for _, targets in module.counted)
    last = module.counted[3:]
    expected = torch.cat([preds == targets.argmax(1) for preds, targets in last]).float().mean()
    assert float(trainer.callback_metrics["train/acc"]) == pytest.approx(float(expected))
    assert 0 < float(trainer.callback_metrics["val/acc_best"]) <= 1
    said = [record for record in caplog.records if "against the dominant class" in record.getMessage()]
    assert len(said) == 1


class ManyWays(TemplateModule):
    """Feeds metrics in every way that torchmetrics offers, on logits; one output a class and as many images as classes."""

    def __init__(self) -> None:
        super().__init__()
        self.perfect = MulticlassAccuracy(10)
        self.ignoring = MulticlassAccuracy(10, ignore_index=9, average="micro")
        self.several = MetricCollection({"acc": MulticlassAccuracy(10, average="micro"), "f1": MulticlassF1Score(10)})
        self.named = MulticlassAccuracy(10, average="micro")
        self.shares: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        # Logits that are right about the dominant class, so that every metric must come out perfect.
        right = 100 * y.detach()
        self.perfect.update(right, y)
        self.ignoring(right, y.detach())
        self.several.update(right, y)
        self.named.update(preds=right, target=y)
        self.shares.append(y)
        return F.cross_entropy(logits, y)


@pytest.mark.parametrize("batch_size", [20, 10])
def test_every_way_to_update_a_metric(batch_size: int) -> None:
    module = ManyWays()
    fit(module, data=loader(batch_size))
    for metric in (module.perfect, module.ignoring, module.several["acc"], module.several["f1"], module.named):
        assert float(metric.compute()) == pytest.approx(1.0)
    counted = sum(int((shares.argmax(1) != 9).sum()) for shares in module.shares)
    assert int(module.ignoring.tp) == counted


def test_metrics_are_restored() -> None:
    module = ManyWays()
    fit(module)
    fresh = ManyWays()
    for metric, other in zip(module.modules(), fresh.modules(), strict=True):
        if isinstance(metric, MulticlassAccuracy):
            assert metric.update.__code__ is other.update.__code__
    with pytest.raises(ValueError, match="target"):
        module.named.update(torch.rand(5, 10).argmax(1), torch.rand(5, 10))


def test_pair_targets_for_losses_and_metrics_that_need_classes() -> None:
    class Margin(TemplateModule):
        def training_step(self, batch: tuple[Tensor, Any], batch_idx: int) -> Tensor:
            x, y = batch
            assert isinstance(y, pm.PairTargets)
            logits = self(x)
            self.train_acc(100 * F.one_hot(torch.where(y.ratio >= 0.5, y.first, y.second), 10).float(), y)
            return pm.pair_loss(nn.MultiMarginLoss(), logits, y)

    module = Margin()
    fit(module, targets="pair")
    assert float(module.train_acc.compute()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "loss",
    [F.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none"), lambda x, y: F.cross_entropy(x, y)],
)
def test_pair_loss_of_cross_entropy_equals_that_of_soft_targets(loss: Any) -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    classes, permutation, ratio = torch.arange(6) % 4, torch.randperm(6), torch.rand(6)
    pair = pm.PairTargets(classes, classes[permutation], ratio)
    soft = pm.mix_targets(classes, permutation=permutation, ratio=ratio, num_classes=4)
    torch.testing.assert_close(pm.pair_loss(loss, logits, pair), F.cross_entropy(logits, soft))
    if isinstance(loss, nn.CrossEntropyLoss):
        assert loss.reduction in ("mean", "none")


def test_pair_loss_of_multi_label_targets() -> None:
    logits, first, second = torch.randn(5, 3), torch.rand(5, 3).round(), torch.rand(5, 3).round()
    ratio = torch.rand(5)
    found = pm.pair_loss(F.binary_cross_entropy_with_logits, logits, pm.PairTargets(first, second, ratio))
    total = 0.0
    for row in range(5):
        one = F.binary_cross_entropy_with_logits(logits[row], first[row])
        other = F.binary_cross_entropy_with_logits(logits[row], second[row])
        total += float(ratio[row] * one + (1 - ratio[row]) * other) / 5
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_label_smoothed_and_multi_label_targets_are_mixed() -> None:
    class Soft(TemplateModule):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            self.counted.append(batch)
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def on_validation_epoch_end(self) -> None:
            pass

    many = torch.rand(20, 10, generator=torch.Generator().manual_seed(1)).round()
    data = DataLoader(TensorDataset(torch.rand(20, 1, 28, 28), many), batch_size=20)
    module, callback = Soft(), pm.PuzzleMixCallback(CONFIG, seed=3)
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[callback], max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, data)
    ratio, partner = callback.last.ratio[:, None], callback.last.draw.permutation
    torch.testing.assert_close(module.counted[0][1], ratio * many + (1 - ratio) * many[partner])
