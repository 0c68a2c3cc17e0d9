"""How to call a model whose parameters FSDP1 has sharded."""

from __future__ import annotations

import sys
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from lightning_puzzlemix.callbacks.method_patch import MethodPatch


class FSDPForward(nn.Module):
    """Calls a module inside an FSDP1 wrapper through that wrapper, which gathers the parameters first.

    Args:
        wrapper: The FSDP1 module, ``strategy.model``.
        module: The LightningModule in it.
    """

    # Each pass gathers the parameters anew, so their gradients cannot be requested separately.
    parameters_are_sharded = True

    def __init__(self, wrapper: nn.Module, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        # A bound method, since the wrapper itself would become a submodule.
        self._call_wrapper = wrapper.__call__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self._call_wrapper(*args, **kwargs)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Run another method where the wrapper runs the module's forward."""

        def run(forward: Any, *args: Any, **kwargs: Any) -> Any:
            # First, since the method may call forward.
            patch.remove()
            return getattr(self.module, method)(*args, **kwargs)

        patch = MethodPatch(self.module, "forward", run)
        try:
            return self._call_wrapper(*args, **kwargs)
        finally:
            patch.remove()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module; its methods are called through the wrapper."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(super().__getattr__("module"), name)
            return partial(self._call, name) if isinstance(found, MethodType) else found


def forward_module(model: Any, module: nn.Module) -> nn.Module:
    """Return what to call for a forward pass outside of ``training_step``: the LightningModule itself wherever that works.

    The DDP wrapper must not be called: it would wait for gradients that never come.

    Args:
        model: ``strategy.model``, the module or a wrapper of it.
        module: The LightningModule.
    """
    # If nobody has imported FSDP, nothing is wrapped in it.
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    return FSDPForward(model, module) if kind is not None and isinstance(model, kind) else module
