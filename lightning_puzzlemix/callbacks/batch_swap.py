"""Pass ``training_step`` another batch than the one that the DataLoader returned.

Lightning passes the same local batch to every hook and to ``training_step`` and ignores what hooks return, so an immutable
batch can only be replaced in the call itself. Every batch is replaced this way, so that cached loaders and other callbacks
never see mixed images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_puzzlemix.callbacks.containers import Path, describe, dotted, is_container, read, replaced
from lightning_puzzlemix.callbacks.error_notes import add_targets_note
from lightning_puzzlemix.callbacks.lightning_private import write_count
from lightning_puzzlemix.callbacks.method_patch import MethodPatch


@dataclass(frozen=True)
class _Entry:
    """One entry to replace: the tensor in the batch, its write count, and the new value."""

    found: Tensor
    write_count: int | None
    value: Any


class BatchSwap:
    """Replaces entries of one batch in every call of ``module.training_step`` until :meth:`remove`.

    Entries are found by their path, since strategies rebuild a batch's containers. Where a strategy moves or casts the tensors
    (FSDP and DDP in mixed precision), the new entries are moved and cast too. Any other change of the batch is refused, as it
    would be lost.

    Args:
        owner: Name of the callback, for messages.

    Attributes:
        running: Whether ``training_step`` is running with the new entries.
        runs: How often it has run for this batch.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._entries: dict[Path, _Entry] = {}
        self._patch: MethodPatch | None = None
        self.running, self.runs = False, 0

    def install(self, module: nn.Module, batch: Any, values: Mapping[Path, Any]) -> None:
        """Replace entries in the batch that ``module.training_step`` gets.

        Args:
            module: The LightningModule.
            batch: What Lightning will pass, perhaps in new containers.
            values: New entries by path.
        """
        self.remove()
        for path, value in values.items():
            found = read(batch, path)
            self._entries[path] = _Entry(found, write_count(found), value)
        self._patch = MethodPatch(module, "training_step", self._step)

    def remove(self) -> None:
        """Restore ``training_step``."""
        if self._patch is not None:
            self._patch.remove()
        self._patch, self._entries, self.running, self.runs = None, {}, False, 0

    def _step(self, original: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        new_batch = self._replaced(batch)
        assert self._patch is not None
        # A step that calls itself passes batches of its own.
        with self._patch.suspended():
            self.running = True
            self.runs += 1
            try:
                return original(new_batch, *args, **kwargs)
            except Exception as error:
                entries = [(dotted(path), entry.found, entry.value) for path, entry in self._entries.items()]
                add_targets_note(error, self._owner, entries)
                raise
            finally:
                self.running = False

    def _replaced(self, batch: Any) -> Any:
        """Return the batch with the new entries.

        Raises:
            RuntimeError: If an entry has changed since the new one was made from it.
        """
        values = {}
        for path, entry in self._entries.items():
            try:
                arrived = read(batch, path)
            except (KeyError, TypeError) as error:
                raise self._changed(path, batch) from error
            if not isinstance(arrived, Tensor) or not _is_unchanged(arrived, entry):
                raise self._changed(path, batch)
            values[path] = _as_arrived(entry.value, entry.found, arrived)
        return replaced(batch, values)

    def _changed(self, path: Path, batch: Any) -> RuntimeError:
        shown = describe(batch) if is_container(batch) else type(batch).__name__
        return RuntimeError(
            f"{self._owner}: entry {str(dotted(path))!r} of the batch was changed between mixing and training_step, which got "
            f"{shown}; the change would be lost. Make it in the dataset, in on_after_batch_transfer or in "
            "on_train_batch_start (of the module or of any callback), which all run before the mixing"
        )


def _is_unchanged(arrived: Tensor, entry: _Entry) -> bool:
    """Tell whether this is the tensor that was mixed, itself or moved or cast on the way."""
    found = entry.found
    if arrived.shape != found.shape:
        return False
    if (arrived.dtype, arrived.device) != (found.dtype, found.device):
        return write_count(found) == entry.write_count
    is_same = arrived is found or arrived.data_ptr() == found.data_ptr()
    return is_same and write_count(arrived) == entry.write_count


def _as_arrived(value: Any, found: Tensor, arrived: Tensor) -> Any:
    """Move and cast a new entry as the strategy did the old one."""
    if (arrived.dtype, arrived.device) == (found.dtype, found.device):
        return value
    if isinstance(value, tuple):
        return type(value)(*(_as_arrived(each, found, arrived) for each in value))
    # Soft targets of class indices stay floats.
    return value.to(arrived.device, arrived.dtype if value.dtype == found.dtype else value.dtype)
