"""Learning rates at every step of a run, and what the optimizer is given."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from experiments.training.module import Classifier
from experiments.training.optim import Moment, SGDConfig


def rates(config: SGDConfig, *, epochs: int, steps_per_epoch: int) -> list[float]:
    steps = range(epochs * steps_per_epoch)
    moments = [Moment(step / steps_per_epoch, (step + 1) / steps_per_epoch, epochs) for step in steps]
    return [config.rate(moment) for moment in moments]


def test_step_schedule_drops_at_the_given_epochs() -> None:
    history = rates(SGDConfig(lr=0.2, drops=(2, 3)), epochs=4, steps_per_epoch=2)
    assert history == pytest.approx([0.2] * 4 + [0.02] * 2 + [0.002] * 2)


def test_cosine_schedule_with_warmup() -> None:
    history = rates(SGDConfig(lr=1.0, schedule="cosine", warmup_epochs=1), epochs=10, steps_per_epoch=4)
    assert history[0] == pytest.approx(0.25)
    assert history[20] == pytest.approx(0.5)
    assert history[-1] == pytest.approx(0.5 * (1 + np.cos(np.pi * 39 / 40)), abs=1e-6)
    assert history[4:] == sorted(history[4:], reverse=True)


def test_cosine_is_torch_s_own_schedule() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(SGDConfig(lr=0.3, schedule="cosine"), epochs=3, steps_per_epoch=4) == pytest.approx(expected)


def test_piecewise_schedule_interpolates_each_part_and_jumps_between_them() -> None:
    """Each part against numpy; the step that ends at the jump belongs to the first part."""
    config = SGDConfig(lr=2.0, schedule="piecewise", points=[[0, 0.5], [2, 1.0], [4, 0.1], [4, 0.3], [6, 0.03]])
    history = np.array(rates(config, epochs=7, steps_per_epoch=5))
    ends = np.arange(1, 36) / 5
    first = ends <= 4
    assert history[first] == pytest.approx(2 * np.interp(ends[first], [0, 2, 4], [0.5, 1.0, 0.1]))
    assert history[~first] == pytest.approx(2 * np.interp(ends[~first], [4, 6], [0.3, 0.03]))
    assert history[19] == pytest.approx(0.2)
    assert history[-1] == pytest.approx(0.06)


def test_settings_reach_the_optimizer() -> None:
    optimizer = SGDConfig(momentum=0.8, weight_decay=0.01, nesterov=False).build(nn.Linear(2, 2))
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.01, False)
    assert len(group["params"]) == 2


def test_norms_are_left_out_of_weight_decay_on_request() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.GroupNorm(2, 4), nn.Linear(4, 2)))
    decayed, free = SGDConfig(weight_decay=0.01, decay_norm=False).build(net).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {names[id(each)] for each in free["params"]} == {"1.weight", "1.bias", "2.0.weight", "2.0.bias"}
    assert {names[id(each)] for each in decayed["params"]} == {"0.weight", "0.bias", "2.1.weight", "2.1.bias"}
    (everything,) = SGDConfig(weight_decay=0.01).build(net).param_groups
    assert len(everything["params"]) == 8


def test_rate_follows_the_batch_only_where_a_reference_is_given() -> None:
    assert SGDConfig(lr=0.1).scaled_to(400).lr == 0.1
    scaled = SGDConfig(lr=0.1, base_batch_size=100, schedule="cosine").scaled_to(400)
    assert scaled.lr == pytest.approx(0.4)
    assert scaled.scaled_to(400).lr == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear"}, r"optimizer\.schedule must be one of .* got 'linear'"),
        ({"lr": 0}, r"optimizer\.lr must be positive, got 0"),
        ({"base_batch_size": 0}, r"optimizer\.base_batch_size must be null or at least 1, got 0"),
        ({"schedule": "piecewise"}, r"optimizer\.points must be at least two pairs .* got \[\]"),
        ({"schedule": "piecewise", "points": [[3, 1.0], [1, 0.5]]}, r"epochs do not decrease, got \[\[3, 1\.0\]"),
        ({"warmup_epochs": -1}, r"optimizer\.warmup_epochs must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGDConfig(**settings)  # type: ignore[arg-type]


class RateRecorder(pl.Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: object) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.filterwarnings("ignore")
def test_the_rate_of_every_step_in_a_trainer() -> None:
    """Set before each step, also where micro-batches are accumulated and in later epochs."""
    config = SGDConfig(lr=1.0, schedule="piecewise", points=[[0, 0.0], [2, 0.08]], nesterov=False, momentum=0.0)
    loader = DataLoader(list(zip(torch.randn(8, 6), torch.randint(6, (8,)), strict=True)), batch_size=2)
    recorder = RateRecorder()
    trainer = pl.Trainer(
        max_epochs=2, accumulate_grad_batches=2, accelerator="cpu", callbacks=[recorder], logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(nn.Linear(6, 6), num_classes=6, optimizer=config), loader)
    assert recorder.rates == pytest.approx([0.02, 0.04, 0.06, 0.08])
