"""Tiny-ImageNet in its official layout, from the zip as downloaded or from the folder extracted from it."""

import io
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image
from torchvision.transforms import v2
from typing_extensions import Unpack

from experiments.data.archive import FileStore, open_store
from experiments.data.base import CommonSettings, ImageDataModule, Sources
from experiments.data.download import Archive, provide
from experiments.data.missing import MissingDataError
from experiments.data.transforms import Transform, check_padding, pipeline

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
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
    the test part here, and validates too by default. Images are read from the zip as it is.

    Args:
        root: The zip, the extracted folder, or the folder that holds either. Where none is, the zip is downloaded there.
        download: Whether to download the zip (248 MB) where nothing is.
        crop_padding: Pixels that are added on each side before the random crop, >= 0.
        common: Settings of `ImageDataModule`.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        download: bool = True,
        crop_padding: int = CROP_PADDING,
        **common: Unpack[CommonSettings],
    ) -> None:
        super().__init__(image_size=IMAGE_SIZE, mean=MEAN, std=STD, **common)
        self.root = Path(root).expanduser()
        self.download = download
        self.crop_padding = check_padding(crop_padding)

    def prepare_data(self) -> None:
        """Download the zip where nothing is.

        Raises:
            DownloadError: If that fails.
        """
        # A file that was named is never replaced by another one.
        if self.download and (not self.root.is_file() or self.root.name == f"{NAME}.zip"):
            provide(self._archive, is_there=self._is_there)

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
    def _archive(self) -> Archive:
        # A root such as .../tiny-imagenet-200.zip is the zip itself.
        path = self.root if self.root.suffix.lower() == ".zip" else self.root / f"{NAME}.zip"
        return Archive("Tiny-ImageNet", URL, path, MD5)

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

    def _is_there(self) -> bool:
        try:
            return self._store is not None
        except MissingDataError:
            return False
        except ValueError:
            # The official zip, cut short by whoever downloaded it, is completed; any other broken file is the user's.
            path = self._archive.path
            if path.name == f"{NAME}.zip" and path.is_file() and not zipfile.is_zipfile(path):
                return False
            raise

    def _missing(self, reason: str = "") -> MissingDataError:
        if not reason and self.root.is_file():
            reason = f"{self.root.absolute()} is no zip that holds wnids.txt."
        elif not reason and self.download:
            reason = "It has not been downloaded yet: call prepare_data() first."
        return MissingDataError(
            "Tiny-ImageNet",
            looked_at=self._places,
            remedy=f"curl -o {self._archive.path} {URL}   (the zip is read as it is; extracting it works too), or run with "
            "data.download=true",
            reason=reason,
        )
