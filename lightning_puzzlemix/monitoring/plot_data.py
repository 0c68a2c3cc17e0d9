"""The pairs of a mixed batch that a picture shows, copied to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_puzzlemix.monitoring.metrics import retained_saliency, visible_moves
from lightning_puzzlemix.results import MixedBatch

_LONGEST_NAME = 24


@dataclass(frozen=True)
class PlotSamples:
    """Some pairs of a mixed batch, on the host.

    Attributes:
        first: The batch of the first images alone; its partners lie outside, so ``draw`` says nothing.
        second: (k, C, H, W) their partners.
        saliency: (2, k, H, W) saliency of both; ``None`` where there is none.
        retained: (2, k) shares of it that stay visible.
        moved: (2, k, R, C) visible blocks that come from elsewhere, see :func:`visible_moves`.
        titles: What stands above the first images, and above their partners; empty: nothing is known of them.
    """

    first: MixedBatch
    second: Tensor
    saliency: Tensor | None
    retained: Tensor | None
    moved: Tensor
    titles: tuple[list[str], list[str]]

    @classmethod
    def take(cls, mixed: MixedBatch, count: int, titles: Sequence[str]) -> PlotSamples:
        """Copy the first ``count`` pairs of a batch on any device; ``titles`` are of all its images, or empty."""
        partner = mixed.draw.permutation.to(mixed.images.device, torch.int64)[:count]
        moved = visible_moves(mixed)[1]

        def both(values: Tensor) -> Tensor:
            return torch.stack([values[:count], values[partner.to(values.device)]]).detach().cpu()

        first = MixedBatch(
            images=mixed.images[:count].detach().cpu(),
            targets=mixed.targets[:count].detach().float().cpu(),
            ratio=mixed.ratio[:count].cpu(),
            mask=mixed.mask[:count].cpu(),
            saliency=None,
            draw=mixed.draw,
            originals=mixed.originals[:count].detach().cpu(),
            plan=None if mixed.plan is None else mixed.plan[:, :count].cpu(),
        )
        known = ["\n".join(map(short, title.split("\n"))) for title in titles] or [""] * len(mixed.images)
        return cls(
            first,
            mixed.originals[partner].detach().cpu(),
            None if mixed.saliency is None else both(mixed.saliency.float()),
            None if mixed.saliency is None else retained_saliency(mixed)[:, :count].cpu(),
            moved[:, :count].cpu(),
            (known[:count], [known[each] for each in partner.tolist()]),
        )


def short(text: str) -> str:
    """Cut a name that is wider than a panel."""
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"
