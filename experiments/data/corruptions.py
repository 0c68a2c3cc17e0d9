"""Corrupted test sets in their published layouts (Hendrycks and Dietterich, ICLR 2019), read in place.

CIFAR-10-C and CIFAR-100-C are arrays, Tiny-ImageNet-C and ImageNet-C folders of JPEG files.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.common import UserError
from experiments.data.base import ImageDataModule
from experiments.data.class_folders import ClassFolders, check_classes, find_classes, is_leftover
from experiments.data.splits import ImageList, Source, Split

SEVERITIES = (1, 2, 3, 4, 5)
# The published mean is that of these 15.
PUBLISHED = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost",
    "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
URL = "https://github.com/hendrycks/robustness"
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
        self.root = root.absolute()
        self.data = data
        found = {name for name in self._find_types() if not is_leftover(name)}
        # The published ones in their usual order, then others by name.
        self.types = [name for name in PUBLISHED if name in found] + sorted(found - set(PUBLISHED))
        if not self.types:
            raise UserError(f"corruptions.root {self.root} holds no corruption: {self.layout}")

    @abstractmethod
    def _find_types(self) -> Iterable[str]:
        """Names of the types that are there."""

    @abstractmethod
    def check(self, corruption: str) -> None:
        """Check what can be checked without reading images; a UserError if it is incomplete or of another data set."""

    @abstractmethod
    def source(self, corruption: str, severity: int) -> Source:
        """The images of one type at one severity, in 1 to 5, before any transform."""

    def split(self, corruption: str, severity: int) -> Split:
        """The images of one type at one severity, in 1 to 5, with the evaluation transform."""
        return Split(self.source(corruption, severity), None, self.data.eval_transform())


class ArrayCorruptions(CorruptedImages):
    """One `<type>.npy` per type, bytes (5n,H,W,C) with the severities in consecutive blocks of n, and `labels.npy` (5n,)."""

    layout = f"it must hold one <type>.npy per corruption, severities in five blocks, and {LABELS}"

    def _find_types(self) -> Iterable[str]:
        return (path.stem for path in self.root.glob("*.npy") if path.name != LABELS)

    @cached_property
    def _targets(self) -> np.ndarray:
        path = self.root / LABELS
        targets, classes = load_array(path), self.data.num_classes
        if targets.ndim != 1 or len(targets) == 0 or len(targets) % len(SEVERITIES):
            raise UserError(f"{path} must hold 5 x n labels, got the shape {targets.shape}")
        blocks = targets.reshape(len(SEVERITIES), -1)
        tested = np.asarray(self.data.split("test").targets)
        in_range = targets.min() >= 0 and targets.max() < classes
        if not in_range or (len(tested) == blocks.shape[1] and (blocks != tested).any()):
            raise UserError(
                f"{path} must hold the labels of the test images, in 0 to {classes - 1}; got {blocks.shape[1]} others, from "
                f"{targets.min()} to {targets.max()}: the corrupted images of another data set?"
            )
        return targets

    def check(self, corruption: str) -> None:
        """Check the labels and the shape of the array."""
        path, count, channels = self.root / f"{corruption}.npy", len(self._targets), self.data.in_channels
        images = load_array(path)
        if images.dtype != np.uint8 or images.ndim != 4 or (len(images), images.shape[-1]) != (count, channels):
            raise UserError(
                f"{path} must be bytes ({count},H,W,{channels}), one image per label with the data's channels last, got "
                f"{images.dtype} {images.shape}"
            )

    def source(self, corruption: str, severity: int) -> Source:
        """One block of an array."""
        block = len(self._targets) // len(SEVERITIES)
        rows = range(block * (severity - 1), block * severity)
        return ImageList(rows, self._targets[rows].tolist(), partial(_read_row, self.root / f"{corruption}.npy"))


class FolderCorruptions(CorruptedImages):
    """`<type>/<severity>/<class>/*.JPEG`, where the classes are the folders of the training images."""

    layout = "it must hold <type>/<severity>/<class>/*.JPEG with the severities 1 to 5"

    def _find_types(self) -> Iterable[str]:
        # Any severity is enough: `check` reports missing ones.
        return (path.parent.name for path in self.root.glob("*/[1-5]") if path.is_dir())

    @cached_property
    def _classes(self) -> list[str]:
        """Names of the class folders, in the order of the labels; class names may be words."""
        source = self.data.split("test").source
        return list(getattr(self.data, "wnids", None) or getattr(source, "classes", None) or self.data.class_names)

    def check(self, corruption: str) -> None:
        """Check that all severities and classes are there."""
        folders = [self.root / corruption / str(severity) for severity in SEVERITIES]
        missing = [folder.name for folder in folders if not folder.is_dir()]
        if missing:
            raise UserError(f"{self.root / corruption} lacks the severities {', '.join(missing)}: {self.layout}")
        for folder in folders:
            check_classes(folder, find_classes(folder), self._classes, "the data")

    def source(self, corruption: str, severity: int) -> Source:
        """The files of one type at one severity, class by class."""
        return ClassFolders(self.root / corruption / str(severity), self.data.image_mode, self._classes)


def open_corruptions(
    root: str | Path, data: ImageDataModule, *, types: Sequence[str] | None = None
) -> tuple[CorruptedImages, list[str]]:
    """Open a corrupted test set of either layout and check it as far as possible without reading images.

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
            f"downloaded: extract those of this data set there, from the links at {URL}"
        )
    kind = ArrayCorruptions if any(folder.glob("*.npy")) else FolderCorruptions
    corrupted = kind(folder, data)
    missing = [name for name in types or [] if name not in corrupted.types]
    if missing:
        raise UserError(f"corruptions.types: {folder} has no {', '.join(missing)}; it has {', '.join(corrupted.types)}")
    chosen = corrupted.types if types is None else list(types)
    for name in chosen:
        corrupted.check(name)
    return corrupted, chosen


def load_array(path: Path) -> np.ndarray:
    """Open the array of a file, which stays on disk; a UserError if it is no complete array."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no complete array ({error}); download or extract it again") from error


# Each loader process opens an array once.
_open_array = lru_cache(maxsize=1)(load_array)


def _read_row(path: Path, row: int) -> Image.Image:
    pixels = np.array(_open_array(path)[row])
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
