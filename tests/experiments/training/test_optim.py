"""Learning rates at every step of a run, and what the optimizer is given."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader

from experiments.common.config_checks import TRAIN, check_settings
from experiments.common.errors import UserError
from experiments.training.builders import build_classifier
from experiments.training.module import Classifier
from experiments.training.optim import Progress, cosine, parameter_groups, piecewise

Compose = Callable[..., DictConfig]
Factory = Callable[..., Any]


def rates(schedule: Callable[..., float], *, lr: float, epochs: int, steps_per_epoch: int) -> list[float]:
    """The rates of one of our schedules at each batch."""
    steps = range(epochs * steps_per_epoch)
    return [lr * schedule(Progress(step / steps_per_epoch, (step + 1) / steps_per_epoch, epochs)) for step in steps]


def test_cosine_schedule_with_warmup() -> None:
    history = rates(partial(cosine, warmup_epochs=1), lr=1.0, epochs=10, steps_per_epoch=4)
    assert history[0] == pytest.approx(0.25)
    assert history[20] == pytest.approx(0.5)
    assert history[-1] == pytest.approx(0.5 * (1 + np.cos(np.pi * 39 / 40)), abs=1e-6)
    assert history[4:] == sorted(history[4:], reverse=True)


@pytest.mark.filterwarnings("ignore")
def test_cosine_is_torch_s_own_schedule() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(cosine, lr=0.3, epochs=3, steps_per_epoch=4) == pytest.approx(expected)


def test_piecewise_schedule_interpolates_each_part_and_jumps_between_them() -> None:
    """Each part against numpy; the step that ends at the jump belongs to the first part."""
    points = [[0, 0.5], [2, 1.0], [4, 0.1], [4, 0.3], [6, 0.03]]
    history = np.array(rates(partial(piecewise, points=points), lr=2.0, epochs=7, steps_per_epoch=5))
    ends = np.arange(1, 36) / 5
    first = ends <= 4
    assert history[first] == pytest.approx(2 * np.interp(ends[first], [0, 2, 4], [0.5, 1.0, 0.1]))
    assert history[~first] == pytest.approx(2 * np.interp(ends[~first], [4, 6], [0.3, 0.03]))
    assert history[19] == pytest.approx(0.2)
    assert history[-1] == pytest.approx(0.06)


def test_norms_are_left_out_of_weight_decay_on_request() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.GroupNorm(2, 4), nn.Linear(4, 2)))
    groups = parameter_groups(net, decay_norm=False)
    decayed, free = torch.optim.AdamW(groups, weight_decay=0.01).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert {names[id(each)] for each in free["params"]} == {"1.weight", "1.bias", "2.0.weight", "2.0.bias"}
    assert {names[id(each)] for each in decayed["params"]} == {"0.weight", "0.bias", "2.1.weight", "2.1.bias"}
    (everything,) = parameter_groups(net, decay_norm=True)
    assert len(everything["params"]) == 8


def build(cfg: DictConfig) -> tuple[torch.optim.Optimizer, Any]:
    classifier = build_classifier(cfg, instantiate(cfg.data))
    classifier.trainer = SimpleNamespace(estimated_stepping_batches=40)  # type: ignore[assignment]
    built = classifier.configure_optimizers()
    return built["optimizer"], built.get("lr_scheduler", {}).get("scheduler")


def test_settings_reach_optimizer_and_scheduler(compose_train: Compose) -> None:
    settings = ("optimizer.momentum=0.8", "optimizer.weight_decay=0.01", "optimizer.nesterov=false")
    optimizer, scheduler = build(compose_train(*settings, "scheduler=multistep", "milestones=[2,3]"))
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.01, False)
    assert isinstance(scheduler, MultiStepLR)
    assert sorted(scheduler.milestones) == [2, 3]
    assert len(build(compose_train("decay_norm=false"))[0].param_groups) == 2


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("scheduler", ["auto", "constant", "cosine", "multistep", "onecycle", "piecewise"])
def test_every_optimizer_goes_with_every_scheduler(name: str, scheduler: str, compose_train: Compose) -> None:
    cfg = compose_train(f"optimizer={name}", f"scheduler={scheduler}")
    check_settings(cfg, TRAIN)
    optimizer, built = build(cfg)
    assert type(optimizer).__name__.lower() == name
    # The others are not torch's.
    assert (built is not None) == (scheduler in ("multistep", "onecycle"))


def test_any_optimizer_of_torch_can_be_named(compose_train: Compose) -> None:
    cfg = compose_train("optimizer=adamw", "optimizer._target_=torch.optim.RMSprop", "optimizer.alpha=0.9")
    check_settings(cfg, TRAIN)
    optimizer, _ = build(cfg)
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert optimizer.defaults["alpha"] == 0.9


def test_rate_follows_the_batch_only_where_a_reference_is_given(compose_train: Compose) -> None:
    assert build(compose_train("data.batch_size=400"))[0].defaults["lr"] == 0.1
    cfg = compose_train("data.batch_size=400", "base_batch_size=100", "scheduler=onecycle")
    optimizer, scheduler = build(cfg)
    assert optimizer.defaults["lr"] == pytest.approx(0.4)
    assert optimizer.param_groups[0]["max_lr"] == pytest.approx(0.4)
    assert scheduler.total_steps == 40
    assert cfg.optimizer.lr == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["scheduler=piecewise", "scheduler.points=[[3,1]]"], r"scheduler\.points must be at least two pairs .* got"),
        (["scheduler=piecewise", "scheduler.points=[[3,1],[1,0.5]]"], r"epochs do not decrease, got \[\[3, 1\]"),
        (["optimizer.momentum=0"], "optimizer or scheduler: Nesterov momentum requires a momentum"),
        (["optimizer=adamw", "optimizer.betas=[2,0.9]"], "optimizer or scheduler: Invalid beta parameter"),
    ],
)
def test_bad_settings_are_refused(settings: list[str], message: str, compose_train: Compose) -> None:
    with pytest.raises(UserError, match=message):
        build(compose_train(*settings))


def test_a_constant_rate_takes_no_settings(compose_train: Compose) -> None:
    with pytest.raises(ValueError, match="scheduler=constant takes no settings"):
        build(compose_train("scheduler=constant", "scheduler.gamma=0.5"))


class RateRecorder(pl.Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: object) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def train(
    scheduler: Factory | None,
    *callbacks: pl.Callback,
    epochs: int,
    lr: float,
    resume: Path | None = None,
    **options: Any,
) -> list[float]:
    """Train with 4 batches an epoch; return the rate of every step."""
    loader = DataLoader(list(zip(torch.randn(8, 6), torch.randint(6, (8,)), strict=True)), batch_size=2)
    recorder = RateRecorder()
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[recorder, *callbacks], logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, **options,
    )  # fmt: skip
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9)
    classifier = Classifier(nn.Linear(6, 6), num_classes=6, optimizer=optimizer, scheduler=scheduler)
    trainer.fit(classifier, loader, ckpt_path=resume, weights_only=True)
    return recorder.rates


@pytest.mark.filterwarnings("ignore")
def test_the_rate_of_every_step_in_a_trainer() -> None:
    """Set before each step, also where micro-batches are accumulated and in later epochs."""
    scheduler = partial(piecewise, points=[[0, 0.0], [2, 0.08]])
    history = train(scheduler, epochs=2, lr=1.0, accumulate_grad_batches=2)
    assert history == pytest.approx([0.02, 0.04, 0.06, 0.08])


@pytest.mark.filterwarnings("ignore")
def test_milestones_drop_the_rate_at_the_given_epochs() -> None:
    scheduler = partial(MultiStepLR, milestones=[2, 3])
    history = train(scheduler, epochs=4, lr=0.2, accumulate_grad_batches=2)
    assert history == pytest.approx([0.2] * 4 + [0.02] * 2 + [0.002] * 2)


SCHEDULERS: dict[str, Factory | None] = {
    "constant": None,
    "multistep": partial(MultiStepLR, milestones=[1, 2]),
    "cosine": partial(cosine, warmup_epochs=1),
    "piecewise": partial(piecewise, points=[[0, 0.1], [1, 1.0], [1, 0.5], [3, 0.0]]),
    "onecycle": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.5),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [4, 6], ids=["end_of_epoch", "mid_epoch"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resumed_run_goes_on_with_the_same_rates(name: str, steps: int, tmp_path: Path) -> None:
    whole = train(SCHEDULERS[name], epochs=3, lr=0.5)
    assert len(whole) == 12
    assert len(set(whole)) == {"constant": 1, "multistep": 3}.get(name, 12)
    path = tmp_path / "part.ckpt"

    class Saving(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == steps:
                trainer.save_checkpoint(path)

    assert train(SCHEDULERS[name], Saving(), epochs=3, lr=0.5) == whole
    assert train(SCHEDULERS[name], epochs=3, lr=0.5, resume=path) == whole[steps:]
    # With other epochs too.
    assert len(train(SCHEDULERS[name], epochs=5, lr=0.5, resume=path)) == 20 - steps
