"""Checks of arguments; every message names the argument, its value and what to pass instead."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

# Weights, means and standard deviations. Energies are float32, 24 bits: where they are a million times those of images in
# [0, 1] with the paper's weights, the saliency of a block is lost in their rounding, long before they overflow to a mask of
# zeros. As the cost of a move it lets no block move on any grid of up to 1000 blocks a side.
LARGEST = 1e6
# (B, classes) soft targets of a batch of 256 are 1 GB then.
MOST_CLASSES = 1_000_000
_CHANNELS = (1, 3, 4)
# The sides of an image differ by less; a signal of one to four channels in width may well be longer.
_WIDEST = 4
_PASSED_THROUGH = (__name__.partition(".")[0], "torch", "pytorch_lightning", "lightning", "lightning_fabric")


def check_real(
    name: str, value: object, *, least: float = -math.inf, most: float = math.inf, above: float | None = None
) -> float:
    """Return a finite number in [``least``, ``most``], greater than ``above`` where that is given, as a float.

    Raises:
        TypeError: If ``value`` is not a number.
        ValueError: If it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        # An integer or fraction beyond 1e308.
        number = math.inf
    if not math.isfinite(number) or not least <= number <= most or (above is not None and number <= above):
        span = f">= {least:g}" if most == math.inf else f"in [{least:g}, {most:g}]"
        raise ValueError(f"{name} must be finite and {span if above is None else f'> {above:g}'}, got {value!r}")
    return number


def check_probability(name: str, value: object) -> float:
    """Return a number in [0, 1] as a float; raises like :func:`check_real`."""
    return check_real(name, value, least=0.0, most=1.0)


def check_weight(name: str, value: object) -> float:
    """Return a weight from 0 to :data:`LARGEST` as a float; raises like :func:`check_real`."""
    number = check_real(name, value, least=0.0)
    if number > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:g}, beyond which float32 loses all else, got {value!r}")
    return number


def check_alpha(value: object) -> float:
    """Return the parameter of lam's Beta distribution, from 1e-6 to 1e6, as a float; raises like :func:`check_real`."""
    number = check_real("alpha", value, above=0.0)
    if number > LARGEST:
        raise ValueError(f"alpha must be at most {LARGEST:g}, where lam is 0.5 in every draw, got {value!r}")
    # Far below, older NumPys (1.24 for one) look for a draw without an end.
    if number < 1 / LARGEST:
        raise ValueError(
            f"alpha must be at least {1 / LARGEST:g}, where lam is 0 or 1 in nearly every draw, got {value!r}"
        )
    return number


def check_bool(name: str, value: object) -> bool:
    """Return ``True`` or ``False``; anything else is a ``TypeError``."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def check_option(name: str, value: object, options: Sequence[str]) -> str:
    """Check that a value is one of several words.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {tuple(options)}, got {value!r}")
    return value


