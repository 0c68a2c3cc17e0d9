"""Finding the images in and below a folder, and what is in the way."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from experiments.data.errors import DatasetError, few, printable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff")
# What file managers, archivers and disks leave behind, beside hidden files.
LEFTOVERS = {"__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}

log = logging.getLogger(__name__)


@dataclass
class Listing:
    """What a folder holds.

    Args:
        files: The files looked for, relative to the folder, with forward slashes.
        broken: Links that lead nowhere or in circles, and what is no file although it is called one; likewise.
        others: Number of other files, by ending.
    """

    files: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by a program: never an image, never a class."""
    return name.startswith(".") or name in LEFTOVERS


def list_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Listing:
    """Look for the files that end in one of `suffixes`, whatever the case, in and below a folder; links are followed.

    Raises:
        DatasetError: If a folder cannot be listed.
    """
    listing = Listing()
    _fill(listing, folder, "", suffixes, (os.path.realpath(folder),))
    return listing


def _fill(listing: Listing, folder: Path, prefix: str, suffixes: tuple[str, ...], ancestors: tuple[str, ...]) -> None:
    for entry in scan(folder):
        name = prefix + entry.name
        if entry.is_symlink() and not _leads_somewhere(entry):
            listing.broken.append(name)
        elif entry.is_dir():
            place = os.path.realpath(entry.path)
            if place in ancestors:
                listing.broken.append(name)
            else:
                _fill(listing, Path(entry.path), f"{name}/", suffixes, (*ancestors, place))
        elif not entry.name.lower().endswith(suffixes):
            ending = Path(entry.name).suffix.lower() or "no ending"
            listing.others[ending] = listing.others.get(ending, 0) + 1
        elif entry.is_file():
            listing.files.append(name)
        else:
            # A pipe or a socket, which to read might take for ever.
            listing.broken.append(name)


def _leads_somewhere(link: os.DirEntry[str]) -> bool:
    try:
        link.stat()
    except OSError:
        return False
    return True


def scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, without leftovers.

    Raises:
        DatasetError: If it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_leftover(entry.name)]
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be listed ({error.strerror}); look at its permissions and its disk"
        ) from error
    return iter(found)


def warn_of_broken(folder: Path, broken: list[str]) -> None:
    """Say which images were left out, if any."""
    if broken:
        named = printable(str(folder))
        log.warning(
            f"left out {len(broken)} files of {named} that are no files or links that lead nowhere: {few(broken, 3)}"
        )
