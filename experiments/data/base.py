"""What all data sets have in common: splits, loaders, and the facts that models and callbacks ask for."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.data.splits import EpochSampler, Source, Split, limit_per_class, split_stratified
from experiments.data.transforms import Transform

MAX_DEFAULT_WORKERS = 8


class CommonSettings(TypedDict, total=False):
    """Settings that every data module takes; what they mean is said at `ImageDataModule`."""

    batch_size: int
    num_workers: int | None
    val_share: float
    limit_per_class: int | None
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

    Validation uses, in this order: `val_share` of the training images, the data set's own validation part, the test
    part. In the last case the "best" checkpoint is chosen on test images; the reported accuracy is that of the last
    epoch, which nothing has chosen.

    Args:
        image_size: Side of the square images that the model sees, in pixels.
        mean: Mean of each channel, in [0,1] units.
        std: Standard deviation of each channel, in [0,1] units.
        batch_size: Images in a batch, of every split.
        num_workers: Loader processes; None: one for each available core, at most 8.
        val_share: Share in [0,1) of every class's training images that is kept for validation.
        limit_per_class: Train on at most so many images of each class; None: on all.
        seed: Fixes the order of the training images.
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
        val_share: float = 0.0,
        limit_per_class: int | None = None,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, low in (("image_size", image_size, 1), ("batch_size", batch_size, 1)):
            if value < low:
                raise ValueError(f"data.{name} must be at least {low}, got {value}")
        if not 0 <= val_share < 1:
            raise ValueError(f"data.val_share must be in [0, 1), got {val_share}")
        if limit_per_class is not None and limit_per_class < 1:
            raise ValueError(f"data.limit_per_class must be null or at least 1, got {limit_per_class}")
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"data.mean and data.std need one value a channel, std > 0; got {mean} and {std}")
        self.image_size = image_size
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.batch_size = batch_size
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.val_share = val_share
        self.limit_per_class = limit_per_class
        self.seed = seed
        self.split_seed = split_seed
        self._splits: dict[str, Split] = {}

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """One name a class, in the order of the labels."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
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
        """Augmentation and normalisation of a training image."""

    @abstractmethod
    def eval_transform(self) -> Transform:
        """Preparation and normalisation of a validation or test image."""

    def setup(self, stage: str | None = None) -> None:
        """Open and split the data, once for all stages."""
        if self._splits:
            return
        sources = self.open_sources()
        train = list(range(len(sources.train.targets)))
        train, held_out = split_stratified(sources.train.targets, train, share=self.val_share, seed=self.split_seed)
        if self.limit_per_class is not None:
            train = limit_per_class(sources.train.targets, train, limit=self.limit_per_class, seed=self.split_seed)
        evaluated = self.eval_transform()
        test = _whole(sources.test, evaluated)
        if held_out:
            val = Split(sources.train, held_out, evaluated)
        else:
            val = test if sources.val is None else _whole(sources.val, evaluated)
        self._splits = {"train": Split(sources.train, train, self.train_transform()), "val": val, "test": test}

    def split(self, name: str) -> Split:
        """The samples of "train", "val" or "test".

        Raises:
            RuntimeError: If the data module has not been set up.
        """
        if not self._splits:
            raise RuntimeError("the data module has not been set up; call setup() first, as the Trainer does")
        return self._splits[name]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Shuffled, augmented training batches: images (B,C,S,S), classes (B,)."""
        train_set = self.split("train")
        return self._loader(train_set, sampler=EpochSampler(train_set, self.seed))

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Validation batches in order: images (B,C,S,S), classes (B,)."""
        return self._loader(self.split("val"))

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Test batches in order: images (B,C,S,S), classes (B,)."""
        return self._loader(self.split("test"))

    @property
    def _loader(self) -> Any:
        return partial(
            DataLoader,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def default_workers() -> int:
    """One loader process for each core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_WORKERS)


def _whole(source: Source, transform: Transform) -> Split:
    return Split(source, range(len(source.targets)), transform)
