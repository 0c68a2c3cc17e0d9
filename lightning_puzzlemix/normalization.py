"""The mean and std that images were normalized with: checked, looked up in a datamodule, undone and applied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_puzzlemix.validation import LARGEST

# Below this a standard deviation is finer than 16-bit pixels, and its inverse is out of range.
SMALLEST_STD = 1e-6
_WAY_OUT = "pass mean and std in PuzzleMixConfig, or correct the datamodule"
# Rounding to 16 bits and back may leave [0, 1] by so much.
_TOLERANCE = 0.01

PerChannel = Sequence[float]


def to_pixels(images: Tensor, mean: PerChannel | None, std: PerChannel | None) -> Tensor:
    """Undo the normalization of (..., C, H, W) images; without mean and std they are in [0, 1] already."""
    if mean is None or std is None:
        return images
    return images * _per_channel(tuple(std), images.device) + _per_channel(tuple(mean), images.device)


def from_pixels(pixels: Tensor, mean: PerChannel | None, std: PerChannel | None) -> Tensor:
    """Normalize (..., C, H, W) images in [0, 1]; the inverse of :func:`to_pixels`."""
    if mean is None or std is None:
        return pixels
    return (pixels - _per_channel(tuple(mean), pixels.device)) / _per_channel(tuple(std), pixels.device)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return (C, 1, 1) float32, made once; filled on the device, since a copy of numbers from the host would wait for it."""
    # A tensor made in inference mode could not be used outside of it.
    with torch.inference_mode(False):
        return torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=device) for value in values])


