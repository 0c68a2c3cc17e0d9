"""CIFAR-10 and CIFAR-100 through torchvision, with the augmentation of the Puzzle Mix recipes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from torchvision import datasets
from torchvision.datasets.utils import check_integrity, extract_archive

from experiments.data.base import DownloadedDataModule, Sources
from experiments.data.download import Archive, provide
from experiments.data.errors import missing_data


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR10DataModule(DownloadedDataModule):
    """CIFAR-10: 32x32, flipped and randomly cropped; the test part serves as validation by default.

    Args:
        root: Folder that holds, or will hold, torchvision's layout: the archive and the folder extracted from it.
        download: Whether to download the archive where it is missing. An existing one is extracted in any case.
    """

    dataset: ClassVar[type[datasets.CIFAR10]] = datasets.CIFAR10
    title: ClassVar = "CIFAR-10"
    classes: ClassVar = 10
    image_size: int = field(default=32, init=False)
    # Of pixels in 0 to 255 here.
    mean: Sequence[float] = field(default=(125.3, 123.0, 113.9), init=False)
    std: Sequence[float] = field(default=(63.0, 62.1, 66.7), init=False)

    def __post_init__(self) -> None:
        """Complete the settings."""
        self.mean, self.std = ([value / 255 for value in values] for values in (self.mean, self.std))
        super().__post_init__()
        self.archive = Archive(self.title, self.dataset.url, self.root / self.dataset.filename, self.dataset.tgz_md5)

    @property
    def num_classes(self) -> int:
        """Number of classes, known without the files."""
        return self.classes

    @property
    def class_names(self) -> list[str]:
        """The official names; need the files."""
        return list(self._test_part.classes)

    def prepare_data(self) -> None:
        """Download the archive where it is missing, and extract it."""
        provide(self.archive, is_there=self._is_there, unpack=self._extract, download=self.download)

    def open_sources(self) -> Sources:
        """Load all images into memory."""
        return Sources(train=self._open(train=True), test=self._test_part)

    @cached_property
    def _test_part(self) -> datasets.CIFAR10:
        return self._open(train=False)

    def _open(self, *, train: bool) -> datasets.CIFAR10:
        try:
            return self.dataset(self.root, train=train)
        except RuntimeError as error:
            archive, folder = self.archive, (self.root / self.dataset.base_folder).absolute()
            reason = ""
            if self.download:
                reason = "It has not been downloaded yet: call prepare_data() first."
            elif archive.path.is_file() and not archive.is_verified():
                reason = (
                    f"{archive.path.absolute()} is incomplete or another file: its MD5 checksum is not {archive.md5}."
                )
            elif folder.is_dir():
                reason = f"{folder} lacks files, or has some with other checksums than the official ones."
            remedy = f"put {archive.url} into {self.root.absolute()}, or run with data.download=true and a network."
            raise missing_data(self.title, searched=[folder, archive.path], remedy=remedy, reason=reason) from error

    def _is_there(self) -> bool:
        """Whether every file has its checksum; torchvision's own check leaves out the file of the class names."""
        kind = self.dataset
        files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        return all(check_integrity(self.root / kind.base_folder / name, md5) for name, md5 in files)

    def _extract(self) -> None:
        extract_archive(self.archive.path, self.root)


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100 with its 100 fine classes; all else as CIFAR-10."""

    dataset = datasets.CIFAR100
    title = "CIFAR-100"
    classes = 100
    mean: Sequence[float] = field(default=(129.3, 124.1, 112.4), init=False)
    std: Sequence[float] = field(default=(68.2, 65.4, 70.4), init=False)
