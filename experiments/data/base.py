"""What all data sets have in common: splits, loaders, and the facts that models and callbacks ask for."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.data.resumable import EpochSampler, ResumableLoader
from experiments.data.splits import Source, Split, split_stratified, take_fraction, take_per_class
from experiments.data.transforms import Transform

MAX_DEFAULT_WORKERS = 8


class CommonSettings(TypedDict, total=False):
    """Settings that every data module takes; what they mean is said at `ImageDataModule`."""

    batch_size: int
    num_workers: int | None
    pin_memory: bool | None
    drop_last: bool
    val_fraction: float
    per_class: int | None
    fraction: float
    test_each_epoch: bool
    seed: int
    split_seed: int


@dataclass(frozen=True)
class Sources:
    """The parts that a data set comes in; None: it has no validation part of its own."""

    train: Source
    test: Source
    val: Source | None = None


class ImageDataModule(pl.LightningDataModule, ABC):
    """Base of all data sets.

    Validation uses, in this order: `val_fraction` of the training images, the data set's own validation part, the test
    part. In the last case the "best" checkpoint is chosen on test images; the reported accuracy is that of the last
    epoch, which nothing has chosen.

    Args:
        image_size: Side of the square images that the model sees, in pixels.
        mean: Mean of each channel, in [0,1] units.
        std: Standard deviation of each channel, in [0,1] units.
        batch_size: Effective batch: the images that one optimizer step sees. All processes and accumulated micro-batches
            share it, so a recipe's learning rate holds on any number of them.
        num_workers: Loader processes; None: one for each available core, at most 8.
        pin_memory: Whether loaders prepare batches for a faster copy to a GPU; None: where there is one.
        drop_last: Whether training leaves out the last batch of an epoch if it is incomplete.
        val_fraction: Share in [0,1) of every class's training images that is kept for validation.
        per_class: Train on at most so many images of each class; None: on all.
        fraction: Train on this share, in (0,1], of each class. Smaller parts are part of larger ones.
        test_each_epoch: Whether the test images are scored in every epoch too, where others validate.
        seed: Fixes the order of the training images and their augmentation.
        split_seed: Fixes which images are kept for validation or left out; apart from `seed`, so that runs with
            other seeds are still scored on the same images.

    Raises:
        ValueError: If a value is outside its range.
    """

    def __init__(
        self,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 100,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        drop_last: bool = False,
        val_fraction: float = 0.0,
        per_class: int | None = None,
        fraction: float = 1.0,
        test_each_epoch: bool = True,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, low in (
            ("image_size", image_size, 1), ("batch_size", batch_size, 1), ("seed", seed, 0), ("split_seed", split_seed, 0)
        ):  # fmt: skip
            if value < low:
                raise ValueError(f"data.{name} must be at least {low}, got {value}")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"data.val_fraction must be in [0, 1), got {val_fraction}")
        if per_class is not None and per_class < 1:
            raise ValueError(f"data.per_class must be null or at least 1, got {per_class}")
        if not 0 < fraction <= 1:
            raise ValueError(f"data.fraction must be in (0, 1], got {fraction}")
        if per_class is not None and fraction < 1:
            raise ValueError(f"data.per_class={per_class} and data.fraction={fraction} exclude each other; drop one")
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"data.mean and data.std need one value a channel, std > 0; got {mean} and {std}")
        self.image_size = image_size
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.batch_size = batch_size
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.drop_last = drop_last
        self.val_fraction = val_fraction
        self.per_class = per_class
        self.fraction = fraction
        self.test_each_epoch = test_each_epoch
        self.seed = seed
        self.split_seed = split_seed
        self._splits: dict[str, Split] = {}

    def prepare_data(self) -> None:
        """Make sure that the files are there, downloading them where that can be done.

        To be called before anything that needs files: `setup`, `class_names`, `num_classes`. Unlike Lightning, which calls
        it in one process a node, callers need not care who else does: it may be called in every process at once, and again.

        Raises:
            DownloadError: If they cannot be downloaded.
        """

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """One name a class, in the order of the labels; may need the files, see `prepare_data`.

        Raises:
            MissingDataError: If they are not there.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes; may need the files, see `prepare_data`."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    @abstractmethod
    def open_sources(self) -> Sources:
        """Open the images of all parts.

        Raises:
            MissingDataError: If they are not there.
        """

    @abstractmethod
    def train_transform(self) -> Transform:
        """Augmentation and normalization of a training image."""

    @abstractmethod
    def eval_transform(self) -> Transform:
        """Preparation and normalization of a validation or test image."""

    def setup(self, stage: str | None = None) -> None:
        """Open and split the data, once for all stages."""
        if self._splits:
            return
        sources = self.open_sources()
        train = list(range(len(sources.train.targets)))
        train, held_out = split_stratified(sources.train.targets, train, share=self.val_fraction, seed=self.split_seed)
        if self.per_class is not None:
            train = take_per_class(sources.train.targets, train, limit=self.per_class, seed=self.split_seed)
        if self.fraction < 1:
            train = take_fraction(sources.train.targets, train, fraction=self.fraction, seed=self.split_seed)
        evaluated = self.eval_transform()
        test = _whole(sources.test, evaluated)
        if held_out:
            val = Split(sources.train, held_out, evaluated)
        else:
            val = test if sources.val is None else _whole(sources.val, evaluated)
        train_split = Split(sources.train, train, self.train_transform(), seed=self.seed)
        self._splits = {"train": train_split, "val": val, "test": test}

    def split(self, name: str) -> Split:
        """The samples of "train", "val" or "test".

        Raises:
            RuntimeError: If the data module has not been set up.
        """
        if not self._splits:
            raise RuntimeError("the data module has not been set up; call setup() first, as the Trainer does")
        return self._splits[name]

    @property
    def validates_on_test(self) -> bool:
        """Whether the test part itself validates, there being no other; known once set up."""
        return self.split("val") is self.split("test")

    def batch_shares(self) -> tuple[int, int]:
        """Number of processes and of accumulated micro-batches that share a batch; (1, 1) without a Trainer."""
        return (1, 1) if self.trainer is None else (self.trainer.world_size, self.trainer.accumulate_grad_batches)

    @property
    def loader_batch_size(self) -> int:
        """Images of a batch that fall to one process and micro-batch.

        Raises:
            ValueError: If they cannot share the batch evenly.
        """
        processes, micro_batches = self.batch_shares()
        return self._shared(processes * micro_batches, "processes times accumulated micro-batches")

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Shuffled, augmented training batches, of one process and micro-batch: images (B,C,S,S), classes (B,).

        Raises:
            ValueError: If processes and micro-batches cannot share the batch evenly, or if there is no complete batch and
                an incomplete one is not wanted.
        """
        train_set, size = self.split("train"), self.loader_batch_size
        rank = 0 if self.trainer is None else self.trainer.global_rank
        sampler = EpochSampler(train_set, self.seed, rank=rank, world_size=self.batch_shares()[0])
        # Lightning says so too, but in a resumed run only after loader processes have asked for the first samples.
        sampler.set_epoch(coming_epoch(self.trainer))
        if self.drop_last and len(sampler) < size:
            raise ValueError(
                f"data.drop_last=true leaves no batch of {size}: a process has {len(sampler)} training images; lower "
                "data.batch_size or set data.drop_last=false"
            )
        settings = {**self._settings(), "batch_size": size, "drop_last": self.drop_last}
        return ResumableLoader(train_set, sampler=sampler, place=self._place, **settings)

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, Tensor]]]:
        """Validation batches in order: images (B,C,S,S), classes (B,); a second loader of test images, if they are wanted."""
        loaders = [DataLoader(self.split("val"), **self._settings())]
        if self.test_each_epoch and not self.validates_on_test:
            loaders.append(self.test_dataloader())
        return loaders

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Test batches in order: images (B,C,S,S), classes (B,)."""
        return DataLoader(self.split("test"), **self._settings())

    def _shared(self, parts: int, name: str) -> int:
        size, rest = divmod(self.batch_size, parts)
        if rest:
            nearest = " or ".join(str(multiple) for multiple in (size * parts, (size + 1) * parts) if multiple)
            raise ValueError(
                f"data.batch_size={self.batch_size} is the batch of all {name} together, here {parts}, and must be a "
                f"multiple of that: use {nearest}"
            )
        return size

    def _settings(self) -> dict[str, Any]:
        return {
            "batch_size": self._shared(self.batch_shares()[0], "processes"),
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.num_workers > 0,
        }

    def _place(self) -> tuple[int, int]:
        """The running epoch and the batches of it that are done; at its end the next epoch."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        started, batches = loop.epoch_progress.current.ready, loop.epoch_loop.batch_progress
        # The last batch may have been asked for and not have been finished.
        if batches.is_last_batch and batches.current.processed == batches.current.ready:
            return started, 0
        return max(0, started - 1), batches.current.processed


def coming_epoch(trainer: pl.Trainer | None) -> int:
    """The epoch that loaders are wanted for; 0 without a Trainer.

    Not `trainer.current_epoch`: in a run resumed from the end of an epoch that is still the old one.
    """
    return 0 if trainer is None else trainer.fit_loop.epoch_progress.current.processed


def default_workers() -> int:
    """One loader process for each core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_WORKERS)


def _whole(source: Source, transform: Transform) -> Split:
    return Split(source, range(len(source.targets)), transform)
