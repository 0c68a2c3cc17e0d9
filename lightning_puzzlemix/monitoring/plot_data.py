"""The pairs of a mixed batch that are plotted, copied to the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_puzzlemix.monitoring.class_titles import TITLE_WIDTH
from lightning_puzzlemix.monitoring.metrics import retained_saliency, visible_moves
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.validation import shorten


@dataclass(frozen=True)
class PlotSamples:
    """The first k pairs of a mixed batch, on the host. In dimensions of 2, [0] is of the first images, [1] of their partners.

    Attributes:
        mixed: The k samples, without saliency; their partners may be missing, so ``draw`` does not apply.
        originals: (2, k, C, H, W) images before mixing.
        saliency: (2, k, H, W) saliency; ``None`` if there is none.
        retained: (2, k) shares of it that stay visible.
        moved: (2, k, R, C) visible blocks that come from another place, see :func:`visible_moves`.
        titles: Two lists of k titles of the originals, empty strings if nothing is known of them.
    """

    mixed: MixedBatch
    originals: Tensor
    saliency: Tensor | None
    retained: Tensor | None
    moved: Tensor
    titles: tuple[list[str], list[str]]

    @classmethod
    def take(cls, mixed: MixedBatch, count: int, titles: Sequence[str]) -> PlotSamples:
        """Copy the first ``count`` pairs of a batch on any device; ``titles`` are of all its images, or empty."""
        partner = mixed.draw.permutation.to(mixed.images.device, torch.int64)[:count]

        def first(values: Tensor) -> Tensor:
            return values[:count].detach().cpu()

        def both(values: Tensor) -> Tensor:
            return torch.stack([values[:count], values[partner.to(values.device)]]).detach().cpu()

        samples = dataclasses.replace(
            mixed,
            images=first(mixed.images),
            targets=first(mixed.targets).float(),
            ratio=first(mixed.ratio),
            mask=first(mixed.mask),
            saliency=None,
            originals=first(mixed.originals),
            clean=None,
            plan=None if mixed.plan is None else mixed.plan[:, :count].cpu(),
        )
        short = ["\n".join(shorten(line, TITLE_WIDTH) for line in title.split("\n")) for title in titles]
        short = short or [""] * len(mixed.images)
        return cls(
            samples,
            both(mixed.originals),
            None if mixed.saliency is None else both(mixed.saliency.float()),
            None if mixed.saliency is None else retained_saliency(mixed)[:, :count].cpu(),
            visible_moves(mixed)[1][:, :count].cpu(),
            (short[:count], [short[each] for each in partner.tolist()]),
        )
