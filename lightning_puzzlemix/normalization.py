"""The mean and std that images were normalized with, as a datamodule keeps them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info

_WAY_OUT = "pass mean and std in PuzzleMixConfig, or correct the datamodule"


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
