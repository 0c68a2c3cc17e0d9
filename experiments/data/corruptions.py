"""Corrupted test sets in their published layouts (Hendrycks and Dietterich, ICLR 2019), read in place.

CIFAR-10-C and CIFAR-100-C are arrays, Tiny-ImageNet-C and ImageNet-C folders of JPEG files.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.transforms.v2.functional import to_pil_image

from experiments.common import UserError
from experiments.data.base import ImageDataModule
from experiments.data.class_folders import ClassFolders
from experiments.data.splits import ImageList, Split

SEVERITIES = (1, 2, 3, 4, 5)
# The published mean is that of these 15.
PUBLISHED = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost",
    "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
LABELS = "labels.npy"


class CorruptedImages:
    """A corrupted test set in either layout: the types of corruption in `types` (None: all) at the severities 1 to 5.

    Arrays are one `<type>.npy` per type, bytes (5n,H,W,C) with the severities in consecutive blocks of the n test images,
    and `labels.npy` (5n,). Folders are `<type>/<severity>/<class>/*.JPEG` with the class folders of the training images.
    A UserError if they are not there, incomplete or of another data set, as far as it can be told without reading images.
    """

    def __init__(self, root: str | Path, data: ImageDataModule, types: Sequence[str] | None = None) -> None:
        self.root, self.data = Path(root).expanduser().absolute(), data
        arrays = {path.stem for path in self.root.glob("[!.]*.npy") if path.name != LABELS}
        found = arrays or {path.parent.name for path in self.root.glob("[!._]*/[1-5]")}
        # The published ones in their usual order, then others by name.
        there = [name for name in PUBLISHED if name in found] + sorted(found - set(PUBLISHED))
        self.types = there if types is None else list(types)
        self._open = self._open_array if arrays else self._open_folder
        if not found:
            raise UserError(
                f"corruptions.root {self.root} holds no corruption: extract the corrupted images of this data set there, "
                f"<type>.npy and {LABELS} or <type>/<severity>/<class>/*.JPEG, from the links at https://github.com/hendrycks/robustness"
            )
        if missing := [name for name in self.types if name not in found]:
            raise UserError(f"corruptions.types: {root} has no {', '.join(missing)}; it has {', '.join(there)}")
        for name, severity in itertools.product(self.types, SEVERITIES):
            self._open(name, severity)

    def split(self, corruption: str, severity: int) -> Split:
        """The images of one type at one severity, with the evaluation transform."""
        return Split(self._open(corruption, severity), None, self.data.eval_transform())

    def _open_array(self, corruption: str, severity: int) -> ImageList:
        images, labels = (_map_array(self.root / name) for name in (f"{corruption}.npy", LABELS))
        targets, channels = self.data.split("test").targets, self.data.in_channels
        if not np.array_equal(labels, targets * len(SEVERITIES)):
            raise UserError(
                f"{self.root / LABELS} must hold the labels of the {len(targets)} test images five times, got others, of shape "
                f"{labels.shape}: the corrupted images of another data set?"
            )
        if images.dtype != np.uint8 or images.ndim != 4 or (len(images), images.shape[-1]) != (len(labels), channels):
            raise UserError(
                f"{self.root / corruption}.npy must be bytes ({len(labels)},H,W,{channels}), one image per label with the "
                f"data's channels last, got {images.dtype} {images.shape}"
            )
        block = slice(len(targets) * (severity - 1), len(targets) * severity)
        return ImageList(images[block], targets, to_pil_image)

    def _open_folder(self, corruption: str, severity: int) -> ImageList:
        root, train = self.root / corruption / str(severity), self.data.split("train").source
        # Names of the class folders; those of the classes may be words.
        classes = getattr(train, "classes", None) or self.data.class_names
        return ClassFolders(root, self.data.image_mode, classes)


def _map_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no complete array ({error}); download or extract it again") from error
