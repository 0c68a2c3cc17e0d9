"""Clean regularization: the gradients of the unmixed batch, added to those of the mixed one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CleanGradients:
    """The gradients of the clean batch's mean cross-entropy, taken in the saliency pass.

    Attributes:
        weight: Their weight (``clean_lam``).
        parameters: The parameters that they belong to.
        gradients: One for each, ``None`` where the loss does not depend on it.
        loss: The mean cross-entropy itself with its graph, in place of gradients, where parameters are sharded.
    """

    weight: float
    parameters: Sequence[nn.Parameter]
    gradients: Sequence[Tensor | None]
    loss: Tensor | None = None

    def surrogate_loss(self) -> Tensor:
        """Return a scalar of value 0 whose gradient is ``weight`` times the stored one; add it to the loss.

        A linear function of the parameters stands for the clean loss, because its graph is gone: backward() then adds the
        very gradients at the right moment, under loss scaling, accumulation, clipping and DDP alike.
        """
        if self.loss is not None:
            return self.weight * (self.loss - self.loss.detach())
        linear = [
            (parameter.float() * gradient.float()).sum()
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True)
            if gradient is not None
        ]
        # A model may be spread over several devices; the loss may lie on any of them.
        total = self.weight * torch.stack([term.to(linear[0].device) for term in linear]).sum()
        return total - total.detach()


def is_sharded(model: nn.Module) -> bool:
    """Tell whether parameters are gathered anew in each pass, so that their gradients cannot be taken separately."""
    if getattr(model, "parameters_are_sharded", False):
        return True
    # Where nobody has imported the class, no parameter is of it.
    sharded = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())
    return any(isinstance(parameter, sharded) for parameter in model.parameters())
