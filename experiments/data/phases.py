"""A run in phases: other images, sizes and batches from some epochs on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.data.base import ImageDataModule, coming_epoch
from experiments.data.splits import Split


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run.

    Args:
        until: First epoch after it, counted from 0.
        data: What it trains and validates on.
    """

    until: int
    data: ImageDataModule


class PhasedDataModule(pl.LightningDataModule):
    """Trains and validates in each epoch on the data of its phase; tests on that of the last one.

    Needs a Trainer with `reload_dataloaders_every_n_epochs=1`. The number of batches may change from phase to phase.
    Whatever else a data module is asked for, the last phase answers, whose settings the network is meant for.

    A run may be resumed in any phase and in mid-epoch. Lightning only goes wrong with a checkpoint that was written in
    `on_train_batch_end` of the last batch before a phase of more batches: it leaves out the first batches of that phase.

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
        for number, phase in enumerate(phases[:-1]):
            found, wanted = (phase.data.mean, phase.data.std), (self.last.mean, self.last.std)
            if found != wanted:
                raise ValueError(
                    f"data.phases.{number}.data must have the mean and std of the last phase, {wanted}, got {found}"
                )
        self._loaders: dict[str, tuple[int, Any]] = {}

    @property
    def last(self) -> ImageDataModule:
        """The data of the last phase."""
        return self.phases[-1].data

    def __getattr__(self, name: str) -> Any:
        """Facts of the data: those of the last phase."""
        # Not for what makes an object itself, which pickle and copy ask for before there are phases.
        if name.startswith("_") or "phases" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.last, name)

    def split(self, name: str) -> Split:
        """The samples of "train", "val" or "test" of the last phase."""
        return self.last.split(name)

    def prepare_data(self) -> None:
        """Prepare the data of all phases."""
        for phase in self.phases:
            phase.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set up the data of all phases.

        Raises:
            ValueError: If their classes differ.
        """
        # Another Trainer may share the batch among other numbers of processes.
        self._loaders = {}
        for number, phase in enumerate(self.phases):
            phase.data.trainer = self.trainer
            phase.data.setup(stage)
            if phase.data.class_names != self.last.class_names:
                raise ValueError(
                    f"data.phases.{number}.data must have the classes of the last phase, and it has others"
                )

    def phase_at(self, epoch: int) -> int:
        """Number of the phase that an epoch belongs to."""
        return next((number for number, phase in enumerate(self.phases) if epoch < phase.until), len(self.phases) - 1)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Training batches of the running phase; the same loader as long as it runs.

        Raises:
            ValueError: If the Trainer would never ask for the loader of the next phase.
        """
        if self.trainer is not None and len(self.phases) > 1:
            every = self.trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
            if every != 1:
                raise ValueError(f"data in phases needs trainer.reload_dataloaders_every_n_epochs=1, got {every}")
        loader = self._loader("train_dataloader")
        loader.sampler.set_epoch(coming_epoch(self.trainer))
        return loader

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, Tensor]]]:
        """Validation batches of the running phase."""
        return self._loader("val_dataloader")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Test batches of the last phase."""
        return self.last.test_dataloader()

    def _loader(self, kind: str) -> Any:
        number = self.phase_at(coming_epoch(self.trainer))
        if self._loaders.get(kind, (None,))[0] != number:
            # Kept for the whole phase, so that its loader processes stay; the last phase's are let go with it.
            self._loaders[kind] = (number, getattr(self.phases[number].data, kind)())
        return self._loaders[kind][1]
