"""No two things in a run are random by the same numbers."""

from itertools import product

import numpy as np
import pytest
import torch
from layouts import ready

from experiments.common.random_streams import Stream, seed_sequence, torch_seed
from experiments.data import DigitsDataModule
from experiments.data.resumable import EpochSampler
from experiments.data.splits import EpochPosition
from lightning_puzzlemix.sampling import seed_sequence as draw_sequence

SEEDS = (0, 1, 2, 77, 2**31, 2**32 - 1, 2**32, 2**32 + 1)


def numbers_of(sequence: np.random.SeedSequence) -> tuple[int, ...]:
    return tuple(np.random.default_rng(sequence).integers(2**63, size=2).tolist())


def test_all_streams_of_runs_differ() -> None:
    """Of the study and of the plugin, with all that is 0 in the first epoch, batch and image, and equal small numbers."""
    few = range(4)
    streams: dict[object, tuple[int, ...]] = {}
    for seed in SEEDS:
        for stream in (Stream.TEST_PART, Stream.VALIDATION_PART, Stream.PER_CLASS, Stream.FRACTION, Stream.PARTNERS):
            streams[seed, stream] = numbers_of(seed_sequence(stream, seed))
        for stream in (Stream.SHUFFLE, Stream.ATTACK):
            streams |= {(seed, stream, key): numbers_of(seed_sequence(stream, seed, key)) for key in few}
        for key in product(few, few):
            streams[seed, Stream.AUGMENTATION, key] = numbers_of(seed_sequence(Stream.AUGMENTATION, seed, *key))
            streams[seed, "decision", key] = numbers_of(draw_sequence((0x6D69780A, seed, *key)))
        for key in product(few, few, few):
            streams[seed, "draw", key] = numbers_of(draw_sequence((seed, *key)))
            streams |= {(seed, "part", key, part): numbers_of(draw_sequence((seed, *key, part))) for part in (1, 2)}
    assert len(streams) > 1500
    assert len(set(streams.values())) == len(streams)


def test_seeds_of_torch_differ_too() -> None:
    """Its generators take 32 bits, so that only few of many can be expected to differ."""
    seeds = [torch_seed(Stream.SHUFFLE, 0, epoch) for epoch in range(300)]
    seeds += [torch_seed(Stream.AUGMENTATION, 0, epoch, index) for epoch in range(10) for index in range(300)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_order_of_an_epoch_and_the_augmentation_of_image_0_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the samples are really drawn: image 0 of epoch 0 would be shuffled by the same generator."""
    size = 1000
    orders = []
    for epoch in range(3):
        sampler = EpochSampler(range(size), 5)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        orders.append([position % size for position in sampler])
    split = ready(DigitsDataModule(seed=5)).split("train")
    monkeypatch.setattr(split, "transform", lambda image: torch.randperm(size))
    split.indices = [0, 1]
    for epoch in range(3):
        augmented = split[EpochPosition(2 * epoch)][0].tolist()
        assert augmented not in orders
        orders.append(augmented)


def test_every_use_has_a_tag_of_its_own() -> None:
    assert len(set(map(int, Stream))) == len(Stream)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed must be at least 0, got -1 \(of shuffle"):
        torch_seed(Stream.SHUFFLE, -1, 0)
