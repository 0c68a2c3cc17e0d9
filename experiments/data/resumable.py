"""Training batches that resume at a checkpoint, also in the middle of an epoch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from experiments.common import Stream, torch_seed
from experiments.data.splits import EpochPosition


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch) alone, so that a resumed run sees the same order; yields `EpochPosition`s.

    A DistributedSampler, so that Lightning does not replace it where there are several processes. They share the samples;
    some come twice if these do not divide evenly.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed)
        # Samples of this process that the next epoch leaves out.
        self.skipped = 0

    def __iter__(self) -> Iterator[int]:
        """The positions of this process in the order of this epoch."""
        size: int = len(self.dataset)  # type: ignore[arg-type]  # torch's Dataset has no __len__
        generator = torch.Generator().manual_seed(torch_seed(Stream.SHUFFLE, self.seed, self.epoch))
        order = torch.randperm(size, generator=generator).tolist()
        order += order[: self.total_size - size]
        own = order[self.rank :: self.num_replicas]
        skipped, self.skipped = self.skipped, 0
        return (EpochPosition(position + self.epoch * size) for position in own[skipped:])


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose position in the run Lightning stores in checkpoints.

    With another sampler, such as Lightning's for `overfit_batches`, it is a plain DataLoader, which restarts its epoch.
    """

    # Gives the current epoch and the number of its finished batches.
    position: Callable[[], tuple[int, int]]

    def state_dict(self) -> dict[str, int]:
        """The position in samples, so that another number of processes can resume there."""
        if not isinstance(self.sampler, EpochSampler) or self.batch_size is None:
            return {}
        epoch, batches = self.position()
        return {"epoch": epoch, "samples": batches * self.batch_size * self.sampler.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration at this position."""
        if isinstance(self.sampler, EpochSampler) and state:
            # Before Lightning does so: loader processes ask for the first samples as soon as there is an iterator.
            self.sampler.set_epoch(state["epoch"])
            self.sampler.skipped = state["samples"] // self.sampler.num_replicas
