"""Data sets that come in one archive, which is downloaded and extracted once."""

import logging
import shlex
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout
from torchvision.transforms import v2

from experiments.data.base import ImageDataModule
from experiments.data.download import download_file
from experiments.data.errors import ELSEWHERE, MissingDataError, missing_data
from experiments.data.splits import Transform

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class DownloadedDataModule(ImageDataModule):
    """Base of the small images that come in one archive, flipped and randomly cropped.

    A subclass sets `archive` (its path), `url` and `md5` (the checksum of a downloaded one).
    """

    title: ClassVar[str]
    root: str | Path  # Folder of the data set, or where to download it.
    download: bool = True  # Whether to download a missing archive; an existing one is extracted in any case.
    crop_padding: int = 2  # Pixels that are added on each side before the random crop.

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root = Path(self.root).expanduser()

    @abstractmethod
    def extract(self) -> None:
        """Extract the archive; a killed extraction must leave it without `class_names`, or be noticed by them."""

    def prepare_data(self) -> None:
        """Download the archive where it is missing, and extract it; other processes wait. A MissingDataError if that fails."""
        if self._is_there() or not (self.download or self.archive.is_file()):
            return
        try:
            self.archive.parent.mkdir(parents=True, exist_ok=True)
            with _lock(self.archive):
                # Another process may have done it in the meantime.
                if self._is_there():
                    return
                if not self.archive.is_file():
                    download_file(self.url, self.archive, self.md5)
                log.info(f"extracting {self.archive}")
                self.extract()
                if not self._is_there():
                    raise ValueError("it lacks files of the data set")
        # Whatever a network, a disk and a broken archive raise.
        except Exception as error:
            step = f"extracting {self.archive}" if self.archive.is_file() else f"downloading {self.url}"
            path = self.archive.absolute()
            raise MissingDataError(
                f"{self.title} is not in {path.parent}: {step} failed ({error or type(error).__name__}). Start again, which "
                f"resumes a download, or put {self.url} by hand at {path} (in place of a broken one), or name the place of the "
                f"data: {ELSEWHERE}."
            ) from error

    def train_transform(self) -> Transform:
        """Random crop and flip."""
        return self.train_pipeline([v2.RandomCrop(self.image_size, self.crop_padding), v2.RandomHorizontalFlip()])

    def missing(self, folder: Path) -> MissingDataError:
        """The error where the data set is not in this folder."""
        remedy = f"data.download=true, or curl -o {shlex.quote(str(self.archive.absolute()))} {self.url}"
        return missing_data(self.title, searched=[folder, self.archive], remedy=remedy)

    def _is_there(self) -> bool:
        try:
            return bool(self.class_names)
        except MissingDataError:
            return False


def _lock(path: Path) -> Any:
    """The lock on a file, held until the end of a `with`; the operating system frees it however its process ends."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.info(f"waiting for another process that downloads {path} and holds {lock.lock_file}")
        return lock.acquire()
