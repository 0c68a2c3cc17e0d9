"""The noise of the adversarial variant (method, section 2); all amplitudes in [0, 1] pixel units."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.normalization import per_channel

# The FGSM step is this much longer than eps, as in the reference.
_STEP_BEYOND_EPS = 2 / 255


def add_noise(images: Tensor, noise: Tensor, config: PuzzleMixConfig) -> Tensor:
    """Add pixel noise to normalized images, clip them to [0, 1] and normalize them again.

    Args:
        images: (B, C, H, W), normalized with ``config.mean`` and ``config.std``.
        noise: (B, C, H, W) in pixel units.
        config: The normalization.

    Returns:
        (B, C, H, W) in the images' dtype.
    """
    mean, std = _normalization(config, images)
    return (((images.detach() * std + mean + noise).clamp(0, 1) - mean) / std).to(images.dtype)


def adversarial_noise(
    images: Tensor, start: Tensor, gradient: Tensor, config: PuzzleMixConfig, *, eps: float, scale: float
) -> Tensor:
    """Take one FGSM step of length eps + 2/255 from the random start, clip to [-eps, eps] and scale.

    Args:
        images: (B, C, H, W) normalized images without noise.
        start: (B, C, H, W) uniform in [-eps, eps]; what of it would leave [0, 1] pixels is cut off first.
        gradient: (B, C, H, W) gradient of the loss at the images with ``start``; only its signs count.
        config: The normalization.
        eps: Largest amplitude, in [0, 1].
        scale: Factor in [0, 1] on the result.

    Returns:
        (B, C, H, W) in [-eps, eps].
    """
    mean, std = _normalization(config, images)
    pixels = images.detach() * std + mean
    step = (eps + _STEP_BEYOND_EPS) * torch.sign(gradient)
    return scale * ((pixels + start).clamp(0, 1) - pixels + step).clamp(-eps, eps)


def _normalization(config: PuzzleMixConfig, images: Tensor) -> tuple[Tensor | float, Tensor | float]:
    if config.mean is None or config.std is None:
        return 0.0, 1.0
    return per_channel(config.mean, images.device), per_channel(config.std, images.device)