def check_normalization(mean: Any, std: Any) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and std as tuples, or ``None`` for both.

    Raises:
        TypeError: If one is not a sequence of numbers.
        ValueError: If only one is given, their lengths differ, or a value is out of range.
    """
    if (mean is None) != (std is None):
        missing, name, given = ("mean", "std", std) if mean is None else ("std", "mean", mean)
        raise ValueError(
            f"{missing} is missing while {name}={given!r} is given: pass both, as the images were normalized, or neither "
            "for images in [0, 1]"
        )
    if mean is None:
        return None, None
    means, stds = (_check_per_channel(name, values) for name, values in (("mean", mean), ("std", std)))
    if len(means) != len(stds):
        raise ValueError(
            f"mean and std must be equally long, got {len(means)} and {len(stds)} values: mean={means}, std={stds}"
        )
    if min(stds) < SMALLEST_STD:
        raise ValueError(f"std must be > 0 in every channel, at least {SMALLEST_STD:g}, got {stds}")
    return means, stds


def _check_per_channel(name: str, values: Any) -> tuple[float, ...]:
    try:
        lists = _as_lists(values)
        if not isinstance(lists, list):
            raise TypeError("it is a single number")
        numbers = _numbers(lists) if lists else ()
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be a sequence of one number per channel, got {values!r}") from error
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must hold one finite number per channel, got {numbers}")
    if max(map(abs, numbers)) > LARGEST:
        raise ValueError(f"{name} must be in [0, 1] pixel units, at most {LARGEST:g} in size, got {numbers}")
    return numbers


def _numbers(value: Any) -> tuple[float, ...]:
    """Return the numbers of a number, sequence, array or tensor that has at most one dimension other than 1."""
    array = np.asarray(_as_lists(value), np.float64)
    if sum(size != 1 for size in array.shape) > 1 or not array.size:
        raise ValueError(f"its shape is {array.shape}")
    return tuple(array.ravel().tolist())


def _as_lists(value: Any) -> Any:
    """Return nested lists of floats in place of arrays, tensors and sequences of any kind."""
    # A set or dict has no order that a channel could be told by.
    if isinstance(value, (str, bytes, bool, Mapping, Set)):
        raise TypeError(f"a {type(value).__name__} is not a number")
    if hasattr(value, "tolist"):
        return _as_lists(value.tolist())
    return [_as_lists(each) for each in value] if hasattr(value, "__iter__") else float(value)


class Normalization(NamedTuple):
    """Mean and std of a datamodule, with one number for each channel, or one for all of them.

    Attributes:
        mean: In [0, 1] pixel units.
        std: Each > 0 and at most 1.
        owner: Name of the datamodule's class.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    owner: str

    def of_channels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of each of ``channels`` channels; a ``ValueError`` if they have another number of channels."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"the datamodule's {self.owner}.{name} holds {len(values)} numbers, {values}, but the images have "
                    f"{channels} channels: {_WAY_OUT}"
                )
        return self.mean * (channels // len(self.mean)), self.std * (channels // len(self.std))


def datamodule_normalization(datamodule: Any) -> Normalization | None:
    """Return the mean and std of a datamodule: numbers, sequences, arrays or tensors such as (C, 1, 1).

    Args:
        datamodule: Anything with the attributes ``mean`` and ``std``; ``None`` where there is none.

    Returns:
        ``None`` if it has neither, or only one of them, which is logged.
    """
    owner = type(datamodule).__name__
    values = {name: getattr(datamodule, name, None) for name in ("mean", "std")}
    known = [name for name, value in values.items() if value is not None]
    if len(known) < 2:
        if known:
            rank_zero_info(f"the datamodule {owner} has {known[0]} but not both of mean and std, so neither is used")
        return None
    mean, std = (_datamodule_numbers(f"the datamodule's {owner}.{name}", value) for name, value in values.items())
    scale = f"divide mean and std by the largest pixel value, {_WAY_OUT}"
    if not all(0 <= value <= 1 for value in mean):
        raise ValueError(f"the datamodule's {owner}.mean must lie in [0, 1] pixel units, got {mean}: {scale}")
    if not all(0 < value <= 1 for value in std):
        raise ValueError(
            f"the datamodule's {owner}.std must be > 0 and at most 1 in [0, 1] pixel units, got {std}: {scale}"
        )
    return Normalization(mean, std, owner)


def _datamodule_numbers(what: str, value: Any) -> tuple[float, ...]:
    try:
        # float32 holds 7 digits: 0.1307 and not 0.13070000708.
        numbers = tuple(float(f"{number:.7g}") for number in _numbers(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{what} must be one number for each channel, or one for all, got {value!r} ({error}): {_WAY_OUT}"
        ) from error
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{what} must be finite, got {numbers}: {_WAY_OUT}")
    return numbers


@dataclass(frozen=True)
class Denormalizer:
    """Brings images back to [0, 1] for a plot.

    Attributes:
        mean: Per channel; ``None`` for images in [0, 1].
        std: Per channel.
        notes: What the reader of the plot must know.
    """

    mean: PerChannel | None
    std: PerChannel | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, first: Tensor, second: Tensor, mean: PerChannel | None, std: PerChannel | None) -> Denormalizer:
        """Undo the normalization by ``mean`` and ``std``; without them, stretch images that are not in [0, 1] already.

        Args:
            first: (k, C, H, W) images that will be shown.
            second: (k, C, H, W) others.
            mean: Per-channel mean that they were normalized with.
            std: Per-channel standard deviation.

        Raises:
            ValueError: If only one of ``mean`` and ``std`` is given, or they are not one number per channel.
        """
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std must be given both or neither, got mean={mean} and std={std}")
        channels = first.shape[1]
        if mean is not None and std is not None:
            if not len(mean) == len(std) == channels:
                raise ValueError(
                    f"mean and std must hold one number per channel: the images have {channels}, mean has {len(mean)} and "
                    f"std {len(std)}"
                )
            return cls(mean, std)
        least = min(float(each.float().nan_to_num().min()) for each in (first, second))
        most = max(float(each.float().nan_to_num().max()) for each in (first, second))
        if least >= -_TOLERANCE and most <= 1 + _TOLERANCE:
            return cls(None, None)
        span = max(most - least, 1e-12)
        note = f"Without mean and std, black is {least:.2f} and white {most:.2f}: colors are not true."
        return cls((-least / span,) * channels, (1 / span,) * channels, (note,))

    def shown(self, image: Tensor) -> np.ndarray:
        """Return one (C, H, W) image as (H, W, 3) in [0, 1]; as (H, W), their mean, where it does not have three channels."""
        pixels = to_pixels(image.detach().float().cpu(), self.mean, self.std).nan_to_num().clamp(0, 1)
        return pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels.mean(0).numpy()
