"""Parts of a data set: stratified, limited, shuffled; all of it fixed by seeds."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler


class Source(Protocol):
    """Images with their classes, before any transform."""

    @property
    def targets(self) -> Sequence[int]:
        """Classes of all samples, known without reading an image."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The image (PIL or a (C,H,W) tensor) and the class of sample `index`."""


class Split(Dataset[tuple[Tensor, int]]):
    """Some samples of a source, transformed."""

    def __init__(self, source: Source, indices: Sequence[int], transform: Callable[[Any], Tensor]) -> None:
        self.source = source
        self.indices = [int(index) for index in indices]
        self.transform = transform

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """The transformed image (C,H,W) and its class."""
        image, target = self.source[self.indices[position]]
        return self.transform(image), int(target)

    @property
    def targets(self) -> list[int]:
        """Classes of all samples, without reading an image."""
        return [int(self.source.targets[index]) for index in self.indices]


class EpochSampler(RandomSampler):
    """Shuffles by (seed, epoch) alone, so that a resumed run sees the order that it would have seen anyway.

    A RandomSampler, because that is how Lightning recognises that a loader shuffles when it distributes it.
    """

    def __init__(self, data_source: Dataset[Any], seed: int) -> None:
        super().__init__(data_source)  # type: ignore[arg-type]  # torch wants Sized, its Dataset has no __len__
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """All positions once, in the order of this epoch."""
        mixed_seed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed_seed))
        return iter(torch.randperm(self.num_samples, generator=generator).tolist())


def split_stratified(
    targets: Sequence[int], indices: Sequence[int], *, share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Take `share` (in [0,1]) of every class out of `indices`; return (the rest, what was taken), both sorted.

    A class gives `round(share * its size)` samples; which ones is fixed by `seed`.
    """
    rng = np.random.default_rng(seed)
    kept, taken = [], []
    for members in _by_class(targets, indices):
        shuffled = rng.permutation(members)
        count = round(share * len(members))
        taken += shuffled[:count].tolist()
        kept += shuffled[count:].tolist()
    return sorted(kept), sorted(taken)


def limit_per_class(targets: Sequence[int], indices: Sequence[int], *, limit: int, seed: int) -> list[int]:
    """At most `limit` samples of every class out of `indices`, sorted; which ones is fixed by `seed`."""
    rng = np.random.default_rng(seed)
    return sorted(
        index for members in _by_class(targets, indices) for index in rng.permutation(members)[:limit].tolist()
    )


def _by_class(targets: Sequence[int], indices: Sequence[int]) -> list[np.ndarray]:
    """Group `indices` by class, in the order of the classes."""
    positions = np.asarray(indices, dtype=np.int64)
    classes = np.asarray(targets)[positions]
    return [positions[classes == label] for label in np.unique(classes)]
