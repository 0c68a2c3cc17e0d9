"""Mix the output of one layer in the forward passes of a training step (manifold mixup)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_puzzlemix.callbacks.lightning_private import in_backward_pass
from lightning_puzzlemix.mixers import blend


class _OwnHook:
    """A hook of one module alone: copies and pickles of the module get one that does nothing."""

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return None if self._call is None else self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _OwnHook, ()


class LayerMix:
    """Mixes a layer's output with its permutation, through hooks, until :meth:`remove`.

    Every forward pass in the batch's training step is mixed alike, also if a checkpoint recomputes it in the backward pass. A
    pass in another mode than the model had before, such as an evaluation in the step, is not mixed. In one pass the layer may
    run once: a second run would mix again.

    Args:
        module: The LightningModule.
        layer: Name of the submodule.
        permutation: (B,) integers, each sample's partner.
        ratio: (B,) share of the first sample.
        step: Returns which run of ``training_step`` for this batch is running, from 1; 0: none.
        others: Names of further images in the batch. If there are any, a step may make only one pass, which is taken for that
            of the mixed images: a second could be of the others.
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
        parts, target = layer.split("."), module.get_submodule(layer)
        enclosing = [module.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
        self._modes = [(each, each.training) for each in [*enclosing, target]]
        self._depth, self._runs = 0, 0
        self._handles: list[RemovableHandle] = []
        for each in enclosing:
            self._handles += [
                each.register_forward_pre_hook(_OwnHook(self._enter)),
                each.register_forward_hook(_OwnHook(self._leave), always_call=True),
            ]
        self._handles.append(target.register_forward_hook(_OwnHook(self._mix)))

    def remove(self) -> None:
        """Remove the hooks."""
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
        recomputed, step = in_backward_pass(), self._step()
        if not (step or recomputed) or any(each.training != mode for each, mode in self._modes):
            return output
        if not isinstance(output, Tensor) or len(output) != len(self._ratio):
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layers: {self.layer!r} must return a tensor with the batch of {len(self._ratio)} first, got {shown}: name "
                "another layer. Forward passes of other samples, or of parts of the batch, cannot be mixed: run them in "
                "evaluation mode, or use layers=['input'], which mixes only the batch"
            )
        self._runs += 1
        if self._runs > 1 and not recomputed:
            raise ValueError(
                f"layers: {self.layer!r} runs more than once in a forward pass, so its output would be mixed again: name a "
                "layer that runs once"
            )
        if self._others and step == self._last_step and not recomputed:
            raise ValueError(
                f"layers: {self.layer!r} runs in a second forward pass of the step, and the batch holds further images "
                f"{list(self._others)}, whose passes cannot be told from those of the mixed ones: run them in evaluation mode, "
                "or use layers=['input'], which mixes only the batch"
            )
        self._last_step = step or self._last_step
        self.ran = True
        return blend(output, self._permutation, self._ratio)
