"""Images in one folder per class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from torchvision.transforms import v2

from experiments.data.base import ImageDataModule, Sources
from experiments.data.class_folders import ClassFolders, check_classes
from experiments.data.errors import DatasetError, MissingDataError, missing_data
from experiments.data.splits import Transform

VAL_FOLDERS = ("val", "validation", "valid")
EVAL_FOLDERS = (*VAL_FOLDERS, "test")


@dataclass(kw_only=True, eq=False, repr=False)
class FolderDataModule(ImageDataModule):
    """Images below `root/train/<class>/` and `root/val/<class>/` and/or `root/test/<class>/`.

    With only one of val and test, that one is the test part. Training images are resized (shorter side), flipped and
    cropped with a padding of 1/16 of the size: 2 at 32 px and 4 at 64 px, as in the recipes.

    Args:
        root: The folder that holds `train`.
        image_size: Side of the square that the model sees, in pixels.
        mean: Mean of each channel, in [0,1] units: 3 of RGB, or 1 to read images as gray.
        std: Standard deviation of each channel, in [0,1] units.
    """

    title: ClassVar = "The image folder"
    root: str | Path
    image_size: int = 32
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Check the settings."""
        self.check("mean", len(self.mean) in (1, 3), "1 value (images are read as gray) or 3 (as RGB)")
        super().__post_init__()
        self.root = Path(self.root).expanduser()

    @property
    def class_names(self) -> list[str]:
        """Names of the folders below `train`, sorted."""
        return self._train_part.classes

    def open_sources(self) -> Sources:
        """List the images of all parts.

        Raises:
            DatasetError: If a part has no classes, others than `train`, or one without images; or if several folders could
                be the validation part.
            MissingDataError: If `train`, or all of the others, are not there.
        """
        train = self._train_part
        there = [name for name in EVAL_FOLDERS if (self.root / name).is_dir()]
        candidates = [name for name in there if name in VAL_FOLDERS]
        if len(candidates) > 1:
            raise DatasetError(f"{self.root} holds {' and '.join(candidates)}; keep one of them as the validation part")
        if not there:
            raise self._missing("There is no folder of test images.")
        parts = [ClassFolders(self.root / name, self.image_mode) for name in there]
        for part in parts:
            check_classes(part.root, part.classes, train.classes, train.root)
        return Sources(train=train, val=parts[0] if len(parts) > 1 else None, test=parts[-1])

    def train_transform(self) -> Transform:
        """Resize, random crop and flip."""
        crop = v2.RandomCrop(self.image_size, padding=round(self.image_size / 16))
        return self.pipeline([v2.Resize(self.image_size), crop, v2.RandomHorizontalFlip()])

    def eval_transform(self) -> Transform:
        """Resize the shorter side, crop the center."""
        return self.pipeline([v2.Resize(self.image_size), v2.CenterCrop(self.image_size)])

    @cached_property
    def _train_part(self) -> ClassFolders:
        if not (self.root / "train").is_dir():
            raise self._missing(
                f"{self.root} is a file; extract it, and name the folder." if self.root.is_file() else ""
            )
        return ClassFolders(self.root / "train", self.image_mode)

    def _missing(self, reason: str) -> MissingDataError:
        searched = [self.root / name for name in ("train", *EVAL_FOLDERS)]
        return missing_data(self.title, searched=searched, remedy=self._remedy(), reason=reason)

    def _remedy(self) -> str:
        root = self.root.absolute()
        return f"put {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg (or test/<class>/) there, one folder per class."
