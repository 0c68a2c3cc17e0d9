"""Scikit-learn's handwritten digits: 1797 real 8x8 scans that come with the package, so nothing is downloaded."""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torchvision.transforms import v2
from typing_extensions import Unpack

from experiments.common.random_streams import Stream
from experiments.data.base import CommonSettings, ImageDataModule, Sources, check
from experiments.data.splits import ImageList, Transform, sample_classes

INK_LEVELS = 16


class DigitsDataModule(ImageDataModule):
    """The digits, scaled up to 32x32, one channel, augmented by small shifts.

    The test part is a stratified fraction of all scans, fixed by `split_seed`; `val_fraction` is taken from the rest.

    Args:
        image_size: Side to scale the 8x8 scans to, in pixels.
        test_fraction: Fraction in (0,1) of every class that is kept for the test.
        max_shift: Largest augmenting shift in each direction, in pixels of the scaled image.
        common: Settings of `ImageDataModule`; here batch_size is 64, num_workers 0 (the images are in memory) and
            val_fraction 0.1 unless given.
    """

    def __init__(
        self, *, image_size: int = 32, test_fraction: float = 0.2, max_shift: int = 2, **common: Unpack[CommonSettings]
    ) -> None:
        defaults: CommonSettings = {"batch_size": 64, "num_workers": 0, "val_fraction": 0.1}
        super().__init__(image_size=image_size, mean=(0.306,), std=(0.324,), **{**defaults, **common})
        check("test_fraction", test_fraction, 0 < test_fraction < 1, "in (0, 1)")
        self.test_fraction = test_fraction
        self.max_shift = max_shift

    @property
    def class_names(self) -> list[str]:
        """The digits 0 to 9."""
        return [str(digit) for digit in range(10)]

    def open_sources(self) -> Sources:
        """Load, scale and split the scans."""
        bunch = load_digits()
        small = torch.from_numpy(bunch.images).float()[:, None] / INK_LEVELS
        images = F.interpolate(small, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False)
        test, train = sample_classes(
            bunch.target, range(len(images)), lambda size: round(self.test_fraction * size),
            stream=Stream.TEST_PART, seed=self.split_seed,
        )  # fmt: skip
        parts = [ImageList(images[part], bunch.target[part].tolist(), torch.Tensor.clone) for part in (train, test)]
        return Sources(train=parts[0], test=parts[1])

    def train_transform(self) -> Transform:
        """Shift by up to `max_shift` pixels; no flips, which would turn digits into something else."""
        return self.pipeline([v2.RandomCrop(self.image_size, padding=self.max_shift)])
