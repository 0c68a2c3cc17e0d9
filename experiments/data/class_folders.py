"""Images in one folder a class: which folders are classes, which files are images, and what stands in the way."""

import logging
import os
from pathlib import Path

from PIL import Image

from experiments.data.errors import DatasetError, few
from experiments.data.image_reading import read_image
from experiments.data.listing import IMAGE_SUFFIXES, list_files, scan, warn_of_broken
from experiments.data.splits import ImageSource

log = logging.getLogger(__name__)


class ClassFolders(ImageSource):
    """The images below `root/<class>/`, read on demand.

    Hidden files and folders, and what file managers leave behind, are neither images nor classes. Links that lead nowhere
    are left out with a warning.

    Args:
        root: The folder that holds one folder a class.
        mode: "RGB" or "L".

    Attributes:
        classes: Names of the class folders, sorted; their order is that of the labels.
        samples: Path and class of each image, class by class, and in it folder by folder.

    Raises:
        DatasetError: If there are no class folders, or one holds no images.
    """

    def __init__(self, root: Path, mode: str = "RGB") -> None:
        self.root = str(root)
        self.mode = mode
        folders, loose = _look_into(root)
        if not folders:
            raise DatasetError(_no_classes(root, loose))
        if loose:
            log.warning(
                f"left out {len(loose)} images that are directly in {root}, in no class folder: {few(loose, 3)}; move "
                "them into the folders of their classes"
            )
        self.classes = sorted(folders)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.samples: list[tuple[str, int]] = []
        self._list_classes(root)
        self.targets = [label for _, label in self.samples]

    def load(self, index: int) -> Image.Image:
        """Read an image.

        Raises:
            UnreadableImageError: If it is none.
        """
        return read_image(Path(self.samples[index][0]), self.mode)

    def _list_classes(self, root: Path) -> None:
        broken: list[str] = []
        empty: list[str] = []
        for label, name in enumerate(self.classes):
            listing = list_files(root / name)
            broken += [f"{name}/{file}" for file in listing.broken]
            if not listing.files:
                empty.append(f"{name} ({_content(listing.broken, listing.others)})")
            files = sorted(listing.files, key=lambda file: tuple(file.rpartition("/")[::2]))
            self.samples += [(str(root / name / file), label) for file in files]
        warn_of_broken(root, broken)
        if empty:
            raise DatasetError(
                f"{root} has class folders without images: {few(empty)}; put images ({', '.join(IMAGE_SUFFIXES)}) into them, "
                "or remove the folders, also in the other parts"
            )


def check_same_classes(part: ClassFolders, train: ClassFolders) -> None:
    """Refuse a part whose classes are not those of the training images.

    Raises:
        DatasetError: If they differ; the message names those that only one of them has.
    """
    here, there = set(part.classes), set(train.classes)
    if here != there:
        sides = [
            f"only in {place}: {few(names)}"
            for place, names in ((part.root, here - there), (train.root, there - here))
            if names
        ]
        raise DatasetError(f"{part.root} and {train.root} must hold the same class folders; {'; '.join(sides)}")


def _look_into(root: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in a folder, and of the images directly in it."""
    folders, loose, broken = [], [], []
    for entry in scan(root):
        if entry.is_dir():
            folders.append(entry.name)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            loose.append(entry.name)
        elif entry.is_symlink() and not Path(entry.path).exists():
            broken.append(entry.name)
    if broken:
        raise DatasetError(
            f"{root} holds links that lead nowhere: {few(broken)}; repair them, as they may be classes, or remove them"
        )
    return folders, loose


def _no_classes(root: Path, loose: list[str]) -> str:
    if not loose:
        return f"{root} holds no class folders; make {root}{os.sep}<class>{os.sep}, one folder a class, with images in each"
    return (
        f"{root} holds {len(loose)} images directly ({few(loose, 3)}) and no class folders: sort them into "
        f"{root}{os.sep}<class>{os.sep}, one folder a class; without known classes, move this folder elsewhere"
    )


def _content(broken: list[str], others: dict[str, int]) -> str:
    found = [f"{count} {ending}" for ending, count in sorted(others.items())]
    found += [f"{len(broken)} links that lead nowhere"] if broken else []
    return ", ".join(found) or "empty"
