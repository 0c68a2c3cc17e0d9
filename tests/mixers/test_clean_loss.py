"""Clean regularization in a Trainer: its gradients are those of a manual computation and of the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from distributed_cases import Batches, Classifier, config, quiet
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import Tensor, nn

import lightning_puzzlemix as pm

WEIGHT = 0.7
Gradients = list[list[Tensor]]


class RecordingSGD(torch.optim.SGD):
    """Keeps the gradients that it steps with: after accumulation, unscaling and clipping."""

    gradients: Gradients

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.gradients.append([each.grad.detach().clone() for each in parameters if each.grad is not None])
        super().step()
        return loss


class Recording(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.gradients: Gradients = []

    def configure_optimizers(self) -> Any:
        optimizer = RecordingSGD(self.parameters(), self.learning_rate)
        optimizer.gradients = self.gradients
        return optimizer


def by_hand(
    journal: list[tuple[Tensor, ...]],
    windows: list[tuple[int, list[int]]],
    *,
    forward: Callable[[], Any] = nullcontext,
    scale: float = 1.0,
    clip: Callable[[list[nn.Parameter]], Any] = lambda parameters: None,
    mixed: list[bool] | None = None,
) -> Gradients:
    """Compute each step's gradients from the batches that were seen, all mixed or those of ``mixed``.

    A window is (divisor, its batches).
    """
    flags = [True] * len(journal) if mixed is None else mixed
    model, steps = Classifier().train(), []
    parameters = list(model.parameters())

    def gradients(images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        with forward():
            loss = F.cross_entropy(model(images), targets)
        return tuple(each / scale for each in torch.autograd.grad(loss * scale, parameters))

    for divisor, window in windows:
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for index in window:
            images, targets, originals, classes = journal[index]
            parts = [(1.0, gradients(images, targets))]
            parts += [(WEIGHT, gradients(originals, classes))] if flags[index] else []
            for weight, part in parts:
                total = [so_far + weight * each / divisor for so_far, each in zip(total, part, strict=True)]
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient
        clip(parameters)
        steps.append([parameter.grad.clone() for parameter in parameters])
        with torch.no_grad():
            for parameter in parameters:
                parameter -= model.learning_rate * parameter.grad
    return steps


def fit(*callbacks: pl.Callback, module: Recording | None = None, prob: float = 1.0, **arguments: Any) -> Recording:
    mixing = pm.PuzzleMixCallback(config(), clean_weight=WEIGHT, prob=prob, seed=1)
    module = module or Recording()
    quiet(mixing, *callbacks, **arguments).fit(module, Batches(count=5))
    return module


def assert_equal(found: Gradients, expected: Gradients, atol: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=atol, rtol=0)


EVERY_BATCH = [(1, [index]) for index in range(5)]
IN_PAIRS = [(2, [0, 1]), (2, [2, 3]), (2, [4])]


@pytest.mark.parametrize(("accumulate", "windows"), [(1, EVERY_BATCH), (2, IN_PAIRS)])
def test_accumulation_with_an_incomplete_last_window(accumulate: int, windows: list) -> None:
    module = fit(accumulate_grad_batches=accumulate)
    assert_equal(module.gradients, by_hand(module.journal, windows))


def test_accumulation_that_changes_in_the_run() -> None:
    module = fit(GradientAccumulationScheduler({0: 1, 1: 2}), max_epochs=2)
    windows = EVERY_BATCH + [(divisor, [5 + index for index in window]) for divisor, window in IN_PAIRS]
    assert_equal(module.gradients, by_hand(module.journal, windows))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_clips_the_whole_gradient(algorithm: str) -> None:
    limit = 0.05
    clip = {
        "norm": lambda parameters: nn.utils.clip_grad_norm_(parameters, limit),
        "value": lambda parameters: nn.utils.clip_grad_value_(parameters, limit),
    }[algorithm]
    module = fit(accumulate_grad_batches=2, gradient_clip_val=limit, gradient_clip_algorithm=algorithm)
    expected = by_hand(module.journal, IN_PAIRS, clip=clip)
    assert_equal(module.gradients, expected)
    assert not torch.allclose(expected[0][0], by_hand(module.journal, IN_PAIRS)[0][0]), "the limit must bite"


def test_bfloat16_autocast() -> None:
    module = fit(precision="bf16-mixed", accumulate_grad_batches=2)
    forward = lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False)  # noqa: E731
    assert_equal(module.gradients, by_hand(module.journal, IN_PAIRS, forward=forward))


@pytest.mark.parametrize("scale", [4096.0, 8.0])
def test_float16_autocast_with_a_loss_scaler(scale: float) -> None:
    """Lightning turns "16-mixed" into bfloat16 on the CPU, but its plugin works there with torch's CPU scaler."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    module = fit(plugins=[MixedPrecision("16-mixed", "cpu", scaler)], accumulate_grad_batches=2)
    forward = lambda: torch.autocast("cpu", torch.float16, cache_enabled=False)  # noqa: E731
    # Where the scale is small, float16 loses small gradients in both.
    assert_equal(
        module.gradients, by_hand(module.journal, IN_PAIRS, forward=forward, scale=scale), 1e-5 if scale > 8 else 1e-3
    )
    assert scaler.get_scale() == scale, "a gradient overflowed"


