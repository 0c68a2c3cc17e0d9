"""A run in phases: other images, sizes and batches from some epochs on."""

import reprlib
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.data.base import ImageDataModule, next_epoch
from experiments.data.splits import Split


class Phase:
    """A part of a run, up to the epoch `until` (counted from 0, not part of it), on `data`."""

    # No dataclass, which Hydra would make a config of.
    def __init__(self, *, until: int, data: ImageDataModule) -> None:
        self.until = until
        self.data = data


class PhasedDataModule(pl.LightningDataModule):
    """Trains and validates in each epoch on the data of its phase; tests on that of the last one.

    Needs a Trainer with `reload_dataloaders_every_n_epochs=1`. The number of batches may change from phase to phase.
    All other attributes are those of the last phase, whose settings the network is meant for.

    A run can be resumed in any phase and in mid-epoch, except from a checkpoint that was written in `on_train_batch_end` of
    the last batch before a phase of more batches: there Lightning skips the first batches of that phase.

    Args:
        phases: The phases in their order; the last one lasts as long as the run.

    Raises:
        ValueError: If there are none, if they do not follow each other, or if they differ in channels or normalization.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        super().__init__()
        if not phases:
            raise ValueError("data.phases must hold at least one phase, got none")
        ends = [phase.until for phase in phases]
        if ends != sorted(set(ends)) or ends[0] < 1:
            raise ValueError(f"data.phases must have increasing `until` of at least 1, got {ends}")
        self.phases = list(phases)
        self._check("mean")
        self._check("std")
        self._loaders: dict[str, tuple[int, Any]] = {}

    @property
    def last(self) -> ImageDataModule:
        """The data of the last phase."""
        return self.phases[-1].data

    def __getattr__(self, name: str) -> Any:
        """Attributes of the last phase."""
        # Not private ones, which pickle and copy ask for before there are phases.
        if name.startswith("_") or "phases" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.last, name)

    def _check(self, name: str) -> None:
        wanted = getattr(self.last, name)
        for number, phase in enumerate(self.phases):
            found = getattr(phase.data, name)
            if found != wanted:
                values = f"{reprlib.repr(wanted)}, got {reprlib.repr(found)}"
                raise ValueError(f"data.phases.{number}.data must have the {name} of the last phase, {values}")

    def split(self, name: str) -> Split:
        """The samples of "train", "val" or "test" of the last phase."""
        return self.last.split(name)

    def prepare_data(self) -> None:
        """Prepare the data of all phases."""
        for phase in self.phases:
            phase.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set up the data of all phases; a ValueError if their classes differ."""
        # Another Trainer may share the batch among other numbers of processes.
        self._loaders = {}
        for phase in self.phases:
            phase.data.trainer = self.trainer
            phase.data.setup(stage)
        self._check("class_names")

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Training batches of the current phase; the same loader throughout it.

        Raises:
            ValueError: If the Trainer would never ask for the loader of the next phase.
        """
        if self.trainer is not None and len(self.phases) > 1:
            every = self.trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
            if every != 1:
                raise ValueError(f"data in phases needs trainer.reload_dataloaders_every_n_epochs=1, got {every}")
        loader = self._loader("train_dataloader")
        loader.sampler.set_epoch(next_epoch(self.trainer))
        return loader

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, Tensor]]]:
        """Validation batches of the current phase."""
        return self._loader("val_dataloader")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Test batches of the last phase."""
        return self.last.test_dataloader()

    def _loader(self, kind: str) -> Any:
        epoch = next_epoch(self.trainer)
        number = next(
            (number for number, phase in enumerate(self.phases[:-1]) if epoch < phase.until), len(self.phases) - 1
        )
        if self._loaders.get(kind, (None,))[0] != number:
            # Kept for the whole phase, so that its loader processes stay; those of the previous phase end.
            self._loaders[kind] = (number, getattr(self.phases[number].data, kind)())
        return self._loaders[kind][1]
