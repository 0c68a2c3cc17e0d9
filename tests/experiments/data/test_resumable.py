"""Training batches: their order, their randomness, their share of the effective batch, and going on in mid-epoch."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from layouts import ready
from torch import Tensor, nn

from experiments.data import DigitsDataModule
from experiments.data.resumable import EpochSampler
from experiments.data.splits import EpochPosition


def test_sampler_orders_by_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(range(50), seed)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1)
    assert order(0, 1) != order(1, 1)
    assert order(0, 1) != order(1, 0)


def test_positions_carry_the_epoch() -> None:
    sampler = EpochSampler(range(10), 0)  # type: ignore[arg-type]
    sampler.set_epoch(3)
    positions = list(sampler)
    assert all(30 <= position < 40 for position in positions)
    split = ready(DigitsDataModule()).split("train")
    assert split[EpochPosition(len(split) + 5)][1] == split[5][1]
    # Loader processes are sent positions.
    assert all(isinstance(pickle.loads(pickle.dumps(position)), EpochPosition) for position in positions)


def test_processes_share_the_samples_and_some_come_twice() -> None:
    dealt = [list(EpochSampler(range(11), 0, rank=rank, world_size=3)) for rank in range(3)]  # type: ignore[arg-type]
    assert [len(part) for part in dealt] == [4, 4, 4]
    whole = list(EpochSampler(range(11), 0))  # type: ignore[arg-type]
    together = [position for group in zip(*dealt, strict=True) for position in group]
    assert together == whole + whole[:1]


def test_augmentation_depends_on_seed_epoch_and_image_alone() -> None:
    first, second = (ready(DigitsDataModule(seed=0)).split("train") for _ in range(2))
    size = len(first)
    torch.manual_seed(5)
    image = first[3][0]
    torch.manual_seed(6)
    assert torch.equal(second[3][0], image)
    later = [first[EpochPosition(3 + epoch * size)][0] for epoch in range(1, 6)]
    assert not all(torch.equal(image, other) for other in later)
    others = [ready(DigitsDataModule(seed=seed)).split("train")[3][0] for seed in range(1, 6)]
    assert not all(torch.equal(image, other) for other in others)


def test_augmentation_leaves_the_global_random_state_alone() -> None:
    split = ready(DigitsDataModule()).split("train")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _ = split[0]
    assert torch.equal(torch.rand(3), expected)


class Recorder(pl.LightningModule):
    """Notes the batches that it is given, by their pixels; dies where it is told to, at batch -1 after the epoch."""

    def __init__(self, dies_at: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.dies_at = dies_at
        self.seen: list[tuple[int, int, Tensor]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if (self.current_epoch, batch_idx) == self.dies_at:
            raise RuntimeError("power cut")
        self.seen.append((self.current_epoch, batch_idx, batch[0].clone()))
        return self.layer(batch[0].mean().reshape(1, 1)).sum()

    def on_train_epoch_end(self) -> None:
        if (self.current_epoch, -1) == self.dies_at:
            raise RuntimeError("power cut")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class SaveOnError(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def fit(
    module: Recorder, *, workers: int, checkpoint: Path | None = None, save_to: Path | None = None, **settings: Any
) -> pl.Trainer:
    callbacks = [] if save_to is None else [SaveOnError(save_to)]
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, callbacks=callbacks, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
        **{"limit_train_batches": 6, **settings},
    )  # fmt: skip
    data = DigitsDataModule(per_class=4, batch_size=5, num_workers=workers)
    trainer.fit(module, datamodule=data, ckpt_path=None if checkpoint is None else str(checkpoint))
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dies_at", [(0, 2), (1, 3), (2, 0), (1, 5), (0, -1), (1, -1)], ids=str)
def test_a_resumed_run_sees_what_it_would_have_seen(dies_at: tuple[int, int], workers: int, tmp_path: Path) -> None:
    """The very batches, augmentation included; also where an epoch is cut short, as here to 6 of 8 batches."""
    whole = Recorder()
    whole_trainer = fit(whole, workers=0)
    first, second = Recorder(dies_at), Recorder()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(first, workers=workers, save_to=tmp_path / "dead.ckpt")
    trainer = fit(second, workers=workers, checkpoint=tmp_path / "dead.ckpt")
    seen = first.seen + second.seen
    assert [step[:2] for step in seen] == [step[:2] for step in whole.seen]
    assert all(torch.equal(one[2], other[2]) for one, other in zip(seen, whole.seen, strict=True))
    assert (trainer.global_step, trainer.current_epoch) == (whole_trainer.global_step, whole_trainer.current_epoch)


@pytest.mark.filterwarnings("ignore")
def test_with_lightning_s_overfit_batches_there_is_a_checkpoint_too(tmp_path: Path) -> None:
    """There Lightning puts in a sampler of its own, which knows no place in the run."""
    settings = {"overfit_batches": 2, "limit_train_batches": 1.0}
    module = Recorder((1, 1))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(module, workers=0, save_to=tmp_path / "dead.ckpt", **settings)
    assert torch.equal(module.seen[0][2], module.seen[2][2])
    trainer = fit(Recorder(), workers=0, checkpoint=tmp_path / "dead.ckpt", **settings)
    assert trainer.global_step == 6


@pytest.mark.parametrize(
    ("world", "accumulated", "train", "evaluated"), [(1, 1, 24, 24), (1, 2, 12, 24), (2, 1, 12, 12), (2, 3, 4, 12)]
)
def test_processes_and_micro_batches_share_the_effective_batch(
    world: int, accumulated: int, train: int, evaluated: int
) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", accumulate_grad_batches=accumulated,
        logger=False, enable_checkpointing=False,
    )  # fmt: skip
    module = ready(DigitsDataModule(batch_size=24))
    module.trainer = trainer
    loader = module.train_dataloader()
    assert (loader.batch_size, loader.sampler.num_replicas) == (train, world)
    assert [each.batch_size for each in (*module.val_dataloader(), module.test_dataloader())] == [evaluated] * 3


@pytest.mark.parametrize(("batch", "accumulated", "fitting"), [(100, 3, "102"), (2, 3, "3")])
def test_a_batch_that_cannot_be_shared_is_refused_with_the_next_that_can(
    batch: int, accumulated: int, fitting: str
) -> None:
    module = ready(DigitsDataModule(batch_size=batch))
    module.trainer = pl.Trainer(
        accelerator="cpu", accumulate_grad_batches=accumulated, logger=False, enable_checkpointing=False
    )
    with pytest.raises(
        ValueError,
        match=rf"data\.batch_size={batch} must be a multiple of .* here {accumulated}: use {fitting}$",
    ):
        module.train_dataloader()


def test_the_last_incomplete_batch_can_be_dropped() -> None:
    sizes = [
        len(ready(DigitsDataModule(per_class=1, batch_size=4, drop_last=drop)).train_dataloader())
        for drop in (False, True)
    ]
    assert sizes == [3, 2]


def test_training_without_a_single_batch_is_refused() -> None:
    module = ready(DigitsDataModule(per_class=1, batch_size=11, drop_last=True))
    with pytest.raises(
        ValueError, match=r"data\.drop_last=true leaves no batch of 11: a process has 10 training images"
    ):
        module.train_dataloader()
