"""Saliency without the model: the spectral residual of the image (Hou and Zhang, CVPR 2007)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_puzzlemix.saliency.result import SaliencyPass

# Side in pixels at which the paper works, and the Gaussian that the authors' published code blurs with at that side.
_WORKING_SIDE = 64
_BLUR_AT_WORKING_SIDE = 2.5
# Amplitudes below this share of an image's largest are rounding; their logarithm would mean nothing.
_LEAST_AMPLITUDE = 1e-6


@torch.no_grad()
def spectral_saliency(images: Tensor) -> SaliencyPass:
    """Compute the spectral residual of images, which needs no model and no labels.

    Another method than the paper's: it finds what stands out in an image, not what the model responds to, and its maps
    barely correlate with gradients. For each image: mean over channels, log amplitude of the Fourier spectrum, minus its
    average over 3 x 3 frequencies (the spectrum taken as periodic), back with the original phase, squared magnitude,
    Gaussian blur. The paper works at 64 pixels; shorter sides are kept, longer ones shrunk to that.

    Args:
        images: (B, C, H, W) floating point. Normalized images may be passed as they are: the channels' means and
            deviations weigh the gray image, and a shift of it moves one frequency alone.

    Returns:
        ``saliency`` (B, H, W) float32 >= 0; no gradients and no number of classes.
    """
    # Neither the spectrum nor the blur can be had in 16 bits.
    with torch.autocast(images.device.type, enabled=False):
        gray = images.detach().float().mean(1, keepdim=True)
        height, width = gray.shape[2:]
        shrink = min(1.0, _WORKING_SIDE / min(height, width))
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        if shrink < 1:
            gray = F.interpolate(gray, size=size, mode="bilinear", antialias=True)
        spectrum = torch.fft.fft2(gray)
        amplitude = spectrum.abs()
        least = _LEAST_AMPLITUDE * amplitude.amax((2, 3), keepdim=True)
        # The smallest number there is keeps an all-zero image away from log(0).
        usual = _average(torch.maximum(amplitude, least).clamp_min(torch.finfo(torch.float32).tiny).log())
        # exp(log amplitude - usual) at the old phase is the spectrum itself, divided by exp(usual).
        residual = torch.fft.ifft2(spectrum * torch.exp(-usual)).abs().square()
        blurred = _blur(residual, _BLUR_AT_WORKING_SIDE * min(size) / _WORKING_SIDE)
        return SaliencyPass(F.interpolate(blurred, size=(height, width), mode="area")[:, 0])


def _average(spectrum: Tensor) -> Tensor:
    """Average (B, 1, h, w) over 3 x 3 neighbors, the first frequency being next to the last."""
    rows = spectrum.roll(1, 2) + spectrum + spectrum.roll(-1, 2)
    return (rows.roll(1, 3) + rows + rows.roll(-1, 3)) / 9


def _blur(maps: Tensor, deviation: float) -> Tensor:
    """Blur (B, 1, h, w) >= 0 by a Gaussian; near the border only what lies inside counts."""
    rows, cols = (_gaussian(side, deviation, maps.device) for side in maps.shape[2:])
    return rows @ maps @ cols.T


def _gaussian(side: int, deviation: float, device: torch.device) -> Tensor:
    """Return (side, side) weights of each position's neighbors along one side, summing to 1."""
    position = torch.arange(side, device=device, dtype=torch.float32)
    distance = (position[:, None] - position) / deviation
    return torch.softmax(-0.5 * distance.square(), dim=1)
