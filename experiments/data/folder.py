"""Images in one folder per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from torchvision.transforms import v2

from experiments.data.base import ImageDataModule, Sources
from experiments.data.class_folders import ClassFolders
from experiments.data.errors import DatasetError, missing_data
from experiments.data.splits import Transform


@dataclass(kw_only=True, eq=False, repr=False)
class FolderDataModule(ImageDataModule):
    """Images below `root/train/<class>/` and `root/val/<class>/` and/or `root/test/<class>/`.

    With only one of val and test, that one is the test part. Training images are resized (shorter side), flipped and
    cropped with a padding of 1/16 of the size: 2 at 32 px and 4 at 64 px, as in the recipes.
    """

    title: ClassVar = "The image folder"
    remedy: ClassVar = "put {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg (or test/<class>/) there, extracted"
    root: str | Path
    image_size: int = 32
    mean: Sequence[float] = (0.485, 0.456, 0.406)  # 3 values of RGB, or 1 to read images as gray.
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        self.check("mean", len(self.mean) in (1, 3), "1 value (images are read as gray) or 3 (as RGB)")
        super().__post_init__()
        self.root = Path(self.root).expanduser()

    @property
    def class_names(self) -> list[str]:
        """Names of the folders below `train`, sorted."""
        return self._train_part.classes

    def open_sources(self) -> Sources:
        """List the images of all parts; a DatasetError if their classes differ, or several could be the validation part."""
        train = self._train_part
        there = self._find("val", "validation", "valid", "test")
        if len(set(there) - {"test"}) > 1:
            raise DatasetError(f"{self.root} holds {' and '.join(there)}; keep one of them as the validation part")
        parts = [ClassFolders(self.root / name, self.image_mode, train.classes) for name in there]
        return Sources(train=train, val=parts[0] if len(parts) > 1 else None, test=parts[-1])

    def train_transform(self) -> Transform:
        """Resize, random crop and flip."""
        crop = v2.RandomCrop(self.image_size, padding=round(self.image_size / 16))
        return self.train_pipeline([v2.Resize(self.image_size), crop, v2.RandomHorizontalFlip()])

    def eval_transform(self) -> Transform:
        """Resize the shorter side, crop the center."""
        return self.pipeline([v2.Resize(self.image_size), v2.CenterCrop(self.image_size)])

    @cached_property
    def _train_part(self) -> ClassFolders:
        return ClassFolders(self.root / self._find("train")[0], self.image_mode)

    def _find(self, *names: str) -> list[str]:
        """Those of the folders that are there; a MissingDataError if none is."""
        there = [name for name in names if (self.root / name).is_dir()]
        if not there:
            remedy = self.remedy.format(root=self.root.absolute())
            raise missing_data(self.title, searched=[self.root / name for name in names], remedy=remedy)
        return there
