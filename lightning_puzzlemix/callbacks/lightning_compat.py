"""Lightning's Callback class under both package names, whichever of them is imported, and in whatever order.

A Trainer of either package accepts any callback, but ``isinstance`` and the command line of each need its own class. Importing
``lightning`` only for its class would cost seconds and redirect the messages of ``pytorch_lightning``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

_OTHER = "lightning.pytorch.callbacks.callback"

if TYPE_CHECKING:
    LightningCallback = pl.Callback
else:

    class LightningCallback(pl.Callback):
        """A Callback of ``pytorch_lightning``, and of ``lightning.pytorch`` as soon as that is imported."""


def _add_base(module: ModuleType) -> None:
    LightningCallback.__bases__ = (pl.Callback, module.Callback)


class _BaseFinder(MetaPathFinder):
    """Finds no module itself, but adds the base class when the other package's module is imported."""

    def __init__(self) -> None:
        self._searching = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec that the other finders return for that one module, with its execution extended."""
        if name != _OTHER or self._searching:
            return None
        self._searching = True
        try:
            spec = find_spec(name)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            # The loader stays the original one, since others ask it for the source. One that takes no attributes is left
            # alone: no import may fail because of this.
            with suppress(AttributeError, TypeError):
                spec.loader.exec_module = _extended(spec.loader.exec_module)  # type: ignore[assignment, method-assign]
        return spec


def _extended(execute: Callable[[ModuleType], Any]) -> Callable[[ModuleType], Any]:
    def execute_and_add_base(module: ModuleType) -> None:
        execute(module)
        # Some loaders, such as those of zip files, load several modules.
        if module.__name__ == _OTHER:
            _add_base(module)

    return execute_and_add_base


if hasattr(sys.modules.get(_OTHER), "Callback"):
    _add_base(sys.modules[_OTHER])
sys.meta_path.insert(0, _BaseFinder())
