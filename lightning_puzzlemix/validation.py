"""What is asked of the arguments of the mixing; every message names the argument, its value and the way out."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.config import (
    LARGEST,
    MOST_BLOCKS,
    MOST_CLASSES,
    MOST_MOVING_BLOCKS,
    PuzzleMixConfig,
    check_integer,
)

# Averages over cells may leave [0, 1] a little: some augmentations paste noise. Beyond this the normalization is wrong.
_CHANNELS = (1, 3, 4)
# The sides of a picture differ by less; a signal of one to four channels in width may well be longer.
_WIDEST = 4
_PIXEL_TOLERANCE = 0.25
_NO_SALIENCY = (
    "saliency is zero, NaN or infinite everywhere in a whole batch, so that the mix does not go by it (every pixel counts the "
    "same). Either the loss does not depend on the images, as where a layer is dead or saturated, or gradients overflow, as in "
    "float16: look at the model, pass saliency_loss, or saliency_precision='32-true'"
)
_warned_normalizations: set[tuple[object, object]] = set()


def check_images(images: Tensor, config: PuzzleMixConfig) -> None:
    """Ask for floating point (B, C, H, W) images with as many channels as the normalization has.

    Raises:
        TypeError: If ``images`` is no tensor or not of a floating point dtype.
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
    if config.std is not None and len(config.std) != images.shape[1]:
        raise ValueError(
            f"mean and std have {len(config.std)} channels (std={tuple(config.std)}) but images have {images.shape[1]} "
            f"(shape {tuple(images.shape)}): pass one mean and std for each channel"
        )


def check_num_classes(num_classes: object) -> int | None:
    """Return a number of classes, from 1 to 1,000,000, or ``None``.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it lies outside that range.
    """
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral):
        raise TypeError(f"num_classes must be an integer or None, got {num_classes!r}")
    return check_integer("num_classes", num_classes, least=1, most=MOST_CLASSES, hint="; use None to ask the model")


def check_permutation(permutation: Tensor, batch: int) -> None:
    """Ask for (B,) integers in [0, B); the range is looked at where that costs no transfer, on the host.

    Raises:
        TypeError: If ``permutation`` is not an integer tensor.
        ValueError: If its shape or its values do not fit.
    """
    if not isinstance(permutation, Tensor) or permutation.dtype not in (torch.int64, torch.int32):
        kind = permutation.dtype if isinstance(permutation, Tensor) else type(permutation).__name__
        raise TypeError(f"permutation must be an integer tensor, got {kind}: use torch.randperm(batch)")
    if permutation.shape != (batch,):
        raise ValueError(f"permutation must have shape ({batch},) like the batch, got {tuple(permutation.shape)}")
    if permutation.device.type == "cpu" and not bool(((permutation >= 0) & (permutation < batch)).all()):
        low, high = permutation.min().tolist(), permutation.max().tolist()
        raise ValueError(f"permutation must lie in [0, {batch - 1}], got values from {low} to {high}")


def check_lam(lam: object, batch: int) -> None:
    """Ask for a number in [0, 1] or (B,) floats; the values of a tensor are looked at on the host later.

    Raises:
        TypeError: If ``lam`` is neither.
        ValueError: If it lies outside [0, 1] or has the wrong shape.
    """
    if isinstance(lam, Tensor):
        if not lam.is_floating_point():
            raise TypeError(f"lam must be floating point, got {lam.dtype}")
        if lam.shape not in ((), (1,), (batch,)):
            raise ValueError(f"lam must be one number or have shape ({batch},), got shape {tuple(lam.shape)}")
    elif isinstance(lam, bool) or not isinstance(lam, Real):
        raise TypeError(f"lam must be a number in [0, 1] or a tensor of {batch} of them, got {lam!r}")
    else:
        _check_lam_values(np.asarray(lam, np.float64))


def _check_lam_values(lam: np.ndarray) -> None:
    if not ((lam >= 0) & (lam <= 1)).all():
        shown = lam if lam.ndim == 0 else lam[~((lam >= 0) & (lam <= 1))][0]
        raise ValueError(f"lam must lie in [0, 1], got {shown}")


def check_mix_inputs(
    images: Tensor,
    saliency: Tensor,
    permutation: Tensor,
    lam: float | Tensor,
    blocks_per_side: int,
    config: PuzzleMixConfig,
) -> None:
    """Check all arguments of :func:`lightning_puzzlemix.puzzle_mix`.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If shapes do not fit together or a value lies outside its range.
    """
    check_images(images, config)
    batch, _, height, width = images.shape
    if not isinstance(saliency, Tensor) or not saliency.is_floating_point():
        kind = saliency.dtype if isinstance(saliency, Tensor) else type(saliency).__name__
        raise TypeError(f"saliency must be a floating point tensor of shape (B, H, W), got {kind}")
    if saliency.shape != (batch, height, width):
        raise ValueError(
            f"saliency must have shape {(batch, height, width)}, one value a pixel of images {tuple(images.shape)}, got "
            f"{tuple(saliency.shape)}: reduce channels with saliency.square().mean(1).sqrt()"
        )
    if saliency.device != images.device:
        raise ValueError(f"saliency must lie on the images' device {images.device}, got {saliency.device}")
    check_permutation(permutation, batch)
    check_lam(lam, batch)
    if check_integer("blocks_per_side", blocks_per_side, least=1) > min(height, width):
        raise ValueError(
            f"blocks_per_side must be at least 1 and at most the shorter image side {min(height, width)}, got "
            f"{blocks_per_side}: choose smaller grid_sizes"
        )
    check_integer("blocks_per_side", blocks_per_side, least=1, most=MOST_BLOCKS, hint=": choose smaller grid_sizes")


