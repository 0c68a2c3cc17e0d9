"""Tiny-ImageNet in its official layout, from the zip as downloaded or from the folder extracted from it."""

import shlex
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
from experiments.data.errors import DatasetError, few
from experiments.data.image_reading import read_image
from experiments.data.missing import MissingDataError
from experiments.data.splits import ImageSource
from experiments.data.transforms import Transform, check_padding, pipeline

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
NAME = "tiny-imagenet-200"
IMAGE_SIZE = 64
CROP_PADDING = 4
MEAN = STD = (0.5, 0.5, 0.5)


class StoredImages(ImageSource):
    """Images of a store, read on demand."""

    def __init__(self, store: FileStore, names: Sequence[str], targets: Sequence[int]) -> None:
        self.store = store
        self.names = list(names)
        self.targets = list(targets)

    def load(self, index: int) -> Image.Image:
        """The image in RGB; some of the files are gray.

        Raises:
            DatasetError: If it is not there or no image; the message names the file, and the archive that it is in.
        """
        name = self.names[index]
        return read_image(self.store.read(name), name=self.store.describe(name))


class TinyImageNetDataModule(ImageDataModule):
    """Tiny-ImageNet, 64x64, flipped and randomly cropped.

    The official test labels are not public: the official validation part, labeled by `val/val_annotations.txt`, is
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
        return sorted(set(self._store.read_text("wnids.txt").split()))

    @property
    def class_names(self) -> list[str]:
        """First word of each class in `words.txt`, e.g. "goldfish"."""
        lines = self._store.read_text("words.txt").splitlines()
        words = dict(line.split("\t", 1) for line in lines if "\t" in line)
        return [words.get(wnid, wnid).split(",")[0].strip() for wnid in self.wnids]

    @property
    def num_classes(self) -> int:
        """Number of classes in `wnids.txt`."""
        return len(self.wnids)

    def open_sources(self) -> Sources:
        """List the images of the training and the validation part.

        Raises:
            DatasetError: If some are missing, or of classes that `wnids.txt` does not name.
        """
        label = {wnid: index for index, wnid in enumerate(self.wnids)}
        names = self._store.list_files("train", ".jpeg")
        train = {name: PurePosixPath(name).parts[1] for name in names}
        val = self._read_annotations()
        lacking = set(label) - set(train.values())
        if lacking or not label:
            raise self._incomplete(
                f"train/ lacks the images of {len(lacking)} of {len(label)} classes ({few(lacking)})"
            )
        lost = set(val) - set(self._store.list_files("val/images", ".jpeg"))
        if lost or not val:
            raise self._incomplete(f"val/images/ lacks {len(lost)} of {len(val)} images ({few(lost)})")
        for file, classes in (("train/", train), ("val/val_annotations.txt", val)):
            unknown = set(classes.values()) - set(label)
            if unknown:
                raise DatasetError(
                    f"{self._store.describe(file)} has classes that wnids.txt does not name: {few(unknown)}; remove them, or "
                    "take the official files"
                )
        return Sources(
            train=StoredImages(self._store, list(train), [label[wnid] for wnid in train.values()]),
            test=StoredImages(self._store, list(val), [label[wnid] for wnid in val.values()]),
        )

    def _read_annotations(self) -> dict[str, str]:
        """The class of each validation image."""
        name = "val/val_annotations.txt"
        rows = [line.split("\t") for line in self._store.read_text(name).splitlines() if line.strip()]
        for row in rows:
            # A name with a slash might lead out of the data set.
            if len(row) < 2 or "/" in row[0]:
                raise DatasetError(
                    f"{self._store.describe(name)} must hold an image's name, a tab and its class in each line, got "
                    f"{' '.join(row)[:80]!r}; take the official file"
                )
        return {f"val/images/{row[0]}": row[1] for row in rows}

    def _incomplete(self, what: str) -> DatasetError:
        return DatasetError(
            f"Tiny-ImageNet is incomplete: {self._store.describe(what)}; download {URL} again, or extract it again"
        )

    def train_transform(self) -> Transform:
        """Random crop and flip."""
        geometry = [v2.RandomCrop(IMAGE_SIZE, padding=self.crop_padding), v2.RandomHorizontalFlip()]
        return pipeline(geometry, mean=self.mean, std=self.std)

    def eval_transform(self) -> Transform:
        """Normalize only."""
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
        halves = [place for place in self._places if (place / "train").is_dir()]
        reason = f"{halves[0]} has train/ but no wnids.txt: it was not extracted to the end." if halves else ""
        raise self._missing(reason)

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
            inputs=self._places,
            remedy=f"curl -o {shlex.quote(str(self._archive.path))} {URL}   (the zip is read as it is; extracting it works "
            "too), or run with data.download=true",
            reason=reason,
        )
