"""Images with their classes, and the parts of them that are trained and evaluated on."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from experiments.common import Stream, seed_sequence, torch_seed

Transform = Callable[[Any], Tensor]


@dataclass
class ImageList:
    """Images with their classes, before any transform: `read(items[i])` is image i (PIL or a (C,H,W) tensor)."""

    items: Sequence[Any]  # Images, or what they are read from on demand, such as paths.
    targets: Sequence[int]
    read: Callable[[Any], Any]  # Picklable.

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: SupportsIndex) -> tuple[Any, int]:
        """The image and the class of sample `index`."""
        index = operator.index(index)
        return self.read(self.items[index]), int(self.targets[index])


class EpochPosition(int):
    """A sample of a later epoch: position p of a split is its sample p modulo the length, in epoch p // length."""


class Split(Dataset[tuple[Tensor, int]]):
    """Some samples of a source, transformed: a sequence, of epoch 0 unless it is indexed by an `EpochPosition`.

    `seed` makes the randomness of `transform` a function of (seed, epoch, index), so that neither resuming nor the number of
    loader processes changes it; None: torch's random state decides.
    """

    def __init__(
        self, source: ImageList, indices: Sequence[int] | None, transform: Transform, *, seed: int | None = None
    ) -> None:
        self.source = source
        self.indices = list(range(len(source.targets)) if indices is None else indices)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: SupportsIndex) -> tuple[Tensor, int]:
        """The transformed image (C,H,W), or its views, and its class."""
        epoch, place = 0, operator.index(position)
        if isinstance(position, EpochPosition) and self.indices:
            epoch, place = divmod(place, len(self))
        index = self.indices[place]
        image, target = self.source[index]
        if self.seed is None:
            return self.transform(image), int(target)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the GPU too.
            torch.default_generator.manual_seed(torch_seed(Stream.AUGMENTATION, self.seed, epoch, index))
            return self.transform(image), int(target)

    @property
    def targets(self) -> list[int]:
        """Classes of all samples, without reading an image."""
        return [int(self.source.targets[index]) for index in self.indices]


def sample_classes(
    targets: Sequence[int], indices: Sequence[int], count: Callable[[int], int], *, stream: Stream, seed: int
) -> tuple[list[int], list[int]]:
    """Draw some of the indices: of every class of n samples `count(n)`; return those drawn and the others, both sorted.

    Fixed by `stream` and `seed`, so that a smaller sample is part of a larger one.
    """
    rng = np.random.default_rng(seed_sequence(stream, seed))
    positions = np.asarray(indices, dtype=np.int64)
    classes = np.asarray(targets)[positions]
    drawn: list[int] = []
    for label in np.unique(classes):
        members = positions[classes == label]
        drawn += rng.permutation(members)[: count(len(members))].tolist()
    return sorted(drawn), sorted(set(positions.tolist()) - set(drawn))
