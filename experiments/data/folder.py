"""Images in one folder a class."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torchvision.transforms import v2
from typing_extensions import Unpack

from experiments.data.base import CommonSettings, ImageDataModule, Sources
from experiments.data.class_folders import ClassFolders, check_same_classes
from experiments.data.errors import DatasetError
from experiments.data.missing import MissingDataError
from experiments.data.transforms import Transform, pipeline

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VAL_FOLDERS = ("val", "validation", "valid")
EVAL_FOLDERS = (*VAL_FOLDERS, "test")
CROP_PADDING_SHARE = 1 / 16


class FolderDataModule(ImageDataModule):
    """Images below `root/train/<class>/` and `root/val/<class>/` and/or `root/test/<class>/`.

    With only one of val and test, that one is the test part. Training images are resized (shorter side), flipped and
    cropped with a padding of 1/16 of the size: 2 at 32 px and 4 at 64 px, as in the recipes. How files of other kinds than
    8-bit RGB are read is said at `experiments.data.image_reading`.

    Args:
        root: The folder that holds `train`.
        image_size: Side of the square that the model sees, in pixels.
        mean: Mean of each channel, in [0,1] units: 3 of RGB, or 1 if images are to be read as gray.
        std: Standard deviation of each channel, in [0,1] units.
        common: Settings of `ImageDataModule`.

    Raises:
        ValueError: If `mean` is neither that of gray nor of RGB images.
    """

    title = "The image folder"

    def __init__(
        self,
        *,
        root: str | Path,
        image_size: int = 32,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **common: Unpack[CommonSettings],
    ) -> None:
        super().__init__(image_size=image_size, mean=mean, std=std, **common)
        if self.in_channels not in (1, 3):
            raise ValueError(f"data.mean must have 1 value (images are read as gray) or 3 (as RGB), got {list(mean)}")
        self.root = Path(root).expanduser()

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
        # First: what is wrong with it is often wrong with the others too.
        train = self._train_part
        names = [name for name in VAL_FOLDERS if (self.root / name).is_dir()]
        if len(names) > 1:
            raise DatasetError(
                f"{self.root} holds {' and '.join(names)}, which could each be the validation part; keep one of them there"
            )
        parts = [self._open(self.root / name) for name in EVAL_FOLDERS if (self.root / name).is_dir()]
        if not parts:
            raise self._missing("There is no folder of test images.")
        return Sources(train=train, val=parts[0] if len(parts) > 1 else None, test=parts[-1])

    def train_transform(self) -> Transform:
        """Resize, random crop and flip."""
        padding = round(self.image_size * CROP_PADDING_SHARE)
        geometry = [v2.Resize(self.image_size), v2.RandomCrop(self.image_size, padding), v2.RandomHorizontalFlip()]
        return pipeline(geometry, mean=self.mean, std=self.std)

    def eval_transform(self) -> Transform:
        """Resize the shorter side, crop the center."""
        return pipeline([v2.Resize(self.image_size), v2.CenterCrop(self.image_size)], mean=self.mean, std=self.std)

    @cached_property
    def _train_part(self) -> ClassFolders:
        folder = self.root / "train"
        if not folder.is_dir():
            raise self._missing()
        return ClassFolders(folder, self._mode)

    @property
    def _mode(self) -> str:
        return "L" if self.in_channels == 1 else "RGB"

    def _open(self, folder: Path) -> ClassFolders:
        part = ClassFolders(folder, self._mode)
        check_same_classes(part, self._train_part)
        return part

    def _missing(self, reason: str = "") -> MissingDataError:
        if self.root.is_file():
            reason = f"{self.root} is a file, and images are read from folders: extract it, and name the folder."
        return MissingDataError(
            self.title,
            inputs=[self.root / "train", *(self.root / name for name in EVAL_FOLDERS)],
            remedy=self._remedy(),
            reason=reason,
        )

    def _remedy(self) -> str:
        root = self.root.absolute()
        return (
            f"put {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg (or test/<class>/) there, one folder a class."
        )
