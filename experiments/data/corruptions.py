"""Corrupted test sets in their published layouts (Hendrycks and Dietterich, ICLR 2019), read where they lie.

CIFAR-10-C and CIFAR-100-C are arrays, Tiny-ImageNet-C and ImageNet-C folders of JPEG files.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.common.errors import UserError
from experiments.data.base import ImageDataModule
from experiments.data.errors import few
from experiments.data.image_reading import read_image
from experiments.data.listing import is_leftover, list_files, scan, warn_of_broken
from experiments.data.splits import ImageSource, Source, Split

SEVERITIES = (1, 2, 3, 4, 5)
# The published mean is that of these 15.
PUBLISHED = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
PUBLISHED_AT = "from the links at https://github.com/hendrycks/robustness"
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
LABELS = "labels.npy"


class CorruptedImages(ABC):
    """A corrupted test set: every type of corruption at five severities.

    Args:
        root: Its folder.
        data: The data module whose classes and evaluation transform it shares.

    Raises:
        UserError: If the layout is not the published one.
    """

    layout: str

    def __init__(self, root: Path, data: ImageDataModule) -> None:
        self.root = root
        self.data = data
        if not self.types:
            raise UserError(f"corruptions.root {root.absolute()} holds no corruption: {self.layout}")

    @property
    @abstractmethod
    def types(self) -> list[str]:
        """The types that are there: the published ones in their usual order, then others by name."""

    @abstractmethod
    def check(self, corruption: str) -> None:
        """Look at what can be seen without reading images.

        Raises:
            UserError: If something is missing or does not fit the data module.
        """

    @abstractmethod
    def source(self, corruption: str, severity: int) -> Source:
        """The images of one type at one severity, in 1 to 5, before any transform."""

    def split(self, corruption: str, severity: int) -> Split:
        """The images of one type at one severity, in 1 to 5, as the model wants them."""
        source = self.source(corruption, severity)
        return Split(source, range(len(source.targets)), self.data.eval_transform())


@dataclass
class ArrayBlock(ImageSource):
    """Consecutive images of an array file (N,H,W,C) of bytes, C 1 or 3, opened by each process that reads it.

    Args:
        path: The file.
        start: Index of the first image.
        targets: Classes of the images.
    """

    path: Path
    start: int
    targets: Sequence[int]
    _images: np.ndarray | None = field(default=None, init=False, repr=False)

    def load(self, index: int) -> Image.Image:
        """The image."""
        if self._images is None:
            self._images = load_array(self.path, in_memory=False)
        pixels = np.array(self._images[self.start + index])
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: pickled, it would be copied whole to every loader process."""
        return {**self.__dict__, "_images": None}


class ArrayCorruptions(CorruptedImages):
    """One `<type>.npy` a type, bytes (5n,H,W,C) with the severities in consecutive blocks of n, and `labels.npy` (5n,)."""

    layout = f"it must hold one <type>.npy a corruption, severities in five blocks, and {LABELS}"

    @property
    def types(self) -> list[str]:
        """The types that are there."""
        return _sorted_types(
            path.stem for path in self.root.glob("*.npy") if path.name != LABELS and not is_leftover(path.name)
        )

    @cached_property
    def _targets(self) -> np.ndarray:
        path = self.root / LABELS
        if not path.is_file():
            raise UserError(f"{path.absolute()} is missing: {self.layout}")
        targets = load_array(path)
        if targets.ndim != 1 or len(targets) == 0 or len(targets) % len(SEVERITIES):
            raise UserError(f"{path.absolute()} must hold 5 x n labels, got the shape {targets.shape}")
        if targets.min() < 0 or targets.max() >= self.data.num_classes:
            raise UserError(
                f"{path.absolute()} must hold labels in 0 to {self.data.num_classes - 1}, the data's classes; got "
                f"{targets.min()} to {targets.max()}: the corrupted images of another data set?"
            )
        block = len(targets) // len(SEVERITIES)
        tested = np.asarray(self.data.split("test").targets)
        if len(tested) == block and (targets.reshape(-1, block) != tested).any():
            raise UserError(
                f"{path.absolute()} holds other labels than the test images of the data, which have the same number "
                f"({block}): the corrupted images of another data set?"
            )
        return targets

    def check(self, corruption: str) -> None:
        """Look at the labels and at the shape of the array."""
        path, count = self.root / f"{corruption}.npy", len(self._targets)
        images = load_array(path, in_memory=False)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count:
            raise UserError(
                f"{path.absolute()} must be bytes ({count},H,W,C), one image a label, got {images.dtype} {images.shape}"
            )
        if images.shape[-1] != self.data.in_channels or images.shape[-1] not in (1, 3):
            raise UserError(
                f"{path.absolute()} must have the data's {self.data.in_channels} channels last (1 or 3), got {images.shape}"
            )

    def source(self, corruption: str, severity: int) -> ArrayBlock:
        """One block of an array."""
        block = len(self._targets) // len(SEVERITIES)
        start = block * SEVERITIES.index(severity)
        return ArrayBlock(self.root / f"{corruption}.npy", start, self._targets[start : start + block].tolist())


