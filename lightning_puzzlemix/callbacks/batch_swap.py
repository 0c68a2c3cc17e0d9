"""Give ``training_step`` another batch than the one that the DataLoader yielded.

Lightning gives the same local batch to every hook and to ``training_step`` and discards what hooks return, so an immutable
batch can only be replaced in the call itself. Doing so for every kind of batch keeps cached loaders and other callbacks clear
of mixed images: they go to ``training_step`` alone, as often as it is called for this batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_puzzlemix.callbacks.containers import Path, describe, joined, read, replaced
from lightning_puzzlemix.callbacks.patched_method import PatchedMethod
from lightning_puzzlemix.callbacks.step_notes import note_form


@dataclass(frozen=True)
class _Entry:
    """One entry of a batch: the tensor that was there, its version then, and what comes in its place."""

    found: Tensor
    version: int | None
    value: Any


class BatchSwap:
    """Replaces entries of one batch in every call of ``module.training_step`` until :meth:`remove`.

    The entries are recognized by their place. Strategies rebuild a batch's containers on the way, and may move or cast
    its tensors (FSDP and DDP in mixed precision): the new entries are then moved and cast alike. A batch that was changed
    in any other way since is refused, as the change would be lost.

    Args:
        owner: Name of the callback that messages speak of.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._entries: dict[Path, _Entry] = {}
        self._patch: PatchedMethod | None = None
        self.running = False
        # How often the step has run for this batch.
        self.runs = 0

    def install(self, module: nn.Module, batch: Any, values: Mapping[Path, Any]) -> None:
        """Let ``module.training_step`` get the batch with other values.

        Args:
            module: The LightningModule.
            batch: What Lightning will pass, perhaps rebuilt.
            values: New entries by the path to them.
        """
        self.remove()
        for path, value in values.items():
            found = read(batch, path)
            self._entries[path] = _Entry(found, _version(found), value)
        self._patch = PatchedMethod(module, "training_step", self._step)

    def remove(self) -> None:
        """Leave the module alone again."""
        if self._patch is not None:
            self._patch.remove()
        self._patch, self._entries, self.running, self.runs = None, {}, False, 0

    def _step(self, original: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        swapped = self.swapped(batch)
        assert self._patch is not None
        # Calls of the step inside the step are the user's own, with batches of their own.
        with self._patch.lifted():
            self.running = True
            self.runs += 1
            try:
                return original(swapped, *args, **kwargs)
            except Exception as error:
                entries = [(joined(path), entry.found, entry.value) for path, entry in self._entries.items()]
                note_form(error, self._owner, entries)
                raise
            finally:
                self.running = False

    def swapped(self, batch: Any) -> Any:
        """Return the batch that arrived with the new entries in their places.

        Raises:
            RuntimeError: If an entry is another than it was when the new one was made from it.
        """
        values = {}
        for path, entry in self._entries.items():
            try:
                arrived = read(batch, path)
            except (KeyError, TypeError) as error:
                raise RuntimeError(self._changed(path, batch)) from error
            if not isinstance(arrived, Tensor) or not _is_unchanged(arrived, entry):
                raise RuntimeError(self._changed(path, batch))
            values[path] = _as_arrived(entry.value, entry.found, arrived)
        return replaced(batch, values)

    def _changed(self, path: Path, batch: Any) -> str:
        try:
            shown = describe(batch)
        except TypeError:
            shown = type(batch).__name__
        return (
            f"{self._owner}: entry {'.'.join(map(str, path))!r} of the batch was changed between mixing and training_step, "
            f"which got {shown}; the change would be lost. Make it in the dataset, in on_after_batch_transfer or in "
            "on_train_batch_start (of the module or of any callback), which all come before the mixing"
        )


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; tensors made under inference mode do not count that."""
    return None if tensor.is_inference() else tensor._version


def _is_unchanged(arrived: Tensor, entry: _Entry) -> bool:
    """Whether this is the tensor that was mixed, itself or moved or cast on the way."""
    found = entry.found
    if arrived.shape != found.shape:
        return False
    if (arrived.dtype, arrived.device) != (found.dtype, found.device):
        return _version(found) == entry.version
    return (arrived is found or arrived.data_ptr() == found.data_ptr()) and _version(arrived) == entry.version


def _as_arrived(value: Any, found: Tensor, arrived: Tensor) -> Any:
    """Move and cast a new entry as the old one was on its way."""
    if (arrived.dtype, arrived.device) == (found.dtype, found.device):
        return value
    if isinstance(value, tuple):
        return type(value)(*(_as_arrived(each, found, arrived) for each in value))
    # Soft targets of class indices are floats whatever becomes of the indices.
    return value.to(arrived.device, arrived.dtype if value.dtype == found.dtype else value.dtype)
