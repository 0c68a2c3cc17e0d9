"""The spectral residual against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_puzzlemix.saliency.spectral import spectral_saliency


def spectral_by_numpy(image: np.ndarray, deviation: float) -> np.ndarray:
    """Hou and Zhang's formulas, one image (C, H, W), one frequency at a time."""
    spectrum = np.fft.fft2(image.mean(0))
    log_amplitude, phase = np.log(np.abs(spectrum)), np.angle(spectrum)
    height, width = log_amplitude.shape
    usual = np.zeros_like(log_amplitude)
    for row, col in np.ndindex(height, width):
        rows, cols = [(row + d) % height for d in (-1, 0, 1)], [(col + d) % width for d in (-1, 0, 1)]
        usual[row, col] = log_amplitude[np.ix_(rows, cols)].mean()
    sharp = np.abs(np.fft.ifft2(np.exp(log_amplitude - usual + 1j * phase))) ** 2
    blurred = np.zeros_like(sharp)
    for row, col in np.ndindex(height, width):
        rows, cols = (np.arange(side) - at for side, at in ((height, row), (width, col)))
        weight = np.exp(-(rows[:, None] ** 2 + cols[None] ** 2) / (2 * deviation**2))
        blurred[row, col] = (weight * sharp).sum() / weight.sum()
    return blurred


def test_spectral_equals_numpy() -> None:
    images = torch.randn(3, 2, 12, 16, dtype=torch.float64)
    # The blur is 2.5 pixels at a side of 64.
    expected = np.stack([spectral_by_numpy(image, 2.5 * 12 / 64) for image in images.numpy()])
    found = spectral_saliency(images).saliency
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)


def test_spectral_finds_what_stands_out_in_a_large_image() -> None:
    """A disc on stripes: the paper's kind of example, at a side that is shrunk first."""
    rows, cols = torch.meshgrid(torch.arange(160), torch.arange(200), indexing="ij")
    image = 0.5 + 0.4 * torch.sin(cols / 3)
    image[(rows - 50) ** 2 + (cols - 140) ** 2 < 100] = 1.0
    saliency = spectral_saliency(image.expand(1, 3, -1, -1)).saliency[0]
    assert saliency.shape == (160, 200)
    row, col = divmod(int(saliency.argmax()), 200)
    assert (row - 50) ** 2 + (col - 140) ** 2 < 400


@pytest.mark.parametrize("image", [torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8), torch.rand(2, 1, 2, 3)])
def test_spectral_of_degenerate_images(image: Tensor) -> None:
    found = spectral_saliency(image).saliency
    assert torch.isfinite(found).all()
    assert (found >= 0).all()


def test_spectral_in_bfloat16_under_autocast() -> None:
    images = torch.rand(2, 3, 16, 16).bfloat16()
    expected = spectral_saliency(images.float()).saliency
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectral_saliency(images).saliency, expected)
