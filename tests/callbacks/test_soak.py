"""Two thousand steps with all methods, precisions and random failures leave nothing behind."""

import copy
import gc
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

import lightning_puzzlemix as pm

STEPS_PER_FIT = 50
CALLBACKS = (
    lambda: pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(2, 4, 8)), prob=0.9),
    lambda: pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(8,), threads=2), clean_weight=0.5),
    lambda: pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(4,), transport=False), adversarial_prob=0.5),
    lambda: pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(4,), per_sample_lam=True), saliency="spectral"),
    lambda: pm.PuzzleMixCallback(
        pm.PuzzleMixConfig(grid_sizes=(4,)), saliency="feature", saliency_layer="net.0", targets="pair"
    ),
    pm.CutMixCallback,
    lambda: pm.ManifoldMixCallback(layers=["input", "net.0"]),
)


class Module(pl.LightningModule):
    """Fails now and then, in its forward, its step or between them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
        )
        self.accuracy = MulticlassAccuracy(5)
        self.chance = np.random.default_rng(seed)
        self.steps = 0

    def fail_sometimes(self, where: str) -> None:
        if self.chance.random() < 0.004:
            raise RuntimeError(f"thrown in {where}")

    def forward(self, images: Tensor) -> Tensor:
        self.fail_sometimes("forward")
        return self.net(images)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.fail_sometimes("hook")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        images, targets = batch
        logits = self(images)
        self.accuracy(logits.detach().float(), targets)
        self.fail_sometimes("step")
        if isinstance(targets, pm.PairTargets):
            return pm.pair_loss(F.cross_entropy, logits, targets)
        return F.cross_entropy(logits, targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class RandomBatches:
    """Batches of random size, of images of random size."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.count):
            batch, height, width = int(rng.integers(1, 8)), *(int(side) for side in rng.integers(8, 30, size=2))
            targets = torch.from_numpy(rng.integers(5, size=batch))
            yield (
                (torch.rand(batch, 3, height, width), targets)
                if rng.random() < 0.5
                else [
                    torch.rand(batch, 3, height, width),
                    targets,
                ]
            )


def soak(index: int, module: Module, callback: pl.Callback) -> bool:
    """Fit once with a random precision; return whether it was ended by a thrown error."""
    precision = ("32-true", "bf16-mixed", "bf16-true", "64-true")[index % 4]
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[callback], max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, precision=precision,
    )  # fmt: skip
    try:
        trainer.fit(module, RandomBatches(index, STEPS_PER_FIT))
    except RuntimeError as error:
        if not str(error).startswith("thrown in"):
            raise
        return True
    return False


def tensors_alive() -> int:
    gc.collect()
    # By type: a proxy of something that is gone would answer isinstance with an error.
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fits", [20, pytest.param(56, marks=pytest.mark.slow)])
def test_thousands_of_steps_leave_nothing_behind(fits: int) -> None:
    torch.manual_seed(0)
    thrown = steps = 0
    counts: list[tuple[int, int]] = []
    for index in range(fits):
        module, callback = Module(index), CALLBACKS[index % len(CALLBACKS)]()
        thrown += soak(index, module, callback)
        steps += module.steps
        assert "training_step" not in module.__dict__
        for each in module.modules():
            assert not each._forward_hooks
            assert not each._forward_pre_hooks
        assert module.accuracy.update.__wrapped__.__qualname__.startswith("MulticlassStatScores")
        module.trainer = None
        pickle.loads(pickle.dumps(callback))
        copy.deepcopy(module)
        pickle.dumps(module.state_dict())
        del module, callback
        counts.append((tensors_alive(), threading.active_count()))
    assert thrown >= fits // 14
    # Errors end some fits early.
    assert steps >= 35 * fits
    # The first rounds make the thread pools and caches; from then on nothing may grow.
    early, late = counts[len(CALLBACKS) : 2 * len(CALLBACKS)], counts[-len(CALLBACKS) :]
    assert max(tensors for tensors, _ in late) <= max(tensors for tensors, _ in early) + 5
    assert max(threads for _, threads in late) <= max(threads for _, threads in early)