@dataclass
class ImageFiles(ImageSource):
    """Image files with their classes, read on demand.

    Args:
        paths: The files.
        targets: Their classes.
        mode: Pillow's name of the channels, "RGB" or "L".
    """

    paths: Sequence[Path]
    targets: Sequence[int]
    mode: str = "RGB"

    def load(self, index: int) -> Image.Image:
        """The image.

        Raises:
            UnreadableImageError: If it is none.
        """
        return read_image(self.paths[index], self.mode)


class FolderCorruptions(CorruptedImages):
    """`<type>/<severity>/<class>/*.JPEG`, where the classes are the folders of the training images."""

    layout = "it must hold <type>/<severity>/<class>/*.JPEG with the severities 1 to 5"

    @property
    def types(self) -> list[str]:
        """The types that are there."""
        # Any severity will do: that others are missing is for `check` to say.
        return _sorted_types(
            path.name
            for path in self.root.iterdir()
            if not is_leftover(path.name) and any((path / str(severity)).is_dir() for severity in SEVERITIES)
        )

    @cached_property
    def _classes(self) -> list[str]:
        """Names of the class folders, in the order of the labels."""
        # Class names may be words where the folders are named by WordNet ids.
        source = self.data.split("test").source
        return list(getattr(self.data, "wnids", None) or getattr(source, "classes", None) or self.data.class_names)

    def check(self, corruption: str) -> None:
        """Look for all severities and classes."""
        folder = self.root / corruption
        missing = [str(severity) for severity in SEVERITIES if not (folder / str(severity)).is_dir()]
        if missing:
            raise UserError(f"{folder.absolute()} lacks the severities {', '.join(missing)}: {self.layout}")
        for severity in SEVERITIES:
            part = folder / str(severity)
            found, known = {entry.name for entry in scan(part) if entry.is_dir()}, set(self._classes)
            if found != known:
                unknown, lacking = few(found - known) or "none", few(known - found) or "none"
                raise UserError(
                    f"{part.absolute()} must hold the folders of the data's {len(known)} classes; "
                    f"not among the classes: {unknown}; without a folder: {lacking}"
                )

    def source(self, corruption: str, severity: int) -> ImageFiles:
        """The files of one type at one severity, class by class."""
        folder = self.root / corruption / str(severity)
        paths: list[Path] = []
        targets: list[int] = []
        empty: list[str] = []
        for label, name in enumerate(self._classes):
            listing = list_files(folder / name, IMAGE_SUFFIXES)
            warn_of_broken(folder / name, listing.broken)
            paths += [folder / name / file for file in sorted(listing.files)]
            targets += [label] * len(listing.files)
            empty += [] if listing.files else [name]
        if not paths:
            raise UserError(f"{folder.absolute()} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        if empty:
            raise UserError(f"{folder.absolute()} holds no images of the classes {few(empty)}: an incomplete copy?")
        return ImageFiles(paths, targets, mode="L" if self.data.in_channels == 1 else "RGB")


def open_corruptions(
    root: str | Path, data: ImageDataModule, *, types: Sequence[str] | None = None
) -> tuple[CorruptedImages, list[str]]:
    """Open a corrupted test set of either layout and check it as far as it goes without reading images.

    Args:
        root: Its folder.
        data: The data module, set up, whose test images were corrupted.
        types: The types to use; None: all that are there.

    Returns:
        The set and the types to use.

    Raises:
        UserError: If it is not there, not in its layout, not of this data set, or lacks a type.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"corruptions.root must be a folder, got {root}: there is no {folder.absolute()}; corrupted images are not "
            f"downloaded: extract those of this data set there, {PUBLISHED_AT}"
        )
    kind = ArrayCorruptions if any(folder.glob("*.npy")) else FolderCorruptions
    corrupted = kind(folder, data)
    lacking = [name for name in types or [] if name not in corrupted.types]
    if lacking:
        raise UserError(
            f"corruptions.types: {folder.absolute()} has no {', '.join(lacking)}; it has {', '.join(corrupted.types)}"
        )
    chosen = corrupted.types if types is None else list(types)
    for name in chosen:
        corrupted.check(name)
    return corrupted, chosen


def load_array(path: Path, *, in_memory: bool = True) -> np.ndarray:
    """The array of a file, read or only opened.

    Raises:
        UserError: If it is no whole array.
    """
    try:
        return np.load(path, mmap_mode=None if in_memory else "r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path.absolute()} is no whole array ({error}); download or extract it again") from error


def _sorted_types(names: Iterable[str]) -> list[str]:
    found = set(names)
    return [name for name in PUBLISHED if name in found] + sorted(found - set(PUBLISHED))
