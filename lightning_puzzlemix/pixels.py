"""From normalised images back to what a picture can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Rounding to 16 bits and back may leave [0, 1] by so much.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Pixels:
    """How images are brought back to [0, 1]: ``image * scale + shift``, each (C, 1, 1).

    Attributes:
        notes: What the reader of the picture must know of it.
    """

    scale: Tensor
    shift: Tensor
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, first: Tensor, second: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Pixels:
        """Undo the normalisation by ``mean`` and ``std``; without them, stretch what is not in [0, 1] already.

        Args:
            first: (k, C, H, W) images that will be shown.
            second: (k, C, H, W) others.
            mean: Per-channel mean that they were normalised with.
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
        note = f"Without mean and std, black is {least:.2f} and white {most:.2f}: colours are not true."
        return cls(scale, -least * scale, (note,))

    def shown(self, image: Tensor) -> np.ndarray:
        """Return one (C, H, W) image as (H, W, 3) in [0, 1]; as (H, W), their mean, where it has not three channels."""
        pixels = (image.detach().float().cpu() * self.scale + self.shift).nan_to_num().clamp(0, 1)
        return pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels.mean(0).numpy()
