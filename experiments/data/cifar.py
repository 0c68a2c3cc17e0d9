"""CIFAR-10 and CIFAR-100 through torchvision, with the augmentation of the Puzzle Mix recipes."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from PIL import Image
from torchvision import datasets

from experiments.data.base import Sources
from experiments.data.downloaded import DownloadedDataModule
from experiments.data.splits import ImageList


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR10DataModule(DownloadedDataModule):
    """CIFAR-10: 32x32, flipped and randomly cropped; the test part serves as validation by default.

    `root` holds, or will hold, torchvision's layout: the archive and the folder extracted from it.
    """

    dataset: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10
    title: ClassVar = "CIFAR-10"
    classes: ClassVar = 10
    image_size: int = field(default=32, init=False)
    mean: Sequence[float] = field(default=tuple(value / 255 for value in (125.3, 123.0, 113.9)), init=False)
    std: Sequence[float] = field(default=tuple(value / 255 for value in (63.0, 62.1, 66.7)), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.archive, self.url, self.md5 = self.root / self.dataset.filename, self.dataset.url, self.dataset.tgz_md5

    @property
    def num_classes(self) -> int:
        """Number of classes, known without the files."""
        return self.classes

    @property
    def class_names(self) -> list[str]:
        """The official names; need the files."""
        return list(self._parts[0].classes)

    def extract(self) -> None:
        """Extract the archive."""
        with tarfile.open(self.archive, "r:gz") as archive:
            archive.extractall(self.root, filter="data")

    def open_sources(self) -> Sources:
        """Load all images into memory."""
        train, test = (ImageList(part.data, part.targets, Image.fromarray) for part in self._parts)
        return Sources(train, test)

    @cached_property
    def _parts(self) -> list[datasets.CIFAR10]:
        try:
            # Verifies the checksum of every file.
            return [self.dataset(self.root, train=is_train) for is_train in (True, False)]
        except RuntimeError as error:
            raise self.missing(self.root / self.dataset.base_folder) from error


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100 with its 100 fine classes; all else as CIFAR-10."""

    dataset = datasets.CIFAR100
    title = "CIFAR-100"
    classes = 100
    mean: Sequence[float] = field(default=tuple(value / 255 for value in (129.3, 124.1, 112.4)), init=False)
    std: Sequence[float] = field(default=tuple(value / 255 for value in (68.2, 65.4, 70.4)), init=False)
