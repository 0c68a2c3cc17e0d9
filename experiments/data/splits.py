"""Parts of a data set: stratified, limited, shuffled; all of it fixed by seeds."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class Source(Protocol):
    """Images with their classes, before any transform."""

    @property
    def targets(self) -> Sequence[int]:
        """Classes of all samples, known without reading an image."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The image (PIL or a (C,H,W) tensor) and the class of sample `index`."""


class Split(Dataset[tuple[Tensor, int]]):
    """Some samples of a source, transformed.

    Positions beyond the last sample begin anew and stand for later epochs: position p is sample p modulo the length, in
    epoch p // length.

    Args:
        source: The images.
        indices: Which of them, in which order.
        transform: Makes an image a tensor (C,H,W).
        seed: Makes what is random in `transform` a function of (seed, epoch, index), so that neither a resumed run nor the
            number of loader processes changes it; None: torch's random state decides.
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

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """The transformed image (C,H,W) and its class."""
        epoch, position = divmod(position, len(self))
        index = self.indices[position]
        image, target = self.source[index]
        if self.seed is None:
            return self.transform(image), int(target)
        mixed_seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]
        # Not torch.manual_seed, which would seed the GPU too.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(int(mixed_seed))
        try:
            return self.transform(image), int(target)
        finally:
            torch.set_rng_state(state)

    @property
    def targets(self) -> list[int]:
        """Classes of all samples, without reading an image."""
        return [int(self.source.targets[index]) for index in self.indices]


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


def take_per_class(targets: Sequence[int], indices: Sequence[int], *, limit: int, seed: int) -> list[int]:
    """At most `limit` samples of every class out of `indices`, sorted; fixed by `seed`, a smaller part of a larger one."""
    rng = np.random.default_rng(seed)
    return sorted(
        index for members in _by_class(targets, indices) for index in rng.permutation(members)[:limit].tolist()
    )


def take_fraction(targets: Sequence[int], indices: Sequence[int], *, fraction: float, seed: int) -> list[int]:
    """`fraction` (in (0,1]) of every class out of `indices`, at least one sample of each, sorted.

    Fixed by `seed`; a smaller fraction is part of a larger one.
    """
    rng = np.random.default_rng(seed)
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
