"""Blend the output of one layer in the forward passes of a training step (manifold mixup)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_puzzlemix.baselines import blend


class LayerMix:
    """Blends a layer's output with its permutation, through hooks, until :meth:`remove`.

    Every forward pass of the batch's training step is mixed alike, also where a checkpoint recomputes it in the backward
    pass. Passes in another mode than the model was in when the batch came, such as a look in evaluation mode, are none of
    the batch's. In one pass the layer may run once: a second run would mix what is mixed already.

    Args:
        module: The LightningModule.
        layer: Name of the submodule.
        permutation: (B,) integers, each sample's partner.
        ratio: (B,) share of the first sample.
        in_step: Tells whether ``training_step`` is running.
    """

    def __init__(
        self, module: nn.Module, layer: str, permutation: Tensor, ratio: Tensor, in_step: Callable[[], bool]
    ) -> None:
        self.layer, self.ran = layer, False
        self._permutation, self._ratio, self._in_step = permutation, ratio, in_step
        parts = layer.split(".")
        enclosing = [module.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
        self._modes = [(each, each.training) for each in [*enclosing, module.get_submodule(layer)]]
        self._depth, self._runs = 0, 0
        self._handles: list[RemovableHandle] = []
        for each in enclosing:
            self._handles += [
                each.register_forward_pre_hook(self._enter),
                each.register_forward_hook(self._leave, always_call=True),
            ]
        self._handles.append(module.get_submodule(layer).register_forward_hook(self._mix))

    def remove(self) -> None:
        """Leave the model alone again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if not self._depth:
            self._runs = 0
        self._depth += 1

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._depth -= 1

    def _mix(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        # The one way there is to tell that a checkpoint recomputes the layer.
        recomputed = torch._C._current_graph_task_id() != -1
        if not (self._in_step() or recomputed) or any(each.training != mode for each, mode in self._modes):
            return output
        if not isinstance(output, Tensor) or len(output) != len(self._ratio):
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layers: {self.layer!r} must return a tensor with the batch of {len(self._ratio)} first, got {shown}: name "
                "another layer"
            )
        self._runs += 1
        if self._runs > 1 and not recomputed:
            raise ValueError(
                f"layers: {self.layer!r} runs more than once in a forward pass, so that its output would be mixed again: "
                "name a layer that runs once"
            )
        self.ran = True
        return blend(output, self._permutation, self._ratio)
