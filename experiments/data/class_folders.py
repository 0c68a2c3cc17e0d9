"""Image files below folders: all of them, or one folder per class."""

import logging
import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from experiments.data.errors import DatasetError, few
from experiments.data.image_reading import read_image
from experiments.data.splits import ImageList

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff")
# Made by file managers, archivers and disks, beside hidden files.
LEFTOVERS = {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}

log = logging.getLogger(__name__)


class ClassFolders(ImageList):
    """The images below `root/<class>/`, at any depth, class by class and in torchvision's order; read on demand.

    Args:
        root: The folder that holds one folder per class.
        mode: "RGB" or "L".
        classes: The classes in the order of their labels; None: the folders, sorted.

    Raises:
        DatasetError: If there are no class folders, or one holds no images.
    """

    def __init__(self, root: Path, mode: str = "RGB", classes: Sequence[str] | None = None) -> None:
        self.root = root
        self.classes = find_classes(root) if classes is None else list(classes)
        files = list_images(root)
        loose = [name for name in files if "/" not in name]
        if not self.classes:
            found = (
                f"{len(loose)} images directly ({few(loose, 3)}) and no class folders" if loose else "no class folders"
            )
            raise DatasetError(
                f"{root} holds {found}: sort the images into {root}{os.sep}<class>{os.sep}, one folder a class"
            )
        if loose:
            log.warning(
                f"left out {len(loose)} images that are directly in {root}, in no class folder: {few(loose, 3)}"
            )
        by_class: dict[str, list[str]] = {name: [] for name in self.classes}
        for file in files:
            by_class.get(file.partition("/")[0], loose).append(file)
        empty = [name for name, members in by_class.items() if not members]
        if empty:
            raise DatasetError(
                f"{root} has class folders without images: {few(empty)}; put images ({', '.join(IMAGE_SUFFIXES)}) into them, "
                "or remove the folders, also in the other parts"
            )
        members = [(root / file, label) for label, name in enumerate(self.classes) for file in by_class[name]]
        super().__init__([path for path, _ in members], [label for _, label in members], partial(read_image, mode=mode))


def find_classes(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones and leftovers are no classes.

    Raises:
        DatasetError: If the folder cannot be listed, or holds broken links, which may be classes.
    """
    entries = _scan(str(root))
    broken = [each.name for each in entries if _is_broken_link(each) and not each.name.lower().endswith(IMAGE_SUFFIXES)]
    if broken:
        raise DatasetError(f"{root} holds broken links: {few(broken)}; repair or remove them, they may be classes")
    return [entry.name for entry in entries if entry.is_dir()]


def check_classes(root: Path, found: Collection[str], expected: Collection[str], owner: str | Path) -> None:
    """Check that a part has the class folders of the training images.

    Raises:
        DatasetError: If the classes differ; the message names those that only one of them has.
    """
    extra, missing = set(found) - set(expected), set(expected) - set(found)
    if extra or missing:
        raise DatasetError(
            f"{root} must hold the same class folders as {owner}; only in {root}: {few(extra) or 'none'}; "
            f"only in {owner}: {few(missing) or 'none'}"
        )


def list_images(folder: Path) -> list[str]:
    """As `find_files`, with a warning about broken files instead of a list of them."""
    files, broken = find_files(folder)
    if broken:
        log.warning(
            f"left out {len(broken)} files of {few([str(folder)])} that are broken links or no files: {few(broken, 3)}"
        )
    return files


def find_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> tuple[list[str], list[str]]:
    """Find files in and below a folder by their suffix, in any case; links are followed.

    Returns:
        The files, and the broken ones (links to nowhere or in circles, pipes), relative to the folder with forward slashes,
        sorted by folder and then by name, as torchvision does. Hidden ones and leftovers are not among them.

    Raises:
        DatasetError: If a folder cannot be listed.
    """
    files: list[str] = []
    broken: list[str] = []

    def visit(place: str, above: tuple[str, ...]) -> None:
        for entry in _scan(place):
            wanted = entry.name.lower().endswith(suffixes)
            if _is_broken_link(entry):
                broken.append(entry.path)
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in above:
                    broken.append(entry.path)
                else:
                    visit(entry.path, (*above, real))
            elif wanted:
                # Reading a pipe or a socket might take forever.
                (files if entry.is_file() else broken).append(entry.path)

    visit(str(folder), (os.path.realpath(folder),))
    found = (sorted(paths, key=os.path.split) for paths in (files, broken))
    files, broken = ([Path(path).relative_to(folder).as_posix() for path in paths] for paths in found)
    return files, broken


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by a program: never an image, never a class."""
    return name.startswith(".") or name in LEFTOVERS


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not Path(entry.path).exists()


def _scan(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder but leftovers, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted((each for each in entries if not is_leftover(each.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be listed ({error.strerror}); check its permissions and its disk"
        ) from error
