"""Blend the output of one layer in the forward passes of a training step (manifold mixup)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_puzzlemix.mixers.baselines import blend


class _OwnHook:
    """A hook of one module alone: copies and pickles of the module made meanwhile get one that does nothing."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _nothing


def _nothing(module: nn.Module, *args: Any) -> None:
    """Leave inputs and output as they are."""


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
        step: Tells which run of ``training_step`` for this batch is running, from 1; 0: none.
        others: Names of further images in the batch. With any, a step may make one pass alone, which is taken for that of the
            mixed images: a second could be of the others, which are not mixed.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str,
        permutation: Tensor,
        ratio: Tensor,
        step: Callable[[], int],
        others: Sequence[Any] = (),
    ) -> None:
        self.layer, self.ran = layer, False
        self._permutation, self._ratio, self._step = permutation, ratio, step
        self._others, self._last_step = others, 0
        parts = layer.split(".")
        enclosing = [module.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
        self._modes = [(each, each.training) for each in [*enclosing, module.get_submodule(layer)]]
        self._depth, self._runs = 0, 0
        self._handles: list[RemovableHandle] = []
        for each in enclosing:
            self._handles += [
                each.register_forward_pre_hook(_OwnHook(self._enter)),
                each.register_forward_hook(_OwnHook(self._leave), always_call=True),
            ]
        self._handles.append(module.get_submodule(layer).register_forward_hook(_OwnHook(self._mix)))

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
        step = self._step()
        if not (step or recomputed) or any(each.training != mode for each, mode in self._modes):
            return output
        if not isinstance(output, Tensor) or len(output) != len(self._ratio):
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layers: {self.layer!r} must return a tensor with the batch of {len(self._ratio)} first, got {shown}: name "
                "another layer; forward passes of other samples, or of parts of the batch, cannot be mixed: make them in "
                "evaluation mode, or use layers=['input'], which mixes the batch alone"
            )
        self._runs += 1
        if self._runs > 1 and not recomputed:
            raise ValueError(
                f"layers: {self.layer!r} runs more than once in a forward pass, so that its output would be mixed again: "
                "name a layer that runs once"
            )
        if self._others and step == self._last_step and not recomputed:
            raise ValueError(
                f"layers: {self.layer!r} runs in a second forward pass of the step, and the batch holds further images "
                f"{list(self._others)}, whose passes could not be told from those of the mixed ones: make them in evaluation "
                "mode, or use layers=['input'], which mixes the batch alone"
            )
        self._last_step = step or self._last_step
        self.ran = True
        return blend(output, self._permutation, self._ratio)
