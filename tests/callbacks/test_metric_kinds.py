"""Each kind of metric gets the targets that it needs while the targets are soft."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from callback_cases import Cached, Recorder, trainer
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics import wrappers as wrap
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelAUROC,
)

import lightning_puzzlemix as pm

CLASSES = torch.arange(8) % 5
MANY = (torch.rand(8, 5, generator=torch.Generator().manual_seed(1)) > 0.5).float()


class Keeping(Metric):
    """A metric of the user's own, which takes whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []

    def update(self, preds: Tensor, target: Any) -> None:
        self.kept.append(target)

    def compute(self) -> int:
        return len(self.kept)


class Comparing(Keeping):
    """A metric of the user's own, which works with classes alone."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        assert preds.argmax(1).shape == (preds.argmax(1) == target).shape
        super().update(preds, target)


class Measured(Recorder):
    def __init__(self, **metrics: Any) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict(metrics)
        self.change = lambda targets: targets

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        logits = self(images)
        self.preds, self.targets = logits.softmax(1).detach(), targets
        for metric in self.metrics.values():
            metric.update(self.preds, self.change(targets))
        return F.cross_entropy(logits, targets) if isinstance(targets, Tensor) else logits.sum()


def fit(
    targets: Tensor, count: int = 8, prob: float = 1.0, form: str = "soft", change: Any = None, **metrics: Any
) -> Any:
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    module = Measured(**metrics)
    module.change = change or module.change
    mixing = pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(2, 4)), seed=2, prob=prob, targets=form)
    trainer(mixing).fit(module, Cached((images[:count], targets[:count])))
    return module


def test_binary_and_multi_label_metrics_get_the_dominant_labels() -> None:
    metrics = {
        "all": MultilabelAccuracy(5),
        "auroc": MultilabelAUROC(5),
        "classwise": wrap.ClasswiseWrapper(MultilabelAccuracy(5)),
    }
    metrics["boot"] = wrap.BootStrapper(MultilabelAccuracy(5), num_bootstraps=3)
    module = fit(MANY, **metrics, own=Keeping())
    expected = MultilabelAccuracy(5, average="macro")
    assert bool(((module.targets > 0) & (module.targets < 1)).any()), "nothing was mixed"
    assert module.metrics["own"].kept[0] is module.targets
    expected.update(module.preds, (module.targets >= 0.5).long())
    torch.testing.assert_close(metrics["all"].compute(), expected.compute())


@pytest.mark.parametrize("change", [None, torch.clone, lambda y: y.double(), lambda y: y.detach(), lambda y: y[:, :5]])
def test_multi_class_metrics_get_classes_also_of_changed_soft_targets(change: Any) -> None:
    several = MetricCollection({"acc": MulticlassAccuracy(5), "f1": MulticlassF1Score(5)})
    own = type("Own", (MulticlassAccuracy,), {})(5, average="micro")
    metrics = {"several": several, "own": own, "task": torchmetrics.Accuracy(task="multiclass", num_classes=5)}
    metrics |= {"tracked": wrap.MinMaxMetric(MulticlassAccuracy(5)), "error": MulticlassCalibrationError(5)}
    metrics["boot"] = wrap.BootStrapper(MulticlassAccuracy(5), num_bootstraps=3)
    module = fit(CLASSES, change=change, **metrics)
    assert module.targets.shape == (8, 5)
    assert int(own.tp + own.fn) == 8
    assert float(several["acc"].compute()) == float(metrics["tracked"].compute()["raw"])


@pytest.mark.parametrize("count", [8, 5])
def test_other_metrics_get_soft_targets_unless_they_fail_on_them(count: int) -> None:
    """Five images of five classes: there a comparison of classes with soft targets runs, and counts nonsense."""
    metrics = {
        "own": Keeping(),
        "divergence": torchmetrics.KLDivergence(),
        "square": torchmetrics.MeanSquaredError(num_outputs=5),
    }
    module = fit(CLASSES, count, **metrics, comparing=Comparing())
    assert module.metrics["own"].kept[0] is module.targets
    assert torch.equal(module.metrics["comparing"].kept[0], module.targets.argmax(1))
    assert metrics["square"].total == count
    assert metrics["divergence"].total == count


def test_regressions_and_pairs() -> None:
    module = fit(MANY, square=torchmetrics.MeanSquaredError(), own=Keeping())
    assert module.metrics["own"].kept[0] is module.targets
    metrics = {"acc": MulticlassAccuracy(5), "comparing": Comparing(), "own": Keeping()}
    module = fit(CLASSES, form="pair", **metrics)
    first, second, ratio = module.targets
    assert torch.equal(metrics["comparing"].kept[0], torch.where(ratio >= 0.5, first, second))
    assert metrics["own"].kept[0] is module.targets


def test_binary_metrics_of_one_logit() -> None:
    class OneLogit(Measured):
        def __init__(self, **metrics: Any) -> None:
            super().__init__(**metrics)
            self.net[4] = nn.Linear(216, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            logits = self(batch[0])
            for metric in self.metrics.values():
                metric(logits.squeeze(1).detach().sigmoid(), batch[1].squeeze(1))
            return F.binary_cross_entropy_with_logits(logits, batch[1])

    metrics = {"accuracy": BinaryAccuracy(), "auroc": BinaryAUROC()}
    module = OneLogit(**metrics)
    batch = (torch.rand(8, 3, 8, 8), torch.arange(8).remainder(2).float()[:, None])
    trainer(pm.MixUpCallback(seed=1)).fit(module, Cached(batch))
    accuracy = metrics["accuracy"]
    assert int(accuracy.tp + accuracy.fp + accuracy.tn + accuracy.fn) == 8


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_metrics_that_got_classes_are_reported_once(prob: float, caplog: pytest.LogCaptureFixture) -> None:
    metrics = {"acc": MulticlassAccuracy(5), "own": Keeping(), "comparing": Comparing()}
    with caplog.at_level("INFO"):
        module = fit(CLASSES, prob=prob, **metrics)
    said = [record.getMessage() for record in caplog.records if "dominant class" in record.getMessage()]
    assert len(said) == 1
    assert "metrics.acc, metrics.comparing" in said[0]
    assert "own" not in said[0]
    if not prob:
        assert torch.equal(metrics["comparing"].kept[0], CLASSES)
        assert torch.equal(module.targets, F.one_hot(CLASSES, 5).float())


class Beside(Recorder):
    """Holds its metrics where torch does not look for children."""

    def __init__(self) -> None:
        super().__init__()
        self.of_stage = {"train": [MulticlassAccuracy(5)], "unused": list(range(1000))}
        self.pair = (MetricCollection({"f1": MulticlassF1Score(5)}), None)
        self.__dict__["hidden"] = MulticlassAccuracy(5)
        self.net.measures = [MulticlassAccuracy(5)]
        self.expected = MulticlassAccuracy(5)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = batch
        logits = self(images)
        for metric in (self.of_stage["train"][0], self.pair[0], self.hidden, *self.net.measures):
            metric.update(logits, targets)
        self.expected.update(logits, targets.argmax(1) if targets.ndim == 2 else targets)
        return F.cross_entropy(logits, targets)


def test_metrics_in_plain_containers_are_found(caplog: pytest.LogCaptureFixture) -> None:
    module = Beside()
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with caplog.at_level("INFO"):
        trainer(pm.MixUpCallback(seed=1)).fit(module, Cached((images, CLASSES)))
    metrics = [module.of_stage["train"][0], module.pair[0]["f1"], module.hidden, *module.net.measures]
    for metric in metrics:
        assert torch.equal(metric.tp, module.expected.tp)
        assert int((metric.tp + metric.fn).sum()) == 8
    said = next(record.getMessage() for record in caplog.records if "dominant class" in record.getMessage())
    assert all(name in said for name in ("of_stage['train'][0]", "pair[0].f1", "hidden", "net.measures[0]"))
    # Nothing is left on them: classes afterwards are counted as they are.
    metrics[0].update(torch.eye(5)[CLASSES], CLASSES)
    assert int((metrics[0].tp + metrics[0].fn).sum()) == 16


def test_metrics_that_got_soft_targets_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(CLASSES, acc=MulticlassAccuracy(5), own=Keeping(), comparing=Comparing())
    said = [record.getMessage() for record in caplog.records if "soft targets in place of" in record.getMessage()]
    assert len(said) == 1
    assert "metrics.own. If" in said[0]
    assert "metrics.acc" not in said[0]
    caplog.clear()
    with caplog.at_level("INFO"):
        fit(MANY, own=Keeping())
    assert not [record for record in caplog.records if "soft targets" in record.getMessage()]
