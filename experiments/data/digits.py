"""Scikit-learn's handwritten digits: 1797 real 8x8 scans that come with the package, so nothing is downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torchvision.transforms import v2

from experiments.common import Stream
from experiments.data.base import ImageDataModule, Sources
from experiments.data.splits import ImageList, Transform, sample_classes


@dataclass(kw_only=True, eq=False, repr=False)
class DigitsDataModule(ImageDataModule):
    """The digits, scaled up to 32x32, one channel, augmented by small shifts.

    The test part is a stratified fraction of all scans, fixed by `split_seed`; `val_fraction` is taken from the rest. No
    loader processes are needed, as the images are in memory.
    """

    image_size: int = 32
    mean: Sequence[float] = field(default=(0.306,), init=False)
    std: Sequence[float] = field(default=(0.324,), init=False)
    batch_size: int = 64
    num_workers: int | None = 0
    val_fraction: float = 0.1
    test_fraction: float | None = 0.2  # Fraction in (0,1) of every class for the test; None: all but `per_class`.
    max_shift: int = 2  # Largest augmenting shift in each direction, in pixels of the scaled image.

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction, per_class = self.test_fraction, self.per_class
        is_valid = per_class is not None if fraction is None else 0 < fraction < 1
        self.check("test_fraction", is_valid, "in (0, 1), or null with data.per_class")

    @property
    def class_names(self) -> list[str]:
        """The digits 0 to 9."""
        return [str(digit) for digit in range(10)]

    def open_sources(self) -> Sources:
        """Load, scale and split the scans."""
        bunch = load_digits()
        # Levels of ink, from 0 to 16.
        small = torch.from_numpy(bunch.images).float()[:, None] / 16
        images = F.interpolate(small, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        fraction, per_class = self.test_fraction, self.per_class or 0
        test, train = sample_classes(
            bunch.target, range(len(images)), lambda n: max(1, n - per_class) if fraction is None else round(fraction * n),
            stream=Stream.TEST_PART, seed=self.split_seed,
        )  # fmt: skip
        return Sources(*(ImageList(images[part], bunch.target[part], torch.Tensor.clone) for part in (train, test)))

    def train_transform(self) -> Transform:
        """Shift by up to `max_shift` pixels; no flips, which would turn digits into something else."""
        return self.train_pipeline([v2.RandomCrop(self.image_size, padding=self.max_shift)])
