"""What a saliency source returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SaliencyPass:
    """The saliency of a batch and what else its pass computed; only ``loss`` is attached to a graph.

    Attributes:
        saliency: (B, H, W) float32 >= 0. From ``"gradient"``, the root mean square over channels of the gradient (method,
            step 1).
        gradient: (B, C, H, W) float32, gradient of the batch's mean loss with respect to the images; ``None`` from
            sources that do not differentiate down to the images.
        num_classes: Number of classes of the model's output; ``None`` from sources that do not see it.
        parameter_gradients: Gradients of the mean loss for the requested parameters, ``None`` for those that the loss does
            not depend on.
        loss: The mean loss with its graph, where that was requested.
    """

    saliency: Tensor
    gradient: Tensor | None = None
    num_classes: int | None = None
    parameter_gradients: tuple[Tensor | None, ...] = ()
    loss: Tensor | None = None
