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

# Of scikit-image and of scikit-learn, in an order in which neighbors mix well: the first two are those of a grid.
EXAMPLES = ("flower", "chelsea", "rocket", "china", "coffee", "astronaut")


@dataclass(frozen=True)
class SourceImage:
    """An image that has not been read yet: its name in the plot, and its file or the image itself."""

    name: str
    source: Path | Image.Image

    def read(self, *, height: int, width: int, channels: int) -> Tensor:
        """Read the image, scaled to cover height x width pixels and center-cropped.

        Returns:
            Floats (channels, height, width) in [0, 1], upright according to EXIF; transparent parts are white.

        Raises:
            UserError: If it is no image.
        """
        mode = "L" if channels == 1 else "RGB"
        # Floats without a known range are stretched: here they only have to be visible.
        image = (
            read_image(self.source, mode, stretch=True) if isinstance(self.source, Path) else self.source.convert(mode)
        )
        fitted = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
        pixels = np.asarray(fitted, dtype=np.float32) / 255
        return torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1).contiguous()


def find_images(paths: Sequence[Path]) -> list[SourceImage]:
    """Return the named files, and all images in and below the named folders, in this order.

    Raises:
        UserError: If there is no such file, or a folder holds no images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(list_images(path))
            if not found:
                raise UserError(f"There are no images in {path.absolute()}: none ends in {', '.join(IMAGE_SUFFIXES)}")
            files += [path / name for name in found]
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"There is no file or folder {path.absolute()}")
    return [SourceImage(file.stem, file) for file in files]


def example_images() -> list[SourceImage]:
    """Return photographs that come with scikit-image and scikit-learn; nothing is downloaded.

    Raises:
        UserError: If scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise UserError("--examples needs scikit-image: pip install scikit-image, or name IMAGES") from error
    from sklearn.datasets import load_sample_image

    ours = {name: load_sample_image(f"{name}.jpg") for name in ("flower", "china")}
    return [
        SourceImage(name, Image.fromarray(ours[name] if name in ours else getattr(data, name)())) for name in EXAMPLES
    ]


def choose_partners(count: int, seed: int | None) -> list[int]:
    """Return the partner of each of `count` images; each is a partner once, and never its own.

    Args:
        count: Number of images.
        seed: None: the next image, of the last one the first. Otherwise partners are random, determined by the seed.

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
