"""Parts of a data set: stratified, limited, shuffled; all of it fixed by seeds."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from experiments.common.random_streams import Stream, seed_sequence, torch_seed


class Source(Protocol):
    """Images with their classes, before any transform."""

    @property
    def targets(self) -> Sequence[int]:
        """Classes of all samples, known without reading an image."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The image (PIL or a (C,H,W) tensor) and the class of sample `index`."""


class ImageSource(ABC):
    """A source that is indexed as a sequence is; what makes one image is left to subclasses.

    Attributes:
        targets: Classes of all samples.
    """

    targets: Sequence[int]

    @abstractmethod
    def load(self, index: int) -> Any:
        """The image, PIL or a (C,H,W) tensor, of sample `index`, in [0, len)."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def __getitem__(self, index: SupportsIndex) -> tuple[Any, int]:
        """The image and the class of sample `index`; negative ones count from the end.

        Raises:
            IndexError: If there is no such sample.
            TypeError: If it is no integer.
        """
        place = check_index(index, len(self))
        return self.load(place), int(self.targets[place])


class EpochPosition(int):
    """A sample of a later epoch: position p of a split is its sample p modulo the length, in epoch p // length."""


class Split(Dataset[tuple[Tensor, int]]):
    """Some samples of a source, transformed: a sequence, of epoch 0 unless it is indexed by an `EpochPosition`.

    Args:
        source: The images.
        indices: Which of them, in which order, each in [0, number of images).
        transform: Makes an image a tensor (C,H,W).
        seed: Makes what is random in `transform` a function of (seed, epoch, index), so that neither a resumed run nor the
            number of loader processes changes it; None: torch's random state decides.

    Raises:
        ValueError: If an index is outside of the source.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        transform: Callable[[Any], Tensor],
        *,
        seed: int | None = None,
    ) -> None:
        self.source = source
        self.indices = [int(index) for index in indices]
        self.transform = transform
        self.seed = seed
        images = len(source.targets)
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
        if isinstance(position, EpochPosition) and position >= 0 and self.indices:
            epoch, place = divmod(int(position), len(self))
        else:
            epoch, place = 0, check_index(position, len(self))
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


def check_index(index: SupportsIndex, length: int) -> int:
    """The place in [0, length) that an index means.

    Raises:
        IndexError: If there is none.
        TypeError: If it is no integer; slices are not taken.
    """
    if isinstance(index, slice):
        raise TypeError("samples are read one at a time, not by slices; use torch.utils.data.Subset for a part of them")
    place = operator.index(index)
    if not -length <= place < length:
        raise IndexError(f"index {place} is out of range for {length} samples")
    return place % length


def split_stratified(
    targets: Sequence[int],
    indices: Sequence[int],
    *,
    share: float,
    seed: int,
    stream: Stream = Stream.VALIDATION_PART,
) -> tuple[list[int], list[int]]:
    """Take `share` (in [0,1]) of every class out of `indices`; return (the rest, what was taken), both sorted.

    A class gives `round(share * its size)` samples; which ones is fixed by `seed` and by `stream`, what they are for.
    """
    rng = np.random.default_rng(seed_sequence(stream, seed))
    kept, taken = [], []
    for members in _by_class(targets, indices):
        shuffled = rng.permutation(members)
        count = round(share * len(members))
        taken += shuffled[:count].tolist()
        kept += shuffled[count:].tolist()
    return sorted(kept), sorted(taken)


def take_per_class(targets: Sequence[int], indices: Sequence[int], *, limit: int, seed: int) -> list[int]:
    """At most `limit` samples of every class out of `indices`, sorted; fixed by `seed`, a smaller part of a larger one."""
    rng = np.random.default_rng(seed_sequence(Stream.PER_CLASS, seed))
    return sorted(
        index for members in _by_class(targets, indices) for index in rng.permutation(members)[:limit].tolist()
    )


def take_fraction(targets: Sequence[int], indices: Sequence[int], *, fraction: float, seed: int) -> list[int]:
    """`fraction` (in (0,1]) of every class out of `indices`, at least one sample of each, sorted.

    Fixed by `seed`; a smaller fraction is part of a larger one.
    """
    rng = np.random.default_rng(seed_sequence(Stream.FRACTION, seed))
    return sorted(
        index
        for members in _by_class(targets, indices)
        for index in rng.permutation(members)[: max(1, round(fraction * len(members)))].tolist()
    )


def _by_class(targets: Sequence[int], indices: Sequence[int]) -> list[np.ndarray]:
    """Group `indices` by class, in the order of the classes."""
    positions = np.asarray(indices, dtype=np.int64)
    classes = np.asarray(targets)[positions]
    return [positions[classes == label] for label in np.unique(classes)]
