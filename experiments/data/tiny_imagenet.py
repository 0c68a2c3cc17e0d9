"""Tiny-ImageNet in its official layout, from the zip as downloaded or from the folder extracted from it."""

import io
import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image
from torchvision.transforms import v2
from typing_extensions import Unpack

from experiments.data.archive import FileStore, open_store
from experiments.data.base import CommonSettings, ImageDataModule, Sources
from experiments.data.missing import MissingDataError
from experiments.data.transforms import Transform, check_padding, pipeline

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
NAME = "tiny-imagenet-200"
IMAGE_SIZE = 64
CROP_PADDING = 4
MEAN = STD = (0.5, 0.5, 0.5)


class StoredImages:
    """Images of a store, read on demand."""

    def __init__(self, store: FileStore, names: Sequence[str], targets: Sequence[int]) -> None:
        self.store = store
        self.names = list(names)
        self.targets = list(targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The image in RGB (some of the files are grey) and its class."""
        image = Image.open(io.BytesIO(self.store.read(self.names[index])))
        return image.convert("RGB"), self.targets[index]


class TinyImageNetDataModule(ImageDataModule):
    """Tiny-ImageNet, 64x64, flipped and randomly cropped.

    The official test labels are not public: the official validation part, labelled by `val/val_annotations.txt`, is
    the test part here, and validates too by default. Nothing is extracted, moved or written.

    Args:
        root: The zip, the extracted folder, or the folder that holds either.
        crop_padding: Pixels that are added on each side before the random crop, >= 0.
        common: Settings of `ImageDataModule`.
    """

    def __init__(self, *, root: str | Path, crop_padding: int = CROP_PADDING, **common: Unpack[CommonSettings]) -> None:
        super().__init__(image_size=IMAGE_SIZE, mean=MEAN, std=STD, **common)
        self.root = Path(root).expanduser()
        self.crop_padding = check_padding(crop_padding)

    @cached_property
    def wnids(self) -> list[str]:
        """WordNet ids of the classes; their order is that of the labels."""
        return sorted(self._store.read("wnids.txt").decode().split())

    @property
    def class_names(self) -> list[str]:
        """First word of each class in `words.txt`, e.g. "goldfish"."""
        lines = self._store.read("words.txt").decode().splitlines()
        words = dict(line.split("\t", 1) for line in lines if "\t" in line)
        return [words.get(wnid, wnid).split(",")[0].strip() for wnid in self.wnids]

    @property
    def num_classes(self) -> int:
        """Number of classes in `wnids.txt`."""
        return len(self.wnids)

    def open_sources(self) -> Sources:
        """List the images of the training and the validation part."""
        label = {wnid: index for index, wnid in enumerate(self.wnids)}
        train = self._store.list_files("train", ".jpeg")
        annotations = self._store.read("val/val_annotations.txt").decode().splitlines()
        val = [line.split("\t")[:2] for line in annotations if line.strip()]
        if not train or not val:
            raise self._missing("It holds no training images or no validation labels.")
        return Sources(
            train=StoredImages(self._store, train, [label[PurePosixPath(name).parts[1]] for name in train]),
            test=StoredImages(self._store, [f"val/images/{file}" for file, _ in val], [label[wnid] for _, wnid in val]),
        )

    def train_transform(self) -> Transform:
        """Random crop and flip."""
        geometry = [v2.RandomCrop(IMAGE_SIZE, padding=self.crop_padding), v2.RandomHorizontalFlip()]
        return pipeline(geometry, mean=self.mean, std=self.std)

    def eval_transform(self) -> Transform:
        """Normalise only."""
        return pipeline([], mean=self.mean, std=self.std)

    @property
    def _places(self) -> list[Path]:
        return [self.root, self.root / NAME, self.root / f"{NAME}.zip"]

    @cached_property
    def _store(self) -> FileStore:
        for place in self._places:
            store = open_store(place, marker="wnids.txt")
            if store is not None:
                return store
        raise self._missing()

    def _missing(self, reason: str = "") -> MissingDataError:
        zipped = shlex.quote(str(self.root / f"{NAME}.zip"))
        return MissingDataError(
            "Tiny-ImageNet",
            looked_at=self._places,
            remedy=f"curl -o {zipped} {URL}   (the zip is read as it is; extracting it works too)",
            reason=reason,
        )
