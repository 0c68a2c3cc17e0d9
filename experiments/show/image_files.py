"""A user's own images: finding, pairing and reading them, whatever their size and mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from experiments.common import Stream, UserError, seed_sequence
from experiments.data import IMAGE_SUFFIXES, list_images, read_image


@dataclass(frozen=True)
class SourceImage:
    """An image that has not been read yet: its name in the plot, and its file or the image itself."""

    name: str
    source: Path | Image.Image

    def read(self, *, height: int, width: int, channels: int) -> Tensor:
        """Read the image as (channels, height, width) floats in [0, 1], scaled to cover this size and center-cropped.

        Raises:
            UserError: If it is no image.
        """
        mode = "L" if channels == 1 else "RGB"
        is_file = isinstance(self.source, Path)
        # Floats without a known range are stretched: here they only have to be visible.
        image = read_image(self.source, mode, stretch=True) if is_file else self.source.convert(mode)
        fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
        pixels = np.asarray(fitted, dtype=np.float32) / 255
        return torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1).contiguous()


def find_images(paths: Sequence[Path]) -> list[SourceImage]:
    """Find the named files, and all images in and below the named folders, in this order.

    Raises:
        UserError: If there is no such file, or a folder holds no images.
    """
    files: list[Path] = []
    for path in paths:
        found = [path / name for name in sorted(list_images(path))] if path.is_dir() else [path]
        if not found:
            raise UserError(f"There are no images in {path.absolute()}: none ends in {', '.join(IMAGE_SUFFIXES)}")
        if not path.exists():
            raise UserError(f"There is no file or folder {path.absolute()}")
        files += found
    return [SourceImage(file.stem, file) for file in files]


def example_images() -> list[SourceImage]:
    """Return photographs that come with scikit-learn and scikit-image; the first two are those of a grid.

    Raises:
        UserError: If scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise UserError("--examples needs scikit-image: pip install scikit-image, or name IMAGES") from error
    from sklearn.datasets import load_sample_image

    flower, china = (load_sample_image(f"{name}.jpg") for name in ("flower", "china"))
    # In an order in which neighbors mix well.
    photographs = {"flower": flower, "chelsea": data.chelsea(), "rocket": data.rocket(), "china": china}
    photographs |= {"coffee": data.coffee(), "astronaut": data.astronaut()}
    return [SourceImage(name, Image.fromarray(pixels)) for name, pixels in photographs.items()]


def choose_partners(count: int, seed: int | None) -> list[int]:
    """Return the partner of each of `count` images; each is a partner once, and never its own.

    Without a seed it is the next image, of the last one the first; else partners are random, determined by the seed.

    Raises:
        UserError: If there are fewer than two images.
    """
    if count < 2:
        raise UserError(f"Mixing takes at least 2 images, got {count}; name more, or a folder of them")
    order = np.arange(count)
    if seed is not None:
        order = np.random.default_rng(seed_sequence(Stream.PARTNERS, seed)).permutation(count)
    partners = np.empty(count, np.int64)
    # One cycle through all images has no fixed point.
    partners[order] = np.roll(order, -1)
    return partners.tolist()
