"""Seeds of everything random in the study, one stream of numbers for each use.

NumPy pads short seeds with zeros, so that (seed,), (seed, 0) and (seed, 0, 0) are the same stream: each use has a tag.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What random numbers are for."""

    TEST_PART = 0x74657374
    VALIDATION_PART = 0x76616C69
    PER_CLASS = 0x70636C73
    FRACTION = 0x66726163
    SHUFFLE = 0x73687566
    AUGMENTATION = 0x6175676D
    ATTACK = 0x61747461
    PARTNERS = 0x70616972


def seed_sequence(stream: Stream, seed: int, *key: int) -> np.random.SeedSequence:
    """The seed of a stream, from that of the run or split and where it is used (an epoch): always as many, in [0, 2**32)."""
    if min(seed, *key, 0) < 0:
        raise ValueError(f"seed must be at least 0, got {seed} (of {stream.name.lower()}, {key})")
    return np.random.SeedSequence((seed, int(stream), *key))


def torch_seed(stream: Stream, seed: int, *key: int) -> int:
    """A seed for a generator of torch's, see `seed_sequence`; 32 bits, as its generator on the CPU takes no more."""
    return int(seed_sequence(stream, seed, *key).generate_state(1)[0])
