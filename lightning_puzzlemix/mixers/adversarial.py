"""The noise of the adversarial variant (method, section 2); all amplitudes in [0, 1] pixel units."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.normalization import from_pixels, to_pixels

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
    pixels = (to_pixels(images.detach(), config.mean, config.std) + noise).clamp(0, 1)
    return from_pixels(pixels, config.mean, config.std).to(images.dtype)


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
    pixels = to_pixels(images.detach(), config.mean, config.std)
    step = (eps + _STEP_BEYOND_EPS) * torch.sign(gradient)
    return scale * ((pixels + start).clamp(0, 1) - pixels + step).clamp(-eps, eps)
