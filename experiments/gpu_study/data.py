"""CIFAR-100 from archives of image files, held on the device as bytes and augmented there."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
PADDING = 4


def read_images(sources: Sequence[Path]) -> dict[str, np.ndarray]:
    """Read `.../train/<class>/<image>` and `.../test/<class>/<image>` from zip archives.

    Returns "train_images" and "test_images", (N,3,32,32) bytes, with "train_classes" and "test_classes", (N,) integers.
    """
    content: dict[str, bytes] = {}
    for source in sources:
        with zipfile.ZipFile(source) as archive:
            content |= {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    parts = [
        sorted(name for name in content if PurePosixPath(name).parts[-3:-2] == (part,)) for part in ("train", "test")
    ]
    train, test = (sorted({PurePosixPath(name).parent.name for name in names}) for names in parts)
    if not train or train != test:
        raise ValueError(
            f"{', '.join(map(str, sources))} must hold train/<class>/ and test/<class>/ of the same classes, got {len(train)} "
            f"and {len(test)} of them"
        )

    def decode(name: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content[name])).convert("RGB")).transpose(2, 0, 1)

    arrays = {}
    with ThreadPoolExecutor() as pool:
        for part, names in zip(("train", "test"), parts, strict=True):
            arrays[f"{part}_images"] = np.stack(list(pool.map(decode, names)))
            arrays[f"{part}_classes"] = np.array([train.index(PurePosixPath(name).parent.name) for name in names])
    return arrays


def normalize(images: Tensor) -> Tensor:
    """Map bytes to normalized floats, channels last in memory."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


class DeviceBatches:
    """Shuffled, flipped and randomly cropped batches of (N,C,H,W) bytes on a device; an epoch leaves out the last few."""

    def __init__(self, images: Tensor, classes: Tensor, batch_size: int, seed: int) -> None:
        self.images, self.classes, self.batch_size = images, classes, batch_size
        self._generator = torch.Generator(images.device).manual_seed(seed)

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self._generator, device=self.images.device)
        for chosen in order[: len(self) * self.batch_size].split(self.batch_size):
            yield normalize(self._augment(self.images[chosen])), self.classes[chosen]

    def _augment(self, images: Tensor) -> Tensor:
        (batch, _, height, width), device, generator = images.shape, images.device, self._generator
        offsets = torch.randint(2 * PADDING + 1, (2, batch, 1), generator=generator, device=device)
        is_flipped = torch.randint(2, (batch, 1), generator=generator, device=device, dtype=torch.bool)
        rows, cols = torch.arange(height, device=device), torch.arange(width, device=device)
        rows, cols = offsets[0] + rows, offsets[1] + torch.where(is_flipped, width - 1 - cols, cols)
        samples = torch.arange(batch, device=device)[:, None, None]
        # An index in front of the channels puts them last.
        return F.pad(images, [PADDING] * 4)[samples, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
