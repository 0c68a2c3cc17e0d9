"""A user's own images: finding, pairing and reading them, whatever their size and mode."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from experiments.common import Stream, UserError, require, seed_sequence
from experiments.data import IMAGE_SUFFIXES, list_images, read_image

# In an order in which neighbors mix well: the first two are those of a grid.
EXAMPLES = (
    ("sklearn.datasets.images", "flower.jpg"), ("skimage.data", "chelsea.png"), ("skimage.data", "rocket.jpg"),
    ("sklearn.datasets.images", "china.jpg"), ("skimage.data", "coffee.png"), ("skimage.data", "astronaut.png"),
)  # fmt: skip


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The named files, and all images in and below the named folders, in this order; a UserError where there are none."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no file or folder {path.absolute()}")
        images = [path / name for name in sorted(list_images(path))] if path.is_dir() else [path]
        if not images:
            raise UserError(f"There are no images in {path.absolute()}: none ends in {', '.join(IMAGE_SUFFIXES)}")
        found += images
    return found


def example_images() -> list[Path]:
    """Photographs that come with scikit-image and scikit-learn; nothing is downloaded."""
    require("scikit-image", "--examples", "skimage")
    return [Path(str(files(package) / name)) for package, name in EXAMPLES]


def read_pixels(path: Path, *, height: int, width: int, channels: int) -> Tensor:
    """Read an image as (channels, height, width) floats in [0, 1], scaled to cover this size and center-cropped."""
    # Floats without a known range are stretched: here they only have to be visible.
    image = read_image(path, "L" if channels == 1 else "RGB", stretch=True)
    return to_tensor(ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS))


def choose_partners(count: int, seed: int | None) -> list[int]:
    """The partner of each of `count` images, at least two; each is a partner once, and never its own.

    Without a seed it is the next image, of the last one the first; with one, partners are random.
    """
    if count < 2:
        raise UserError(f"Mixing takes at least 2 images, got {count}; name IMAGES, a folder of them, or --examples")
    order = np.arange(count)
    if seed is not None:
        order = np.random.default_rng(seed_sequence(Stream.PARTNERS, seed)).permutation(count)
    partners = np.empty(count, np.int64)
    # One cycle through all images has no fixed point.
    partners[order] = np.roll(order, -1)
    return partners.tolist()
