"""Training batches that go on where a checkpoint was taken, also in the middle of an epoch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from experiments.common.random_streams import Stream, torch_seed
from experiments.data.splits import EpochPosition, Split


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch) alone, so that a resumed run sees the order that it would have seen anyway.

    A DistributedSampler, so that Lightning leaves it alone where there are several processes. Yields positions that
    carry the epoch, see `EpochPosition`.

    Args:
        dataset: What is sampled from.
        seed: Fixes the orders of all epochs.
        rank: Which of the processes this is.
        world_size: Number of processes; the samples are dealt out to them, some twice if they do not divide evenly.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed)
        self.skipped = 0

    def skip(self, samples: int) -> None:
        """Leave out the first `samples` of this process, of the next epoch only."""
        self.skipped = samples

    def __iter__(self) -> Iterator[int]:
        """This process's share of the positions in the order of this epoch."""
        size: int = len(self.dataset)  # type: ignore[arg-type]  # torch's Dataset has no __len__
        generator = torch.Generator().manual_seed(torch_seed(Stream.SHUFFLE, self.seed, self.epoch))
        order = torch.randperm(size, generator=generator).tolist()
        order += order[: self.total_size - size]
        own = order[self.rank :: self.num_replicas]
        skipped, self.skipped = self.skipped, 0
        return (EpochPosition(position + self.epoch * size) for position in own[skipped:])


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose place in the run Lightning keeps in checkpoints.

    With another sampler, as Lightning puts in for `overfit_batches`, it is a plain DataLoader, which begins its epoch anew.

    Args:
        dataset: The training split.
        sampler: Its order.
        place: Where the run is: the epoch and the number of batches of it that are done.
        settings: Further arguments of DataLoader.
    """

    def __init__(
        self, dataset: Split, *, sampler: EpochSampler, place: Callable[[], tuple[int, int]], **settings: Any
    ) -> None:
        super().__init__(dataset, sampler=sampler, **settings)
        self.place = place

    def state_dict(self) -> dict[str, int]:
        """The place of the run, in samples, as another number of processes may go on from it."""
        if not isinstance(self.sampler, EpochSampler) or self.batch_size is None:
            return {}
        epoch, batches = self.place()
        return {"epoch": epoch, "samples": batches * self.batch_size * self.sampler.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next iteration at this place."""
        if isinstance(self.sampler, EpochSampler) and state:
            # Before Lightning says so: loader processes ask for the first samples as soon as there is an iterator.
            self.sampler.set_epoch(state["epoch"])
            self.sampler.skip(state["samples"] // self.sampler.num_replicas)
