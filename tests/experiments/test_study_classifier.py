"""Network, optimizer schedule and classifier."""

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from experiments.classifier import Classifier, dominant_classes
from experiments.losses import find_loss
from experiments.models import PreActResNet
from experiments.optimizer import SGDConfig
from experiments.timing import EpochSeconds, EpochTimer


def test_preactresnet18_has_the_published_size() -> None:
    net = PreActResNet(100)
    # 11.22 million; counted by hand: stem 1,728, blocks 11,164,288, last BatchNorm 1,024, head 51,300.
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_728 + 11_164_288 + 1_024 + 51_300
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize(("stem_stride", "side"), [(1, 8), (2, 4)])
def test_preactresnet_strides(stem_stride: int, side: int) -> None:
    net = PreActResNet(7, in_channels=1, width=4, stem_stride=stem_stride)
    features: list[Tensor] = []
    net.stages[-1].register_forward_hook(lambda *args: features.append(args[-1]))
    assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    assert features[0].shape == (2, 32, side, side)


def test_preactresnet34_is_two_settings_away() -> None:
    net = PreActResNet(10, width=4, depths=(3, 4, 6, 3))
    assert sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in net.modules()) == 33
    with pytest.raises(ValueError, match=r"depths must hold four block counts of at least 1, got \[2, 2\]"):
        PreActResNet(10, depths=(2, 2))


def test_preactresnet_identity_path_is_untouched() -> None:
    """With the last convolution of a block at zero, the block passes its input on as it is: no ReLU after the sum."""
    block = PreActResNet(10, width=4).stages[0][0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def rates(config: SGDConfig, *, epochs: int, steps_per_epoch: int) -> list[float]:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer, scheduler = config.build([parameter], epochs=epochs, steps_per_epoch=steps_per_epoch)
    history = []
    for _ in range(epochs * steps_per_epoch):
        history.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return history


def test_step_schedule_drops_at_the_given_epochs() -> None:
    history = rates(SGDConfig(lr=0.2, drops=(2, 3)), epochs=4, steps_per_epoch=2)
    assert history == pytest.approx([0.2] * 4 + [0.02] * 2 + [0.002] * 2)


def test_cosine_schedule_with_warmup() -> None:
    history = rates(SGDConfig(lr=1.0, schedule="cosine", warmup_epochs=1), epochs=10, steps_per_epoch=4)
    assert history[0] == pytest.approx(0.25)
    assert history[20] == pytest.approx(0.5)
    assert history[-1] == pytest.approx(0.5 * (1 + torch.cos(torch.tensor(torch.pi * 39 / 40)).item()), abs=1e-6)
    assert history[4:] == sorted(history[4:], reverse=True)


def test_sgd_settings_reach_the_optimizer_and_bad_ones_are_refused() -> None:
    optimizer, _ = SGDConfig(momentum=0.8, weight_decay=0.01, nesterov=False).build(
        [nn.Parameter(torch.zeros(1))], epochs=1, steps_per_epoch=1
    )
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.01, False)
    with pytest.raises(ValueError, match=r"optimizer\.schedule must be one of .* got 'linear'"):
        SGDConfig(schedule="linear")
    with pytest.raises(ValueError, match=r"optimizer\.lr must be positive, got 0"):
        SGDConfig(lr=0)
    with pytest.raises(ValueError, match=r"loss must be one of .* got 'l2'"):
        find_loss("l2")


def test_dominant_classes() -> None:
    assert dominant_classes(torch.tensor([2, 0])).tolist() == [2, 0]
    assert dominant_classes(torch.tensor([[0.3, 0.7], [1.0, 0.0]])).tolist() == [1, 0]


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
    classifier = Classifier(nn.Linear(6, 6), num_classes=6, optimizer=SGDConfig(lr=1e-12, weight_decay=0.0))
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


def test_few_classes_have_no_top5() -> None:
    assert set(Classifier(nn.Identity(), num_classes=5).val_metrics.keys()) == {
        "val_accuracy",
        "val_calibration_error",
    }


def test_timer_reports_the_median_after_the_first_epoch() -> None:
    timer = EpochTimer()
    with pytest.raises(RuntimeError, match="no training epoch has been finished"):
        timer.typical()
    timer.epochs = [EpochSeconds(100.0, 50.0, 20.0)]
    assert timer.typical() == EpochSeconds(100.0, 50.0, 20.0)
    timer.epochs += [EpochSeconds(1.0, 0.5, 0.1), EpochSeconds(9.0, 0.7, 0.3), EpochSeconds(2.0, 0.6, 0.2)]
    assert timer.typical() == EpochSeconds(2.0, 0.6, 0.2)
