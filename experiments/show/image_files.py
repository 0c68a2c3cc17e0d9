"""A user's own pictures: finding them, pairing them, and reading them whatever their size and mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from experiments.common.errors import UserError
from experiments.common.random_streams import Stream, seed_sequence
from experiments.data import IMAGE_SUFFIXES, UnreadableImageError, list_images, read_image

# Of scikit-image and of scikit-learn, in an order in which neighbors mix well: the first two make the grids.
EXAMPLES = ("flower", "chelsea", "rocket", "china", "coffee", "astronaut")


@dataclass(frozen=True)
class Picture:
    """A picture that has not been read yet.

    Args:
        name: What it is called in the result.
        source: Its file, or the picture itself.
    """

    name: str
    source: Path | Image.Image

    def read(self, *, height: int, width: int, channels: int) -> Tensor:
        """Scale the picture so that it covers height x width pixels, and cut the middle out of it.

        Args:
            height: In pixels.
            width: In pixels.
            channels: 1 for gray, 3 for color.

        Returns:
            Floats (channels, height, width) in [0, 1], upright as EXIF says; transparent parts are white.

        Raises:
            UserError: If it is no image.
        """
        mode = "L" if channels == 1 else "RGB"
        fitted = ImageOps.fit(self._open(mode), (width, height), method=Image.Resampling.LANCZOS)
        pixels = np.asarray(fitted, dtype=np.float32) / 255
        return torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1).contiguous()

    def _open(self, mode: str) -> Image.Image:
        if isinstance(self.source, Image.Image):
            return self.source.convert(mode)
        try:
            # Whatever floats stand for: stretched, they can be looked at.
            return read_image(self.source, mode, stretch=True)
        except UnreadableImageError as error:
            raise UserError(str(error)) from error


def find_pictures(places: Sequence[Path]) -> list[Picture]:
    """The named files, and all images in and below the named folders, in this order.

    Raises:
        UserError: If there is no such file, or a folder holds no images.
    """
    pictures: list[Picture] = []
    for place in places:
        if place.is_dir():
            found = [place / image for image in sorted(list_images(place))]
            if not found:
                raise UserError(f"There are no images in {place.absolute()}: none ends in {', '.join(IMAGE_SUFFIXES)}")
        elif place.is_file():
            found = [place]
        else:
            raise UserError(f"There is no file or folder {place.absolute()}")
        pictures += [Picture(path.stem, path) for path in found]
    return pictures


def example_pictures() -> list[Picture]:
    """Photographs that come with scikit-image and scikit-learn, so nothing is downloaded.

    Raises:
        UserError: If scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise UserError(
            "--examples needs scikit-image: pip install scikit-image, or name IMAGES of your own"
        ) from error
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    photographs = {Path(file).stem: image for file, image in zip(found.filenames, found.images, strict=True)}
    arrays = {name: photographs[name] if name in photographs else getattr(data, name)() for name in EXAMPLES}
    return [Picture(name, Image.fromarray(array)) for name, array in arrays.items()]


def choose_partners(count: int, seed: int | None) -> list[int]:
    """The partner of each picture, never itself, everyone being a partner once.

    Args:
        count: Number of pictures.
        seed: None: the next picture, of the last one the first; else random, fixed by this number.

    Raises:
        UserError: If there are fewer than two pictures.
    """
    if count < 2:
        raise UserError(f"Mixing takes at least 2 pictures, got {count}; name more, or a folder of them")
    order = np.arange(count)
    if seed is not None:
        order = np.random.default_rng(seed_sequence(Stream.PARTNERS, seed)).permutation(count)
    partners = np.empty(count, np.int64)
    # Along one circle through all of them, no picture can meet itself.
    partners[order] = np.roll(order, -1)
    return partners.tolist()