def test_batches_that_are_not_mixed_get_none() -> None:
    module = fit(prob=0.5, accumulate_grad_batches=2)
    assert set(module.mixed) == {True, False}
    assert_equal(module.gradients, by_hand(module.journal, IN_PAIRS, mixed=module.mixed))


def test_a_step_that_returns_nothing_leaves_nothing_for_the_next_batch() -> None:
    class Skips(Recording):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            # The batch after the skipped one is not mixed, so that nothing replaces what a mixed one would leave.
            mixing.prob = 0.0 if batch_idx == 1 else 1.0
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    mixing, module = pm.PuzzleMixCallback(config(), clean_weight=WEIGHT, seed=1), Skips()
    quiet(mixing).fit(module, Batches(count=4))
    assert module.mixed == [True, False, True]
    # Without a backward pass there are no gradients to step with but those of the batch before, which zero_grad cleared.
    taken = [step for step in module.gradients if step]
    assert_equal(taken, by_hand(module.journal, EVERY_BATCH[:3], mixed=module.mixed))


@pytest.mark.parametrize("clean_weight", [0.0, WEIGHT])
def test_the_saliency_pass_leaves_accumulated_gradients_alone(clean_weight: float) -> None:
    class Watching(Recording):
        watched: Gradients

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            if batch_idx == 1:
                for before, parameter in zip(self.before, self.parameters(), strict=True):
                    assert torch.equal(before, parameter.grad)

        def on_train_batch_end(self, *args: Any) -> None:
            self.before = [None if p.grad is None else p.grad.clone() for p in self.parameters()]

    mixing, module = pm.PuzzleMixCallback(config(), clean_weight=clean_weight, seed=1), Watching()
    quiet(mixing, accumulate_grad_batches=2).fit(module, Batches(count=2))
    assert len(module.gradients) == 1


def test_frozen_and_unused_parameters() -> None:
    class Partly(Recording):
        def __init__(self) -> None:
            super().__init__()
            self.net[0].requires_grad_(False)
            self.unused = nn.Linear(2, 2)

        def configure_optimizers(self) -> Any:
            optimizer = RecordingSGD([self.net[4].weight], self.learning_rate)
            optimizer.gradients = self.gradients
            return optimizer

    module = fit(module=Partly())
    assert_equal(module.gradients[:1], [[by_hand(module.journal, EVERY_BATCH)[0][4]]])
    assert module.net[0].weight.grad is None
    assert module.unused.weight.grad is None


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_the_gradients_of_the_authors_code(
    loss: str, accumulate: int, step: dict[str, np.ndarray], tiny_net: nn.Sequential
) -> None:
    """Twice the same batch, accumulated, has the same gradient as the batch itself."""
    tiny_net.load_state_dict({key[4:]: torch.tensor(step[key]) for key in step if key.startswith("net.")})

    class Fixed(pm.PuzzleMixCallback):
        def draw(self, *args: Any, **kwargs: Any) -> pm.MixDraw:
            return pm.MixDraw(torch.tensor(step["indices"]), float(step["lam"]), int(step["num_blocks"]))

    class Step(Recording):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_net

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            logits = self(batch[0])
            if loss == "ce":
                return F.cross_entropy(logits, batch[1])
            return F.binary_cross_entropy(logits.softmax(1), batch[1])

    settings = config(mean=step["mean"], std=step["std"], transport_size=4, solver="gco")
    # The CIFAR code adds 2 w CE / num_classes beside its binary cross-entropy.
    mixing = Fixed(settings, clean_weight=1.0 if loss == "ce" else 2 / 10)
    module, batch = Step(), (torch.tensor(step["images"]), torch.tensor(step["targets"]))
    names = [name for name, _ in tiny_net.named_parameters()]
    quiet(mixing, accumulate_grad_batches=accumulate).fit(module, Batches(*[batch] * accumulate))
    assert_equal(module.gradients, [[torch.tensor(step[f"clean1_{loss}.grad.{name}"]) for name in names]])


def test_deepspeed_is_refused_with_a_reason() -> None:
    """DeepSpeed's engine owns loss and backward; it need not be installed to be told apart."""
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    strategy.broadcast = lambda value, src=0: value
    strategy.reduce_boolean_decision = lambda decision, all=True: decision
    trainer = SimpleNamespace(
        strategy=strategy,
        callbacks=[],
        optimizers=[],
        datamodule=None,
        num_devices=1,
        precision_plugin=None,
        accumulate_grad_batches=1,
    )
    mixing = pm.PuzzleMixCallback(config(), clean_weight=WEIGHT, seed=1)
    with pytest.raises(ValueError, match=r"clean_weight=0.7.*DeepSpeed"):
        mixing.setup(trainer, Recording(), "fit")


@pytest.mark.parametrize("how", ["manual optimization", "LBFGS"])
def test_refused_where_it_cannot_hold(how: str) -> None:
    class Unfit(Classifier):
        def configure_optimizers(self) -> Any:
            kind = torch.optim.LBFGS if how == "LBFGS" else torch.optim.SGD
            return kind(self.parameters(), 0.1)

    module = Unfit()
    module.automatic_optimization = how == "LBFGS"
    reason = "cannot be used with.*LBFGS" if how == "LBFGS" else "needs automatic optimization"
    with pytest.raises(ValueError, match=f"clean_weight=0.7 {reason}.*clean_weight=0"):
        quiet(pm.PuzzleMixCallback(config(), clean_weight=WEIGHT)).fit(module, Batches())
    assert module.journal == []
