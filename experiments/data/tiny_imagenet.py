"""Tiny-ImageNet in its official layout, from the zip as downloaded or from the folder extracted from it."""

import os
import shlex
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from experiments.data.base import DownloadedDataModule, Sources
from experiments.data.class_folders import IMAGE_SUFFIXES, is_leftover, list_images
from experiments.data.download import Archive, provide
from experiments.data.errors import DatasetError, MissingDataError, few, missing_data
from experiments.data.image_reading import read_image
from experiments.data.splits import ImageList

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
NAME = "tiny-imagenet-200"
CLASSES, ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"
# Unpacked, of one file in the zip: more than any image, and not too much for memory.
MAX_MEMBER_BYTES = 2**29
# What reading a broken or encrypted zip raises.
ZIP_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, LookupError)


@lru_cache(maxsize=4)
def _open_zip(path: Path, process: int) -> zipfile.ZipFile:
    """Open a zip once in each process: processes that share a file descriptor move each other's reading position."""
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class DataFiles:
    """The files of the data set below a folder, or below `prefix` in a zip, addressed by relative paths."""

    path: Path
    prefix: str | None = None

    def describe(self, name: str) -> str:
        """Name of a file in messages."""
        return str(self.path / name) if self.prefix is None else f"{self.prefix}{name} in {self.path}"

    def read(self, name: str) -> bytes:
        """Content of a file; a DatasetError if it is not there or cannot be read."""
        try:
            if self.prefix is None:
                return (self.path / name).read_bytes()
            archive = _open_zip(self.path, os.getpid())
            size = archive.getinfo(self.prefix + name).file_size
            if size > MAX_MEMBER_BYTES:
                raise ValueError(f"it unpacks to {size} bytes, more than any image")
            return archive.read(self.prefix + name)
        except ZIP_ERRORS as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DatasetError(
                f"{self.describe(name)} cannot be read ({reason}): the data set is incomplete or damaged; download it again, "
                "or extract it by hand, and let data.root name the folder"
            ) from error

    def read_lines(self, name: str) -> list[str]:
        """Lines of a text file that are not empty."""
        try:
            return [line for line in self.read(name).decode().splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise DatasetError(f"{self.describe(name)} is no text ({error}); download the data set again") from error

    def read_image(self, name: str) -> Image.Image:
        """An image in RGB; some of the files are gray."""
        return read_image(self.read(name), name=self.describe(name))

    def list_images(self) -> list[str]:
        """Sorted paths of all images but hidden ones."""
        if self.prefix is None:
            return sorted(list_images(self.path))
        names = _open_zip(self.path, os.getpid()).namelist()
        below = [name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix)]
        images = [name for name in below if name.lower().endswith(IMAGE_SUFFIXES)]
        return sorted(name for name in images if not any(map(is_leftover, name.split("/"))))


@dataclass(kw_only=True, eq=False, repr=False)
class TinyImageNetDataModule(DownloadedDataModule):
    """Tiny-ImageNet, 64x64, flipped and randomly cropped.

    The official test labels are not public: the official validation part, labeled by `val/val_annotations.txt`, is
    the test part here, and validates too by default. Images are read from the zip as it is.

    Args:
        root: The zip, the extracted folder, or the folder that holds either. Where none is, the zip is downloaded there.
        download: Whether to download the zip (248 MB) where nothing is.
    """

    image_size: int = field(default=64, init=False)
    mean: Sequence[float] = field(default=(0.5, 0.5, 0.5), init=False)
    std: Sequence[float] = field(default=(0.5, 0.5, 0.5), init=False)
    crop_padding: int = 4

    def __post_init__(self) -> None:
        """Complete the settings."""
        super().__post_init__()
        # A root such as .../tiny-imagenet-200.zip is the zip itself.
        path = self.root if self.root.suffix.lower() == ".zip" else self.root / f"{NAME}.zip"
        self.archive = Archive("Tiny-ImageNet", URL, path, MD5)

    def prepare_data(self) -> None:
        """Download the zip where nothing is."""
        # A file that was named is never replaced by another one.
        if self.download and (not self.root.is_file() or self.root.name == f"{NAME}.zip"):
            provide(self.archive, is_there=self._is_there)

    @cached_property
    def wnids(self) -> list[str]:
        """WordNet ids of the classes; their order is that of the labels."""
        return sorted({line.strip() for line in self._files.read_lines(CLASSES)})

    @property
    def class_names(self) -> list[str]:
        """First word of each class in `words.txt`, e.g. "goldfish"."""
        words = dict(line.split("\t", 1) for line in self._files.read_lines("words.txt") if "\t" in line)
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
        images = self._files.list_images()
        train = {name: name.split("/")[1] for name in images if name.startswith("train/")}
        rows = [line.split("\t") for line in self._files.read_lines(ANNOTATIONS)]
        val = {f"val/images/{row[0]}": row[1] if len(row) > 1 else "" for row in rows}
        empty, missing = set(self.wnids) - set(train.values()), set(val) - set(images)
        unknown = {*train.values(), *val.values()} - set(self.wnids)
        problems = {
            f"train/ lacks the images of {len(empty)} of {len(self.wnids)} classes ({few(empty)})": empty
            or not train
            or not self.wnids,
            f"val/images/ lacks {len(missing)} of {len(val)} images ({few(missing)})": missing or not val,
            f"{CLASSES} does not name the classes {few(map(repr, unknown))}": unknown,
        }
        for problem, found in problems.items():
            if found:
                raise DatasetError(f"{self._files.path} is not the official data set: {problem}; download {URL} again")
        label = {wnid: index for index, wnid in enumerate(self.wnids)}
        parts = [
            ImageList(list(part), [label[wnid] for wnid in part.values()], self._files.read_image)
            for part in (train, val)
        ]
        return Sources(train=parts[0], test=parts[1])

    @cached_property
    def _files(self) -> DataFiles:
        searched = [self.root, self.root / NAME, self.root / f"{NAME}.zip"]
        for path in searched:
            if (path / CLASSES).is_file():
                return DataFiles(path)
            if path.is_file():
                return DataFiles(path, _find_prefix(path))
        halves = [path for path in searched if (path / "train").is_dir()]
        reason = "It has not been downloaded yet: call prepare_data() first." if self.download else ""
        if halves:
            reason = f"{halves[0]} has train/ but no {CLASSES}: it was not completely extracted."
        remedy = (
            f"curl -o {shlex.quote(str(self.archive.path))} {URL}   (read as it is or extracted), or data.download=true"
        )
        raise missing_data("Tiny-ImageNet", searched=searched, remedy=remedy, reason=reason)

    def _is_there(self) -> bool:
        try:
            return self._files is not None
        except MissingDataError:
            return False
        except DatasetError:
            # The official zip, cut short by another download, is completed; any other broken file is the user's.
            path = self.archive.path
            if path.name == f"{NAME}.zip" and path.is_file() and not zipfile.is_zipfile(path):
                return False
            raise


def _find_prefix(path: Path) -> str:
    """The folder in a zip that holds the data set, in practice the top one."""
    try:
        with zipfile.ZipFile(path) as archive:
            hits = [name for name in archive.namelist() if name.split("/")[-1] == CLASSES]
    except ZIP_ERRORS as error:
        size = path.stat().st_size
        raise DatasetError(
            f"{path} ({size} bytes) is no complete zip ({error}): another file, damaged, or its download was cut off; remove "
            "it and download it again"
        ) from error
    if not hits:
        raise DatasetError(f"{path} holds no {CLASSES}: another archive, or an incomplete one; name the official one")
    return min(hits, key=len).removesuffix(CLASSES)
