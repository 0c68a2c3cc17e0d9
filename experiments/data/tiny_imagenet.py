"""Tiny-ImageNet in its official layout, extracted from its zip."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from experiments.common import with_progress
from experiments.data.base import Sources
from experiments.data.class_folders import SHOWN, ClassFolders, list_images
from experiments.data.downloaded import DownloadedDataModule
from experiments.data.errors import DatasetError
from experiments.data.image_reading import read_image
from experiments.data.splits import ImageList

NAME = "tiny-imagenet-200"
CLASSES, ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"


@dataclass(kw_only=True, eq=False, repr=False)
class TinyImageNetDataModule(DownloadedDataModule):
    """Tiny-ImageNet, 64x64, flipped and randomly cropped.

    The official test labels are not public: the official validation part, labeled by `val/val_annotations.txt`, is
    the test part here, and validates too by default. `root` is the extracted folder, the folder that holds it or its zip,
    or the zip, which is extracted beside itself.
    """

    title: ClassVar = "Tiny-ImageNet"
    url: ClassVar = f"http://cs231n.stanford.edu/{NAME}.zip"
    md5: ClassVar = "90528d7ca1a48142e341f4ef8d21d0de"
    image_size: int = field(default=64, init=False)
    mean: Sequence[float] = field(default=(0.5, 0.5, 0.5), init=False)
    std: Sequence[float] = field(default=(0.5, 0.5, 0.5), init=False)
    crop_padding: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.archive = self.root if self.root.suffix.lower() == ".zip" else self.root / f"{NAME}.zip"

    @property
    def folder(self) -> Path:
        """The extracted folder, there or not: `root`, or else that of the zip, without its suffix."""
        return self.root if (self.root / CLASSES).is_file() else self.archive.with_suffix("")

    @property
    def class_names(self) -> list[str]:
        """First word of each class in `words.txt`, e.g. "goldfish"."""
        words = dict(line.partition("\t")[::2] for line in self._read_lines("words.txt"))
        return [words.get(wnid, wnid).split(",")[0].strip() for wnid in self._wnids()]

    def extract(self) -> None:
        """Extract the zip, the list of classes last: a folder that has it is complete."""
        folder, top = self.folder, f"{NAME}/"
        with zipfile.ZipFile(self.archive) as archive:
            files = [file for file in archive.infolist() if file.filename.startswith(top) and not file.is_dir()]
            files.sort(key=lambda file: file.filename == top + CLASSES)
            for file in with_progress(files, "extracting"):
                file.filename = file.filename.removeprefix(top)
                archive.extract(file, folder)

    def open_sources(self) -> Sources:
        """List the images of the training and the validation part; a DatasetError if some are missing."""
        images, wnids = self.folder / "val" / "images", self._wnids()
        rows = [(line + "\t").split("\t") for line in self._read_lines(ANNOTATIONS)]
        missing = {row[0] for row in rows} - set(list_images(images)) | {row[1] for row in rows} - set(wnids)
        if missing or not rows:
            raise DatasetError(
                f"{self.folder} is incomplete or damaged: {ANNOTATIONS} names {sorted(missing)[:SHOWN]}, which are not there; "
                f"remove it, and extract {self.url} again"
            )
        test = ImageList([images / row[0] for row in rows], [wnids.index(row[1]) for row in rows], read_image)
        return Sources(train=ClassFolders(self.folder / "train", classes=wnids), test=test)

    def _wnids(self) -> list[str]:
        """WordNet ids of the classes, which are the names of their folders; in the order of the labels."""
        return sorted({line.strip() for line in self._read_lines(CLASSES)})

    def _read_lines(self, name: str) -> list[str]:
        try:
            text = (self.folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self.missing(self.folder / name) from error
        return [line for line in text.splitlines() if line.strip()]
