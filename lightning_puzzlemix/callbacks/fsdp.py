"""Models whose parameters are sharded over processes (FSDP): how to call them, and what cannot be asked of them."""

from __future__ import annotations

import sys
from functools import partial
from types import MethodType
from typing import Any

from torch import nn


class FSDPForward(nn.Module):
    """Calls a module that FSDP1 has wrapped through the wrapper, which gathers the parameters first.

    Called by itself the module sees only this process's shard. Lightning redirects ``training_step`` in the same way.

    Args:
        strategy: The Trainer's FSDP strategy.
        module: The LightningModule inside ``strategy.model``.
    """

    # Gradients of its parameters cannot be asked for by themselves: they are gathered anew in each pass.
    parameters_are_sharded = True

    def __init__(self, strategy: Any, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._strategy = strategy

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self._call("__call__", *args, **kwargs)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._strategy._forward_redirection(self._strategy.model, self.module, method, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module; its methods are called through the wrapper, too."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(super().__getattr__("module"), name)
            return partial(self._call, name) if isinstance(found, MethodType) else found


def forward_module(strategy: Any, module: nn.Module) -> nn.Module:
    """Return what to call for a forward pass outside of ``training_step``: the bare module wherever that works.

    The DDP wrapper must not be called: it would wait for gradients that never come.
    """
    wrapped = _is_a(getattr(strategy, "model", None), "torch.distributed.fsdp", "FullyShardedDataParallel")
    return FSDPForward(strategy, module) if wrapped else module


def _is_a(value: object, package: str, name: str) -> bool:
    """Tell whether ``value`` is of a class of a package, which need not be imported: if nobody has, nothing is."""
    kind = getattr(sys.modules.get(package), name, None)
    return kind is not None and isinstance(value, kind)
