"""A run in phases: other images, sizes and batches from some epochs on."""

import reprlib
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.data.base import ImageDataModule, next_epoch


class Phase:
    """A part of a run, up to the epoch `until` (counted from 0, not part of it), on `data`."""

    # No dataclass, which Hydra would make a config of.
    def __init__(self, *, until: int, data: ImageDataModule) -> None:
        self.until = until
        self.data = data


class PhasedDataModule(pl.LightningDataModule):
    """Trains and validates in each epoch on the data of its phase; all other attributes are those of the last phase.

    Needs a Trainer with `reload_dataloaders_every_n_epochs=1`. The number of batches may change from phase to phase; the last
    phase lasts as long as the run.

    A run can be resumed in any phase and in mid-epoch, except from a checkpoint that was written in `on_train_batch_end` of
    the last batch before a phase of more batches: there Lightning skips the first batches of that phase.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        super().__init__()
        ends = [phase.until for phase in phases]
        if ends != sorted(set(ends)) or not ends or ends[0] < 1:
            raise ValueError(f"data.phases must be at least one, with increasing `until` of at least 1, got {ends}")
        self.phases = list(phases)
        self.last = self.phases[-1].data
        self._check("mean")
        self._check("std")

    def __getattr__(self, name: str) -> Any:
        # Not private ones, which pickle and copy ask for before there are phases.
        if name.startswith("_") or "last" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.last, name)

    def _check(self, name: str) -> None:
        found = [getattr(phase.data, name) for phase in self.phases]
        if any(each != found[-1] for each in found):
            raise ValueError(f"data.phases must have the same {name}, got {reprlib.repr(found)}")

    def prepare_data(self) -> None:
        """Prepare the data of all phases."""
        for phase in self.phases:
            phase.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set up the data of all phases; a ValueError if their classes differ."""
        for phase in self.phases:
            phase.data.trainer = self.trainer
            phase.data.setup(stage)
        self._check("class_names")

    @property
    def current(self) -> ImageDataModule:
        """The data of the epoch that loaders are asked for."""
        epoch = next_epoch(self.trainer)
        return next((phase.data for phase in self.phases if epoch < phase.until), self.last)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Training batches of the current phase."""
        every = 1 if self.trainer is None else self.trainer.reload_dataloaders_every_n_epochs
        if every != 1 and len(self.phases) > 1:
            raise ValueError(f"data in phases needs trainer.reload_dataloaders_every_n_epochs=1, got {every}")
        return self.current.train_dataloader()

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, Tensor]]]:
        """Validation batches of the current phase."""
        return self.current.val_dataloader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Test batches of the last phase."""
        return self.last.test_dataloader()
