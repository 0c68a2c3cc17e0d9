"""Image files below folders: all of them, or one folder per class."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from experiments.data.errors import DatasetError
from experiments.data.image_reading import read_image
from experiments.data.splits import ImageList

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff")
# Made by file managers, archivers and disks, beside hidden files.
LEFTOVERS = {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
# Names in a message.
SHOWN = 5

log = logging.getLogger(__name__)


class ClassFolders(ImageList):
    """The images below `root/<class>/`, at any depth, class by class and in torchvision's order; read on demand.

    `classes` are in the order of their labels; None: the folders, sorted. A DatasetError if the folders are not those of the
    classes, or one holds no images.
    """

    def __init__(self, root: Path, mode: str = "RGB", classes: Sequence[str] | None = None) -> None:
        _, folders, files = next(os.walk(root, onerror=_refuse))
        found = sorted(name for name in folders if not _is_leftover(name))
        self.root = root
        self.classes = found if classes is None else list(classes)
        if set(found) != set(self.classes):
            lacking, extra = set(self.classes).difference(found), set(found).difference(self.classes)
            raise DatasetError(
                f"{root} must hold one folder for each class of the data set: it lacks {sorted(lacking)[:SHOWN]}, and "
                f"has {sorted(extra)[:SHOWN]} besides"
            )
        by_class = {name: list_images(root / name) for name in self.classes}
        empty = [name for name, images in by_class.items() if not images]
        if empty or not by_class:
            raise DatasetError(
                f"{root} has {f'class folders without images: {empty[:SHOWN]}' if empty else 'no class folders'}; it must hold "
                f"one folder per class with images in it ({', '.join(IMAGE_SUFFIXES)})"
            )
        if loose := sorted(filter(_is_image, files)):
            log.warning(f"left out {len(loose)} images directly in {root}, in no class folder: {loose[:SHOWN]}")
        paths = [root / name / image for name, images in by_class.items() for image in images]
        labels = [label for label, images in enumerate(by_class.values()) for _ in images]
        super().__init__(paths, labels, partial(read_image, mode=mode))


def list_images(folder: Path) -> list[str]:
    """Images in and below a folder, relative to it with forward slashes, in torchvision's order: by folder, then by name.

    Links are followed, hidden files and leftovers are left out; a DatasetError if a folder cannot be listed, or holds itself.
    """
    found: list[str] = []
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = [name for name in folders if not _is_leftover(name)]
        for link in filter(Path.is_symlink, (Path(place, name) for name in folders)):
            if any(link.samefile(above) for above in link.parents):
                raise DatasetError(f"{link} is a link to {link.resolve()}, which holds it: remove the link")
        found += [os.path.join(place, name) for name in filter(_is_image, files)]  # noqa: PTH118
    return [Path(path).relative_to(folder).as_posix() for path in sorted(found, key=os.path.split)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not _is_leftover(name)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name in LEFTOVERS


def _refuse(error: OSError) -> NoReturn:
    raise DatasetError(f"{error.filename} cannot be listed ({error.strerror})") from error
