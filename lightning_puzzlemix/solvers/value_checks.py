"""Checks of a batch's values, which are only known once its one copy has arrived on the host."""

from __future__ import annotations

from numbers import Real

import numpy as np
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.validation import LARGEST, warn_caller

# Averages over cells may leave [0, 1] a little: some augmentations paste noise. Beyond this the normalization is wrong.
_PIXEL_TOLERANCE = 0.25
_NO_SALIENCY = (
    "saliency is zero, NaN or infinite everywhere in a whole batch, so the mix ignores it (all pixels count the same). Either "
    "the loss does not depend on the images, as where a layer is dead or saturated, or gradients overflow, as in float16: "
    "inspect the model, pass saliency_loss, or saliency_precision='32-true'"
)
_warned_normalizations: set[tuple[object, object]] = set()


def check_lam(lam: object, batch: int) -> None:
    """Check that lam is a number in [0, 1] or (B,) floats; the values of a tensor are checked on the host later."""
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


def check_values(extremes: np.ndarray, lam: float | np.ndarray, config: PuzzleMixConfig) -> None:
    """Check the values of a batch.

    Args:
        extremes: (B, 4): least and greatest cell average of the un-normalized image, least and greatest saliency.
        lam: Share of the first image, one or (B,).
        config: The normalization that was undone.
    """
    _check_lam_values(np.asarray(lam))
    bad = np.flatnonzero(~np.isfinite(extremes[:, :2]).all(1))
    if bad.size:
        raise ValueError(
            f"images hold NaN or infinity in {bad.size} of {len(extremes)} samples, first in sample {bad[0]}: inspect the "
            "data or its transforms (averages beyond 3e38 count as infinite)"
        )
    # Float32 energies would lose the saliency beside such differences, and overflow further on.
    huge = np.flatnonzero(np.abs(extremes[:, :2]).max(1) > LARGEST)
    if huge.size:
        low, high = extremes[huge[0], :2]
        raise ValueError(
            f"images un-normalized with mean={config.mean}, std={config.std} must lie near [0, 1], at most {LARGEST:g} in "
            f"size, got [{low:.4g}, {high:.4g}] in sample {huge[0]}: inspect the data, or pass the mean and std that they were "
            "normalized with"
        )
    negative = np.flatnonzero(extremes[:, 2] < 0)
    if negative.size:
        raise ValueError(
            f"saliency must be >= 0, got {extremes[negative[0], 2]:g} in sample {negative[0]}: take absolute values, or the "
            "root mean square over channels of a gradient"
        )
    if not ((extremes[:, 3] > 0) & np.isfinite(extremes[:, 3])).any():
        # The same words each time, so that Python's own filter shows it once.
        warn_caller(_NO_SALIENCY)
    low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
    key = (config.mean, config.std)
    if (low < -_PIXEL_TOLERANCE or high > 1 + _PIXEL_TOLERANCE) and key not in _warned_normalizations:
        _warned_normalizations.add(key)
        warn_caller(
            f"images un-normalized with mean={config.mean}, std={config.std} span [{low:.2f}, {high:.2f}] where [0, 1] is "
            "expected, so that differences across block borders weigh too much: pass the mean and std that the images were "
            "normalized with"
        )
