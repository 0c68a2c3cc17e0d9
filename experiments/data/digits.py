"""Scikit-learn's handwritten digits: 1797 real 8x8 scans that come with the package, so nothing is downloaded."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from typing_extensions import Unpack

from experiments.common.random_streams import Stream
from experiments.data.base import CommonSettings, ImageDataModule, Sources
from experiments.data.splits import ImageSource, split_stratified
from experiments.data.transforms import Transform, pipeline

INK_LEVELS = 16
MEAN = (0.306,)
STD = (0.324,)


@dataclass(frozen=True)
class DigitScans(ImageSource):
    """Scans (N,1,S,S) as floats in [0,1] and their classes."""

    images: Tensor
    targets: list[int]

    def load(self, index: int) -> Tensor:
        """The scan (1,S,S)."""
        return self.images[index]


class DigitsDataModule(ImageDataModule):
    """The digits, scaled up to 32x32, one channel, augmented by small shifts.

    The test part is a stratified share of all scans, fixed by `split_seed`; `val_fraction` is taken from the rest.

    Args:
        image_size: Side to scale the 8x8 scans to, in pixels.
        test_share: Share in (0,1) of every class that is kept for the test.
        max_shift: Largest augmenting shift in each direction, in pixels of the scaled image.
        common: Settings of `ImageDataModule`; here batch_size is 64, num_workers 0 (the images are in memory) and
            val_fraction 0.1 unless given.
    """

    def __init__(
        self, *, image_size: int = 32, test_share: float = 0.2, max_shift: int = 2, **common: Unpack[CommonSettings]
    ) -> None:
        common.setdefault("batch_size", 64)
        common.setdefault("num_workers", 0)
        common.setdefault("val_fraction", 0.1)
        super().__init__(image_size=image_size, mean=MEAN, std=STD, **common)
        if not 0 < test_share < 1:
            raise ValueError(f"data.test_share must be in (0, 1), got {test_share}")
        self.test_share = test_share
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
        targets = bunch.target.tolist()
        train, test = split_stratified(
            targets, range(len(targets)), share=self.test_share, seed=self.split_seed, stream=Stream.TEST_PART
        )
        return Sources(train=_pick(images, targets, train), test=_pick(images, targets, test))

    def train_transform(self) -> Transform:
        """Shift by up to `max_shift` pixels; no flips, which would turn digits into something else."""
        return pipeline([v2.RandomCrop(self.image_size, padding=self.max_shift)], mean=self.mean, std=self.std)

    def eval_transform(self) -> Transform:
        """Normalize only."""
        return pipeline([], mean=self.mean, std=self.std)


def _pick(images: Tensor, targets: list[int], indices: list[int]) -> DigitScans:
    return DigitScans(images[indices], [targets[index] for index in indices])
