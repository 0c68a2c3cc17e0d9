"""Hand one batch to ``training_step`` in place of another.

Lightning gives the same local batch to every hook and to ``training_step`` and discards what hooks return, so an immutable
batch can only be replaced in the call itself. Doing so for every kind of batch keeps cached loaders and other callbacks clear
of mixed images: they go to ``training_step`` alone.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_puzzlemix.batch import is_same_batch

_NAME = "training_step"


class Interception:
    """Wraps ``module.training_step`` for one batch; the wrapper takes itself off when called."""

    def __init__(self) -> None:
        self._module: nn.Module | None = None
        self._previous: Any = None

    def install(self, module: nn.Module, batch: Any, replacement: Any, *, keep: bool = False) -> None:
        """Let the next ``module.training_step`` get ``replacement`` where it is called with ``batch``.

        Args:
            module: The LightningModule.
            batch: What Lightning will pass.
            replacement: What ``training_step`` shall see.
            keep: Stay until :meth:`remove`, for optimisers that call the step several times a batch.
        """
        self.remove()
        original = getattr(module, _NAME)

        def training_step(*args: Any, **kwargs: Any) -> Any:
            if not keep:
                self.remove()
            swapped = [replacement if is_same_batch(value, batch) else value for value in args]
            named = {name: replacement if is_same_batch(value, batch) else value for name, value in kwargs.items()}
            if not any(value is replacement for value in [*swapped, *named.values()]):
                raise RuntimeError(
                    "PuzzleMixCallback could not hand over the mixed batch: training_step was called with another object "
                    "than the hooks; put the callback behind the one that replaces the batch"
                )
            return original(*swapped, **named)

        # Lightning looks at the signature to see whether the step wants batch_idx.
        training_step.__wrapped__ = original  # type: ignore[attr-defined]
        self._module, self._previous = module, module.__dict__.get(_NAME)
        module.__dict__[_NAME] = training_step

    def remove(self) -> None:
        """Take the wrapper off, leaving what was there before (torch.compile puts a step of its own on the instance)."""
        module, self._module = self._module, None
        if module is None:
            return
        if self._previous is None:
            module.__dict__.pop(_NAME, None)
        else:
            module.__dict__[_NAME] = self._previous
        self._previous = None
