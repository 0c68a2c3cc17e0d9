"""Images with their classes, and the parts of them that are trained and evaluated on."""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from experiments.common import Stream, seed_sequence, torch_seed

Transform = Callable[[Any], Tensor]


class Source(Protocol):
    """Images with their classes, before any transform."""

    @property
    def targets(self) -> Sequence[int]:
        """Classes of all samples, known without reading an image."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The image (PIL or a (C,H,W) tensor) and the class of sample `index`."""


@dataclass
class ImageList:
    """A source that reads image i from `items[i]` on demand.

    Args:
        items: What identifies the images, such as paths.
        targets: Their classes.
        read: Makes an item an image (PIL or a (C,H,W) tensor); must be picklable.
    """

    items: Sequence[Any]
    targets: Sequence[int]
    read: Callable[[Any], Any]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.targets)

    def __getitem__(self, index: SupportsIndex) -> tuple[Any, int]:
        """The image and the class of sample `index`."""
        index = operator.index(index)
        return self.read(self.items[index]), int(self.targets[index])


class EpochPosition(int):
    """A sample of a later epoch: position p of a split is its sample p modulo the length, in epoch p // length."""


class Split(Dataset[tuple[Tensor, int]]):
    """Some samples of a source, transformed: a sequence, of epoch 0 unless it is indexed by an `EpochPosition`.

    Args:
        source: The images.
        indices: Which of them, in which order; None: all.
        transform: Makes an image a tensor (C,H,W).
        seed: Makes the randomness of `transform` a function of (seed, epoch, index), so that neither resuming nor the
            number of loader processes changes it; None: torch's random state decides.

    Raises:
        ValueError: If an index is outside of the source.
    """

    def __init__(
        self, source: Source, indices: Sequence[int] | None, transform: Transform, *, seed: int | None = None
    ) -> None:
        images = len(source.targets)
        self.source = source
        self.indices = [int(index) for index in (range(images) if indices is None else indices)]
        self.transform = transform
        self.seed = seed
        if self.indices and not 0 <= min(self.indices) <= max(self.indices) < images:
            raise ValueError(
                f"indices must be in [0, {images}), the images of the source, got {min(self.indices)} to {max(self.indices)}"
            )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """All samples of epoch 0, in order; an IndexError of the source is an error and not their end."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: SupportsIndex) -> tuple[Tensor, int]:
        """The transformed image (C,H,W) and its class; negative positions count from the end.

        Raises:
            IndexError: If there is no such sample.
            TypeError: If the position is no integer.
        """
        epoch, place = 0, operator.index(position)
        if isinstance(position, EpochPosition) and place >= 0 and self.indices:
            epoch, place = divmod(place, len(self))
        index = self.indices[place]
        image, target = self.source[index]
        if self.seed is None:
            return self.transform(image), int(target)
        # Not torch.manual_seed, which would seed the GPU too.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(torch_seed(Stream.AUGMENTATION, self.seed, epoch, index))
        try:
            return self.transform(image), int(target)
        finally:
            torch.set_rng_state(state)

    @property
    def targets(self) -> list[int]:
        """Classes of all samples, without reading an image."""
        return [int(self.source.targets[index]) for index in self.indices]


def sample_classes(
    targets: Sequence[int], indices: Sequence[int], count: Callable[[int], int], *, stream: Stream, seed: int
) -> tuple[list[int], list[int]]:
    """Draw from every class; fixed by `stream` and `seed`, so that a smaller sample is part of a larger one.

    Args:
        targets: Classes of all samples.
        indices: The samples to draw from.
        count: Maps the size of a class to the number to draw.
        stream: What the samples are for.
        seed: The seed.

    Returns:
        The drawn and the other indices, both sorted.
    """
    rng = np.random.default_rng(seed_sequence(stream, seed))
    positions = np.asarray(indices, dtype=np.int64)
    classes = np.asarray(targets)[positions]
    drawn: list[int] = []
    for label in np.unique(classes):
        members = positions[classes == label]
        drawn += rng.permutation(members)[: count(len(members))].tolist()
    return sorted(drawn), sorted(set(positions.tolist()) - set(drawn))
