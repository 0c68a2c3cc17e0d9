"""Common base of all data sets: splits, loaders, and the facts that models and callbacks ask for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from joblib import cpu_count
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from experiments.common import Stream
from experiments.data.resumable import EpochSampler, ResumableLoader
from experiments.data.splits import ImageList, Split, Transform, sample_classes

VIEWS = ("clean", "augmented")


class Sources(NamedTuple):
    """The parts that a data set comes in; `val` is None where it has no validation part of its own."""

    train: ImageList
    test: ImageList
    val: ImageList | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(pl.LightningDataModule, ABC):
    """Base of all data sets; `prepare_data` comes before `setup`, `class_names` and `num_classes`, which may need the files.

    Validation uses, in this order: `val_fraction` of the training images, the data set's own validation part, the test
    part. In the last case the "best" checkpoint is selected on test images; the reported accuracy is that of the last
    epoch, which involves no selection.
    """

    image_size: int  # Side of the square images that the model sees, in pixels.
    mean: Sequence[float]  # Mean of each channel, in [0,1] units.
    std: Sequence[float]  # Standard deviation of each channel, in [0,1] units.
    batch_size: int = 100  # Images per optimizer step, of all processes and micro-batches together.
    num_workers: int | None = None  # Loader processes; None: one per available core, at most 8.
    pin_memory: bool | None = None  # Whether loaders pin memory for faster copies to a GPU; None: where there is one.
    drop_last: bool = False  # Whether training drops the last batch of an epoch if it is incomplete.
    val_fraction: float = 0.0  # Fraction in [0,1) of every class's training images that is kept for validation.
    per_class: int | None = None  # Train on at most this many images of each class; None: on all.
    fraction: float = 1.0  # Train on this fraction, in (0,1], of each class. Smaller subsets are part of larger ones.
    test_each_epoch: bool = True  # Whether the test images are scored in every epoch too, where others validate.
    # Further augmentation of training images: transforms of torchvision.transforms.v2 by name, with their settings, as in
    # {AugMix: {severity: 3}}.
    augment: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # For a consistency loss: a training sample has three views then, one without `augment` and two with it, drawn anew. The
    # "clean" or the first "augmented" one is classified; null: one view.
    views: str | None = None
    seed: int = 0  # Fixes the order of the training images and their augmentation.
    split_seed: int = 0  # Fixes which images validate or are left out, the same for any `seed`.

    def __post_init__(self) -> None:
        super().__init__()
        self.check("per_class", self.per_class is None or self.per_class >= 1, "at least 1")
        self.check("val_fraction", 0 <= self.val_fraction < 1, "in [0, 1)")
        self.check("fraction", 0 < self.fraction <= 1, "in (0, 1]")
        self.check("fraction", self.fraction == 1 or self.per_class is None, f"1 with data.per_class={self.per_class}")
        self.augmentation = build_augmentation(self.augment)
        self.check("views", self.views in (None, *VIEWS), "clean, augmented or null")
        self.check("views", self.views is None or bool(self.augment), "null without data.augment")
        is_std = min(self.std) > 0 and len(self.std) == len(self.mean)
        self.check("std", is_std, "positive, one value a channel as in data.mean")
        self.mean, self.std = tuple(map(float, self.mean)), tuple(map(float, self.std))
        self.image_mode = "L" if len(self.mean) == 1 else "RGB"
        self.num_workers = min(cpu_count(), 8) if self.num_workers is None else self.num_workers
        self.pin_memory = torch.cuda.is_available() if self.pin_memory is None else self.pin_memory
        self._splits: dict[str, Split] = {}

    def check(self, name: str, valid: bool, allowed: str) -> None:
        """Raise a ValueError that names the setting, unless its value is valid."""
        if not valid:
            raise ValueError(f"data.{name} must be {allowed}, got {getattr(self, name)}")

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """One name per class, in the order of the labels; a MissingDataError if that needs files that are missing."""

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
        """Open the images of all parts; a MissingDataError if they are not there."""

    @abstractmethod
    def train_transform(self) -> Transform:
        """Augmentation and normalization of a training image."""

    def eval_transform(self) -> Transform:
        """Preparation and normalization of a validation or test image; here the normalization alone."""
        return self.pipeline([])

    def pipeline(self, geometry: Sequence[nn.Module], color: Sequence[nn.Module] = ()) -> Transform:
        """Geometry on the image as read, conversion to float in [0,1], color on that, normalization."""
        as_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        return v2.Compose([*geometry, *as_float, *color, v2.Normalize(list(self.mean), list(self.std))])

    def train_pipeline(self, geometry: Sequence[nn.Module], color: Sequence[nn.Module] = ()) -> Transform:
        """`pipeline` with `augment` behind the geometry; with `views` it gives all three (3,C,S,S), of the same crop."""
        if self.views is None:
            return self.pipeline([*geometry, *self.augmentation], color)
        return ThreeViews(v2.Compose(geometry), self.pipeline([], color), self.pipeline(self.augmentation, color))

    def setup(self, stage: str | None = None) -> None:
        """Open and split the data, once for all stages."""
        if self._splits:
            return
        sources = self.open_sources()
        targets, per_class, val_fraction = sources.train.targets, self.per_class, self.val_fraction
        sample = partial(sample_classes, targets, seed=self.split_seed)
        held_out, train = sample(range(len(targets)), lambda n: round(val_fraction * n), stream=Stream.VALIDATION_PART)
        if per_class is not None:
            train, _ = sample(train, lambda _: per_class, stream=Stream.PER_CLASS)
        if self.fraction < 1:
            train, _ = sample(train, lambda n: max(1, round(self.fraction * n)), stream=Stream.FRACTION)
        transform = self.eval_transform()
        val = test = Split(sources.test, None, transform)
        if held_out:
            val = Split(sources.train, held_out, transform)
        elif sources.val is not None:
            val = Split(sources.val, None, transform)
        train_split = Split(sources.train, train, self.train_transform(), seed=self.seed)
        self._splits = {"train": train_split, "val": val, "test": test}

    def split(self, name: str) -> Split:
        """The samples of "train", "val" or "test"."""
        self.setup()
        return self._splits[name]

    @property
    def validates_on_test(self) -> bool:
        """Whether the test part serves as validation, for lack of another."""
        return self.split("val") is self.split("test")

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Shuffled, augmented training batches of one process and micro-batch: images (B,C,S,S), classes (B,).

        With `views` a third element holds all views (B,3,C,S,S), of which the images are one.
        """
        trainer, train_set = self.trainer, self.split("train")
        settings = self._loader_settings(1 if trainer is None else trainer.accumulate_grad_batches)
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        sampler = EpochSampler(train_set, self.seed, rank=rank, world_size=world_size)
        # Lightning does so too, but in a resumed run only after loader processes have asked for the first samples.
        sampler.set_epoch(next_epoch(trainer))
        if self.drop_last and len(sampler) < (size := settings["batch_size"]):
            raise ValueError(
                f"data.drop_last=true leaves no batch of {size}: a process has {len(sampler)} training images; lower "
                "data.batch_size or set data.drop_last=false"
            )
        if self.views is not None:
            settings["collate_fn"] = partial(collate_views, classified=VIEWS.index(self.views))
        loader = ResumableLoader(train_set, sampler=sampler, drop_last=self.drop_last, **settings)
        loader.position = self._position
        return loader

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, Tensor]]]:
        """Validation batches, in a list; with `test_each_epoch` a second loader of test images."""
        loaders = [DataLoader(self.split("val"), **self._loader_settings())]
        if self.test_each_epoch and not self.validates_on_test:
            loaders.append(self.test_dataloader())
        return loaders

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Test batches in order: images (B,C,S,S), classes (B,)."""
        return DataLoader(self.split("test"), **self._loader_settings())

    def _loader_settings(self, micro_batches: int = 1) -> dict[str, Any]:
        """Settings of a loader, whose batch size is that of one process and micro-batch."""
        parts = micro_batches * (1 if self.trainer is None else self.trainer.world_size)
        if self.batch_size % parts:
            raise ValueError(
                f"data.batch_size={self.batch_size} must be a multiple of the number of processes times accumulated "
                f"micro-batches, here {parts}: use {parts * (self.batch_size // parts + 1)}"
            )
        return {
            "batch_size": self.batch_size // parts,
            "num_workers": self.num_workers,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.num_workers > 0,
        }

    def _position(self) -> tuple[int, int]:
        """The current epoch and the number of its finished batches; at its end the next epoch."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        started, batches = loop.epoch_progress.current.ready, loop.epoch_loop.batch_progress
        # The last batch may have been fetched and not finished.
        if batches.is_last_batch and batches.current.processed == batches.current.ready:
            return started, 0
        return max(0, started - 1), batches.current.processed