def check_moving_blocks(grid: tuple[int, int], images: Tensor, config: PuzzleMixConfig) -> None:
    """Ask for no more moving blocks than can be matched in reasonable time and memory.

    Raises:
        ValueError: If there are more.
    """
    if config.transport and max(grid) > MOST_MOVING_BLOCKS:
        raise ValueError(
            f"transport_size={config.transport_size} cuts images {tuple(images.shape)} into {grid[0]} x {grid[1]} moving "
            f"blocks, where {MOST_MOVING_BLOCKS} a side are the most: use a transport_size of at least "
            f"{-(-max(images.shape[2:]) // MOST_MOVING_BLOCKS)}, or None"
        )


def check_on_host(extremes: np.ndarray, lam: float | np.ndarray, config: PuzzleMixConfig) -> None:
    """Check values that are only known once the batch's one copy has arrived.

    Args:
        extremes: (B, 4): least and greatest cell average of the un-normalized image, least and greatest saliency.
        lam: Share of the first image, one or (B,).
        config: The normalization that was undone.

    Raises:
        ValueError: If lam lies outside [0, 1], an image holds NaN, infinity or values out of all proportion, or a saliency
            is negative.
    """
    _check_lam_values(np.asarray(lam))
    bad = np.flatnonzero(~np.isfinite(extremes[:, :2]).all(1))
    if bad.size:
        raise ValueError(
            f"images hold NaN or infinity in {bad.size} of {len(extremes)} samples, first in sample {bad[0]}: look at the "
            "data or its transforms (averages beyond 3e38 count as infinite)"
        )
    # Float32 energies would lose the saliency beside such differences, and overflow further on.
    huge = np.flatnonzero(np.abs(extremes[:, :2]).max(1) > LARGEST)
    if huge.size:
        low, high = extremes[huge[0], :2]
        raise ValueError(
            f"images un-normalized with mean={config.mean}, std={config.std} must lie near [0, 1], at most {LARGEST:g} in "
            f"size, got [{low:.4g}, {high:.4g}] in sample {huge[0]}: look at the data, or pass the mean and std that they were "
            "normalized with"
        )
    negative = np.flatnonzero(extremes[:, 2] < 0)
    if negative.size:
        raise ValueError(
            f"saliency must be >= 0, got {extremes[negative[0], 2]:g} in sample {negative[0]}: take absolute values, or the "
            "root mean square over channels of a gradient"
        )
    if not ((extremes[:, 3] > 0) & np.isfinite(extremes[:, 3])).any():
        # The same words each time, so that Python's own filter says it once.
        warnings.warn(_NO_SALIENCY, stacklevel=4)
    low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
    key = (config.mean, config.std)
    if (low < -_PIXEL_TOLERANCE or high > 1 + _PIXEL_TOLERANCE) and key not in _warned_normalizations:
        _warned_normalizations.add(key)
        warnings.warn(
            f"images un-normalized with mean={config.mean}, std={config.std} span [{low:.2f}, {high:.2f}] where [0, 1] is "
            "expected, so that differences across block borders weigh too much: pass the mean and std that the images were "
            "normalized with",
            stacklevel=4,
        )


def check_log_images_every(every: object) -> None:
    """Ask for a number of steps, at least 1, or ``None``.

    Raises:
        ValueError: If it is something else.
    """
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(
            f"log_images_every_n_steps must be an integer of at least 1, or None for no images, got {every!r}"
        )


def check_epochs(start: object, stop: object) -> None:
    """Ask for the first epoch with mixing and the first one without, the latter greater or ``None``.

    Raises:
        ValueError: If they are something else.
    """
    for name, value in (("start_epoch", start), ("stop_epoch", stop)):
        if value is None and name == "stop_epoch":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
    if isinstance(start, int) and isinstance(stop, int) and stop <= start:
        raise ValueError(f"stop_epoch must be greater than start_epoch={start}, got {stop}: no epoch would be mixed")


def describe_value(value: Any) -> str:
    """Describe an entry in a few words: dtype and shape of a tensor, the class of anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def shorten(text: str, width: int) -> str:
    """Cut a text to ``width`` characters, the last of which is then an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def check_channels_first(images: Tensor) -> None:
    """Refuse (B, H, W, C) images, which would be cut into blocks of rows and channels without a word.

    They are taken for such where the last dimension alone can be the channels of a picture, 1, 3 or 4, and the other two its
    sides: both greater, and neither more than four times the other.

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
            "channels: give training_step batches with .permute(0, 3, 1, 2), and take the like out of forward"
        )
