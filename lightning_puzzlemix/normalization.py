"""The mean and std that images were normalized with: per channel, of a datamodule, and undone for what is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

_WAY_OUT = "pass mean and std in PuzzleMixConfig, or correct the datamodule"
# Rounding to 16 bits and back may leave [0, 1] by so much.
_TOLERANCE = 0.01


def per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """Return (C, 1, 1) float32; filled on the device, as a tensor of the host's numbers would be one more copy a batch."""
    # Of a dtype of their own: torch's default dtype may be another.
    return torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=device) for value in values])


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
        """Return mean and std of each of so many channels.

        Raises:
            ValueError: If they are those of another number of channels.
        """
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
        ``None`` if it has neither, or only one of them, which is said.

    Raises:
        ValueError: If one is something else, or out of its range.
    """
    owner = type(datamodule).__name__
    values = {name: getattr(datamodule, name, None) for name in ("mean", "std")}
    known = [name for name, value in values.items() if value is not None]
    if len(known) < 2:
        if known:
            rank_zero_info(f"the datamodule {owner} has {known[0]} but not both of mean and std, so neither is taken")
        return None
    mean, std = (_numbers(f"the datamodule's {owner}.{name}", value) for name, value in values.items())
    if not all(0 <= value <= 1 for value in mean):
        raise ValueError(
            f"the datamodule's {owner}.mean must lie in [0, 1] pixel units, got {mean}: divide mean and std by the pixels' "
            f"greatest value, {_WAY_OUT}"
        )
    if not all(0 < value <= 1 for value in std):
        raise ValueError(
            f"the datamodule's {owner}.std must be > 0 and at most 1 in [0, 1] pixel units, got {std}: divide mean and std by "
            f"the pixels' greatest value, {_WAY_OUT}"
        )
    return Normalization(mean, std, owner)


def _numbers(what: str, value: Any) -> tuple[float, ...]:
    """Return what may be a number, a sequence, an array or a tensor, with one dimension at most that is not 1."""
    try:
        values = torch.as_tensor(value if isinstance(value, torch.Tensor) else _as_nested_list(value)).double()
        if sum(size != 1 for size in values.shape) > 1 or not values.numel():
            raise ValueError(f"its shape is {tuple(values.shape)}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what} must be one number for each channel, or one for all, got {value!r} ({error}): {_WAY_OUT}"
        ) from error
    # Sixteen bits more than float32 keeps say nothing: 0.1307 and not 0.13070000708.
    numbers = tuple(float(f"{number:.7g}") for number in values.flatten().tolist())
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{what} must be finite, got {numbers}: {_WAY_OUT}")
    return numbers


def _as_nested_list(value: Any) -> Any:
    """Return lists and numbers in place of arrays and of sequences of other kinds, such as those of configurations."""
    if isinstance(value, (str, Mapping)):
        raise TypeError(f"a {type(value).__name__} is no number")
    if hasattr(value, "tolist"):
        return value.tolist()
    return float(value) if not hasattr(value, "__iter__") else [_as_nested_list(each) for each in value]


@dataclass(frozen=True)
class Denormalizer:
    """How images are brought back to [0, 1]: ``image * scale + shift``, each (C, 1, 1).

    Attributes:
        notes: What the reader of the picture must know of it.
    """

    scale: Tensor
    shift: Tensor
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, first: Tensor, second: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> Denormalizer:
        """Undo the normalization by ``mean`` and ``std``; without them, stretch what is not in [0, 1] already.

        Args:
            first: (k, C, H, W) images that will be shown.
            second: (k, C, H, W) others.
            mean: Per-channel mean that they were normalized with.
            std: Per-channel standard deviation.

        Raises:
            ValueError: If only one of ``mean`` and ``std`` is given, or they are not one number a channel.
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
            return cls(torch.tensor(std).float().view(-1, 1, 1), torch.tensor(mean).float().view(-1, 1, 1))
        least = min(float(each.float().nan_to_num().min()) for each in (first, second))
        most = max(float(each.float().nan_to_num().max()) for each in (first, second))
        if least >= -_TOLERANCE and most <= 1 + _TOLERANCE:
            return cls(torch.ones(channels, 1, 1), torch.zeros(channels, 1, 1))
        span = max(most - least, 1e-12)
        scale = torch.full((channels, 1, 1), 1 / span)
        note = f"Without mean and std, black is {least:.2f} and white {most:.2f}: colors are not true."
        return cls(scale, -least * scale, (note,))

    def shown(self, image: Tensor) -> np.ndarray:
        """Return one (C, H, W) image as (H, W, 3) in [0, 1]; as (H, W), their mean, where it has not three channels."""
        pixels = (image.detach().float().cpu() * self.scale + self.shift).nan_to_num().clamp(0, 1)
        return pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels.mean(0).numpy()
