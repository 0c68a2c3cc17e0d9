"""The problem of a batch: the energies of its masks, and the saliency of the blocks that may move.

A mask m holds for each block the share of the first image, one of 0, 1/(L-1), ..., 1. Its energy is
``sum_p [m_p cost_first_p + (1 - m_p) cost_second_p + prior(m_p)] + sum_pq weight_pq (m_p - m_q)^2`` (paper section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)
# lam is kept this far from 0 and 1. A margin inside the logarithm instead, as in the reference, would not keep the prior
# convex for four labels and more, and a prior that is not convex has no exact solver.
LAM_MARGIN = 1e-8


@dataclass(frozen=True)
class Energy(Generic[Array]):
    """The energies of a batch of masks, without the prior: float32 tensors on a device, or arrays on the host.

    Attributes:
        cost_first: (B, n, n), paid by a block in proportion to how much of the first image it shows.
        cost_second: (B, n, n), the same for the second image.
        weight_rows: (B, n - 1, n) >= 0, smoothness weight between blocks (i, j) and (i + 1, j).
        weight_cols: (B, n, n - 1) >= 0, between blocks (i, j) and (i, j + 1).
    """

    cost_first: Array
    cost_second: Array
    weight_rows: Array
    weight_cols: Array

    def arrays(self) -> list[Array]:
        """List all arrays, by name: ``torch.compile`` may order the attributes of a dataclass in another way."""
        return [self.cost_first, self.cost_second, self.weight_rows, self.weight_cols]


@dataclass(frozen=True)
class MixingProblem(Generic[Array]):
    """All that is solved for a batch.

    Attributes:
        energy: Of the masks.
        moving_first: (B, R, C) float32 saliency of the first images' moving blocks, each map summing to 1.
        moving_second: (B, R, C) of their partners'.
        extremes: (B, 4) float32 to be checked: least and greatest pixel, least and greatest saliency.
    """

    energy: Energy[Array]
    moving_first: Array
    moving_second: Array
    extremes: Array

    def arrays(self) -> list[Array]:
        """List all arrays, in the order in which :meth:`of` takes them."""
        arrays = self.energy.arrays()
        arrays.extend((self.moving_first, self.moving_second, self.extremes))
        return arrays

    @classmethod
    def of(cls, arrays: Sequence[Array]) -> MixingProblem[Array]:
        """Put together what :meth:`arrays` has taken apart, after a copy to another device."""
        return cls(Energy(*arrays[:4]), *arrays[4:])


def mixing_prior(lam: float | np.ndarray, num_labels: int, *, eta: float, blocks_per_side: int) -> np.ndarray:
    """Price each label by how unlikely it is under Binomial(L - 1, lam) (method, step 4).

    Args:
        lam: Expected share of the first image in [0, 1], or (B,) of them.
        num_labels: L >= 2.
        eta: Weight of the prior.
        blocks_per_side: n.

    Returns:
        (1, L) or (B, L) float64, convex along the labels; label k shows the share k / (L - 1) of the first image.
    """
    share = np.clip(np.atleast_1d(np.asarray(lam, np.float64))[:, None], LAM_MARGIN, 1 - LAM_MARGIN)
    label = np.arange(num_labels)
    ways = np.array([math.log(math.comb(num_labels - 1, k)) for k in label])
    likelihood = ways + label * np.log(share) + (num_labels - 1 - label) * np.log1p(-share)
    return -eta / blocks_per_side**2 * likelihood


def energy_of_mask(mask: Tensor, energy: Energy, prior: np.ndarray | Tensor) -> Tensor:
    """Evaluate the energy of given masks.

    Args:
        mask: (B, n, n) with values k / (L - 1).
        energy: The energy of the batch.
        prior: (B, L) or (1, L) of :func:`mixing_prior`.

    Returns:
        (B,) float64.
    """
    share = mask.double()
    prior = torch.as_tensor(prior, dtype=torch.float64, device=mask.device).expand(len(mask), -1)
    labels = torch.round(share * (prior.shape[1] - 1)).long()
    blocks = share * energy.cost_first + (1 - share) * energy.cost_second
    blocks = blocks + prior.gather(1, labels.flatten(1)).view_as(share)
    rows = energy.weight_rows * share.diff(dim=1).square()
    cols = energy.weight_cols * share.diff(dim=2).square()
    return blocks.sum((1, 2)) + rows.sum((1, 2)) + cols.sum((1, 2))
