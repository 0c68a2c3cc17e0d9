"""Everything random about one batch, drawn in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.validation import check_probability

# Keeps the shared decision to mix independent of everything else drawn from the same seed.
_DECISION_STREAM = 0x6D69780A
# NumPy mixes a seed in a pool of so many 32-bit words, which it fills up with zeros.
_POOL_WORDS = 4
# Two words in front of keys that have to be spelled out, so that no other key equals them.
_SPELLED_OUT = 0xB5297A4D68E31DA4
# The layer of manifold mixup that is not a submodule: the images themselves.
INPUT = "input"


def seed_sequence(key: Sequence[int]) -> np.random.SeedSequence:
    """Return NumPy's seed for a key, another one for every key.

    NumPy writes a key as 32-bit words, a larger number as several, and pads it with zeros: left to itself it would take
    (1,), (1, 0) and (1, 0, 0) for one seed, and 2**32 for (0, 1). Keys to which that could happen are spelled out; all
    others, those of the callbacks with seeds below 2**32 among them, are seeds as they are.

    Raises:
        ValueError: If a number is negative.
    """
    parts = [int(part) for part in key]
    if any(part < 0 for part in parts):
        raise ValueError(f"key must hold integers of at least 0, got {tuple(parts)}")
    widths = [max(1, -(-part.bit_length() // 32)) for part in parts]
    if len(parts) >= _POOL_WORDS and max(widths) == 1:
        return np.random.SeedSequence(parts)
    return np.random.SeedSequence([_SPELLED_OUT, len(parts), *widths, *parts])


def random_generator(key: Sequence[int] | None) -> np.random.Generator:
    """Return NumPy's generator for a key; ``None`` takes the key from torch's global random state."""
    return np.random.default_rng(seed_sequence((int(torch.randint(2**62, ())),) if key is None else key))


@dataclass(frozen=True)
class MixDraw:
    """The random choices of one batch.

    Attributes:
        permutation: (B,) integers, each image's partner.
        lam: Target share of the first image in [0, 1], one number or (B,).
        blocks_per_side: n of the mask's grid.
        adversarial_first: Whether the first images get adversarial noise.
        adversarial_second: Whether their partners do.
        noise_start: (B, C, H, W) random start of the noise, uniform in [-eps, eps] pixel units; needed where either side
            gets noise.
        noise_scale: Factor in [0, 1] on the final noise.
        kept: (B,) bools on the host, the samples that are not mixed but keep their image and target; ``None``: all are mixed.
    """

    permutation: Tensor
    lam: float | Tensor
    blocks_per_side: int
    adversarial_first: bool = False
    adversarial_second: bool = False
    noise_start: Tensor | None = None
    noise_scale: float = 1.0
    kept: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.noise_scale, Tensor):
            # A tensor's value would have to be waited for.
            check_probability("noise_scale", self.noise_scale)
        if self.kept is not None and (self.kept.dtype != torch.bool or self.kept.shape != self.permutation.shape):
            raise ValueError(
                f"kept must be {tuple(self.permutation.shape)} bools, one for each sample, got {self.kept.dtype} "
                f"{tuple(self.kept.shape)}"
            )
        if (self.adversarial_first or self.adversarial_second) and self.noise_start is None:
            raise ValueError(
                "noise_start is missing although adversarial_first or adversarial_second is True: pass a (B, C, H, W) tensor "
                "uniform in [-adversarial_eps, adversarial_eps]"
            )

    @property
    def noise(self) -> Tensor | None:
        """The noise that the saliency is taken at: ``noise_start`` where either side gets noise, else ``None``."""
        return self.noise_start if self.adversarial_first or self.adversarial_second else None


def draw_mix(
    images: Tensor,
    config: PuzzleMixConfig,
    key: Sequence[int] | None,
    *,
    adversarial_prob: float = 0.0,
    adversarial_eps: float = 10 / 255,
    sample_prob: float = 1.0,
) -> MixDraw:
    """Draw what one batch needs; the same key gives the same draw on the same kind of device.

    Args:
        images: (B, C, H, W); only their shape and device count. Tensors are drawn on that device, never copied to it.
        config: ``alpha``, ``per_sample_lam`` and ``grid_sizes`` are read.
        key: Non-negative integers, for example (seed, rank, epoch, batch index); ``None`` takes one from torch's global
            random state (``torch.manual_seed``).
        adversarial_prob: Chance of each side of the pairs to get adversarial noise, drawn once a batch for each side.
        adversarial_eps: Amplitude of that noise in [0, 1] pixel units.
        sample_prob: Chance of each sample to be mixed.

    Raises:
        ValueError: If a grid is larger than the image.
    """
    shorter, largest = min(images.shape[2:]), max(config.grid_sizes)
    if largest > shorter:
        fitting = tuple(size for size in config.grid_sizes if size <= shorter)
        raise ValueError(
            f"grid_sizes must be at most the shorter image side {shorter} (images {tuple(images.shape)}), got "
            f"{tuple(config.grid_sizes)}: pass grid_sizes={fitting or (shorter,)}"
        )
    rng = random_generator(key)
    # The order of these lines is part of what a seed means: add new draws at the end.
    lam: float | Tensor = float(rng.beta(config.alpha, config.alpha))
    blocks_per_side = int(rng.choice(config.grid_sizes))
    generator = torch.Generator(images.device).manual_seed(int(rng.integers(2**63)))
    permutation = torch.randperm(len(images), device=images.device, generator=generator)
    first, second = (bool(value) for value in rng.random(2) < adversarial_prob)
    if config.per_sample_lam:
        # Left on the host, where the solver runs.
        lam = torch.from_numpy(rng.beta(config.alpha, config.alpha, size=len(images)))
    start, scale = None, 1.0
    if first or second:
        uniform = torch.rand(images.shape, dtype=torch.float32, device=images.device, generator=generator)
        start, scale = (2 * uniform - 1) * adversarial_eps, float(rng.random())
    kept = draw_kept(len(images), sample_prob, rng)
    return MixDraw(permutation, lam, blocks_per_side, first, second, start, scale, kept)


def draw_kept(batch: int, sample_prob: float, rng: np.random.Generator) -> Tensor | None:
    """Draw the (B,) samples that are not mixed, each with the chance ``1 - sample_prob``; ``None`` where that is 0."""
    return None if sample_prob >= 1 else torch.from_numpy(rng.random(batch) >= sample_prob)


def draw_decision(prob: float, key: Sequence[int]) -> bool:
    """Decide whether to mix a batch, with the chance ``prob``.

    All ranks must decide alike, or some would wait forever in a collective that others never enter: leave the rank out of
    the key.
    """
    if prob >= 1 or prob <= 0:
        return prob >= 1
    return bool(random_generator((_DECISION_STREAM, *key)).random() < prob)


@dataclass(frozen=True)
class BaselineDraw(MixDraw):
    """The random choices of one batch for a baseline.

    Attributes:
        boxes: (1 or B, 4) integers top, bottom, left, right in pixels: what CutMix cuts from the partners.
        layer: Name of the submodule whose output manifold mixup mixes; ``"input"`` for the images.
    """

    blocks_per_side: int = 1
    boxes: np.ndarray | None = None
    layer: str = INPUT