def check_integer(name: str, value: object, *, least: int, most: int | None = None, hint: str = "") -> int:
    """Return an integer from ``least`` to ``most`` as an int.

    Raises:
        TypeError: If ``value`` is not an integer.
        ValueError: If it is out of range; both messages end with ``hint``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}{hint}")
    number = int(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}{hint}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {value!r}{hint}")
    return number


def check_num_classes(num_classes: object) -> int | None:
    """Return a number of classes from 1 to 1,000,000, or ``None``; raises like :func:`check_integer`."""
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral):
        raise TypeError(f"num_classes must be an integer or None, got {num_classes!r}")
    return check_integer("num_classes", num_classes, least=1, most=MOST_CLASSES, hint="; use None to ask the model")


def check_log_images_every(every: object) -> None:
    """Raise a ``ValueError`` unless this is a number of steps, at least 1, or ``None``."""
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(
            f"log_images_every_n_steps must be an integer of at least 1, or None for no images, got {every!r}"
        )


def check_epochs(start: object, stop: object) -> None:
    """Raise a ``ValueError`` unless ``start`` is an epoch (>= 0), and ``stop`` a later one or ``None``."""
    for name, value in (("start_epoch", start), ("stop_epoch", stop)):
        if value is None and name == "stop_epoch":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
    if isinstance(start, int) and isinstance(stop, int) and stop <= start:
        raise ValueError(f"stop_epoch must be greater than start_epoch={start}, got {stop}: no epoch would be mixed")


def check_images(images: Tensor, std: Sequence[float] | None = None) -> None:
    """Check that images are floating point (B, C, H, W) with as many channels as ``std`` has values.

    Raises:
        TypeError: If ``images`` is not a tensor or not floating point.
        ValueError: If its shape does not fit.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of shape (B, C, H, W), got {type(images).__name__}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (B, C, H, W) with no empty dimension, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(
            f"images must be floating point, got {images.dtype}: convert them to [0, 1] floats and normalize them before "
            "mixing, for example with torchvision.transforms.v2.ToDtype(torch.float32, scale=True)"
        )
    if std is not None and len(std) != images.shape[1]:
        raise ValueError(
            f"mean and std have {len(std)} channels (std={tuple(std)}) but images have {images.shape[1]} "
            f"(shape {tuple(images.shape)}): pass one mean and std for each channel"
        )


def check_image_batch(images: Tensor, std: Sequence[float] | None = None) -> None:
    """Check the images of a training batch: :func:`check_images` and :func:`check_channels_first`."""
    check_images(images, std)
    check_channels_first(images)


def check_channels_first(images: Tensor) -> None:
    """Refuse (B, H, W, C) images, which would silently be cut into blocks of rows and channels.

    Images count as such if only their last dimension can be the channels, 1, 3 or 4, and the other two can be the sides:
    both greater, and neither more than four times the other.

    Raises:
        ValueError: If they are.
    """
    if images.ndim != 4:
        return
    _, height, width, channels = images.shape
    if channels not in _CHANNELS or height in _CHANNELS or min(height, width) <= channels:
        return
    if max(height, width) <= _WIDEST * min(height, width):
        raise ValueError(
            f"images must be channels-first (B, C, H, W), got {tuple(images.shape)}, whose last dimension looks like the "
            "channels: give training_step batches with .permute(0, 3, 1, 2), and remove that from forward"
        )


def check_permutation(permutation: Tensor, batch: int) -> None:
    """Check that a permutation holds (B,) integers in [0, B); values are checked only on the CPU, where it costs no transfer.

    Raises:
        TypeError: If ``permutation`` is not an integer tensor.
        ValueError: If its shape or values do not fit.
    """
    if not isinstance(permutation, Tensor) or permutation.dtype not in (torch.int64, torch.int32):
        kind = permutation.dtype if isinstance(permutation, Tensor) else type(permutation).__name__
        raise TypeError(f"permutation must be an integer tensor, got {kind}: use torch.randperm(batch)")
    if permutation.shape != (batch,):
        raise ValueError(f"permutation must have shape ({batch},) like the batch, got {tuple(permutation.shape)}")
    if permutation.device.type == "cpu" and not bool(((permutation >= 0) & (permutation < batch)).all()):
        low, high = permutation.min().tolist(), permutation.max().tolist()
        raise ValueError(f"permutation must lie in [0, {batch - 1}], got values from {low} to {high}")


def describe_value(value: Any) -> str:
    """Describe a value in a few words: dtype and shape of a tensor, the class of anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def shorten(text: str, longest: int) -> str:
    """Cut a text that has more than ``longest`` characters; it then ends with an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def list_names(names: Iterable[str], most: int = 20) -> str:
    """Join up to ``most`` names by commas; where there are more, end with an ellipsis."""
    first = list(islice(iter(names), most + 1))
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")


def warn_caller(message: str) -> None:
    """Warn at the line that called this package, also where that was through torch or Lightning."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_THROUGH:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