def build_augmentation(settings: Mapping[str, Mapping[str, Any]]) -> list[nn.Module]:
    """Transforms of torchvision.transforms.v2 by name; a ValueError if there is no such transform or setting."""
    try:
        return [getattr(v2, name)(**options) for name, options in settings.items()]
    except (AttributeError, TypeError, ValueError) as error:
        form = "transforms of torchvision.transforms.v2 with their settings, as in {AugMix: {severity: 3}}"
        raise ValueError(f"data.augment must be {form}, got {dict(settings)} ({error})") from error


@dataclass(frozen=True)
class ThreeViews:
    """Views (3,C,S,S) of an image: `clean`, and `augmented` twice, all behind the same `shared` transform."""

    shared: Transform
    clean: Transform
    augmented: Transform

    def __call__(self, image: Any) -> Tensor:
        """Transform one image."""
        image = self.shared(image)
        return torch.stack([self.clean(image), self.augmented(image), self.augmented(image)])


def collate_views(samples: list[tuple[Tensor, int]], classified: int) -> list[Tensor]:
    """The view to classify (B,C,S,S), classes (B,), and all views (B,3,C,S,S)."""
    views, classes = default_collate(samples)
    return [views[:, classified], classes, views]


def next_epoch(trainer: pl.Trainer | None) -> int:
    """The epoch that loaders are asked for; `trainer.current_epoch` is still the old one in a run resumed at its end."""
    return 0 if trainer is None else trainer.fit_loop.epoch_progress.current.processed
