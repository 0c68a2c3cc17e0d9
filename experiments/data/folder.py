"""Images in one folder a class."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torchvision import datasets
from torchvision.transforms import v2
from typing_extensions import Unpack

from experiments.data.base import CommonSettings, ImageDataModule, Sources
from experiments.data.missing import MissingDataError
from experiments.data.transforms import Transform, pipeline

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EVAL_FOLDERS = ("val", "validation", "valid", "test")
CROP_PADDING_SHARE = 1 / 16


class FolderDataModule(ImageDataModule):
    """Images below `root/train/<class>/` and `root/val/<class>/` and/or `root/test/<class>/`.

    With only one of val and test, that one is the test part. Training images are resized (shorter side), flipped and
    cropped with a padding of 1/16 of the size: 2 at 32 px and 4 at 64 px, as in the recipes.

    Args:
        root: The folder that holds `train`.
        image_size: Side of the square that the model sees, in pixels.
        mean: Mean of each channel, in [0,1] units.
        std: Standard deviation of each channel, in [0,1] units.
        common: Settings of `ImageDataModule`.
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
        self.root = Path(root).expanduser()

    @property
    def class_names(self) -> list[str]:
        """Names of the folders below `train`, sorted."""
        return self._train_part.classes

    def open_sources(self) -> Sources:
        """List the images of all parts."""
        parts = [self._open(self.root / name) for name in EVAL_FOLDERS if (self.root / name).is_dir()]
        if not parts:
            raise self._missing("There is no folder of test images.")
        return Sources(train=self._train_part, val=parts[0] if len(parts) > 1 else None, test=parts[-1])

    def train_transform(self) -> Transform:
        """Resize, random crop and flip."""
        padding = round(self.image_size * CROP_PADDING_SHARE)
        geometry = [v2.Resize(self.image_size), v2.RandomCrop(self.image_size, padding), v2.RandomHorizontalFlip()]
        return pipeline(geometry, mean=self.mean, std=self.std)

    def eval_transform(self) -> Transform:
        """Resize the shorter side, crop the centre."""
        return pipeline([v2.Resize(self.image_size), v2.CenterCrop(self.image_size)], mean=self.mean, std=self.std)

    @cached_property
    def _train_part(self) -> datasets.ImageFolder:
        folder = self.root / "train"
        if not folder.is_dir():
            raise self._missing()
        return self._open(folder)

    def _open(self, folder: Path) -> datasets.ImageFolder:
        try:
            part = datasets.ImageFolder(str(folder))
        # torchvision's complaint about folders without classes, or classes without images.
        except FileNotFoundError as error:
            raise self._missing(f"torchvision says: {error}") from error
        if folder.name != "train" and part.classes != self._train_part.classes:
            unlike = sorted(set(part.classes) ^ set(self._train_part.classes))
            raise ValueError(
                f"{folder} and {self.root / 'train'} must hold the same class folders; only one of them has "
                f"{', '.join(unlike[:5])}{' and others' if len(unlike) > 5 else ''}"
            )
        return part

    def _missing(self, reason: str = "") -> MissingDataError:
        return MissingDataError(
            self.title,
            looked_at=[self.root / "train", *(self.root / name for name in EVAL_FOLDERS)],
            remedy=self._remedy(),
            reason=reason,
        )

    def _remedy(self) -> str:
        root = self.root.absolute()
        return (
            f"put {root}/train/<class>/*.jpg and {root}/val/<class>/*.jpg (or test/<class>/) there, one folder a class."
        )
