"""What a mixer is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from lightning_puzzlemix.mixers.timer import PhaseTimer
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.saliency import ForwardContext
from lightning_puzzlemix.sampling import MixDraw


class Mixer(Protocol):
    """Mixes a batch for a model, as :class:`~lightning_puzzlemix.PuzzleMix` and the baselines do."""

    def draw(self, images: Tensor, *, key: tuple[int, ...] | None = None) -> MixDraw:
        """Draw the random choices for a batch; the same key gives the same draw.

        Args:
            images: (B, C, H, W); only their shape and device count.
            key: What the draw depends on; ``None`` takes it from torch's global random state (``torch.manual_seed``).
        """
        ...

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        draw: MixDraw | None = None,
        *,
        forward_context: ForwardContext = ...,
        timer: PhaseTimer | None = None,
    ) -> MixedBatch:
        """Mix a batch by a draw; ``None`` draws."""
        ...
