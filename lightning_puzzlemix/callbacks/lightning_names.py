"""Lightning's Callback under both of its names, whichever of the two packages is imported, and whenever.

A Trainer of either package takes any callback, but ``isinstance`` and the command line of each insist on its own class.
Importing ``lightning`` for the sake of its class would cost seconds and take over the messages of ``pytorch_lightning``.
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
    CallbackOfBoth = pl.Callback
else:

    class CallbackOfBoth(pl.Callback):
        """A Callback of ``pytorch_lightning``, and of ``lightning.pytorch`` as soon as that has been imported."""


def _adopt(module: ModuleType) -> None:
    """Make :class:`CallbackOfBoth`, and with it all that are made from it, a Callback of this module too."""
    CallbackOfBoth.__bases__ = (pl.Callback, module.Callback)


class _AdoptsWhenImported(MetaPathFinder):
    """Finds nothing by itself; has the other package's Callback adopted right after the import of its module."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders find for that one module, its execution followed by the adoption."""
        if name != _OTHER or self._asking:
            return None
        self._asking = True
        try:
            spec = find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            # On the loader itself: one of our own would stand in the module, where others ask it for the source. A loader
            # that takes no attributes is left alone, as nobody's import may fail for this.
            with suppress(AttributeError, TypeError):
                spec.loader.exec_module = _then_adopt(spec.loader.exec_module)  # type: ignore[assignment, method-assign]
        return spec


def _then_adopt(execute: Callable[[ModuleType], Any]) -> Callable[[ModuleType], Any]:
    def execute_and_adopt(module: ModuleType) -> None:
        execute(module)
        # Some loaders, such as those of zip files, serve several modules.
        if module.__name__ == _OTHER:
            _adopt(module)

    return execute_and_adopt


def _follow_imports() -> None:
    imported = sys.modules.get(_OTHER)
    if imported is not None and hasattr(imported, "Callback"):
        _adopt(imported)
    sys.meta_path.insert(0, _AdoptsWhenImported())


_follow_imports()
