"""Numbers at the ends of what a dtype holds, and values that are no numbers: refused by name, or mixed as they should be."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from distributed_cases import Classifier
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

import lightning_puzzlemix as pm
from lightning_puzzlemix.config import MOST_BLOCKS, MOST_LABELS, MOST_MOVING_BLOCKS
from lightning_puzzlemix.core.energy import mask_energy
from lightning_puzzlemix.core.grid import Grid
from lightning_puzzlemix.solvers import warm_up
from lightning_puzzlemix.solvers.matching import match_blocks
from lightning_puzzlemix.solvers.maxflow import minimize_labels
from lightning_puzzlemix.solvers.problem import energy_of_mask, mixing_prior
from lightning_puzzlemix.validation import LARGEST, MOST_CLASSES

NAN, INF = float("nan"), float("inf")
OWNERS: dict[str, Callable[..., Any]] = {
    "alpha": pm.PuzzleMixConfig, "beta": pm.PuzzleMixConfig, "gamma": pm.PuzzleMixConfig, "eta": pm.PuzzleMixConfig,
    "transport_cost": pm.PuzzleMixConfig, "clean_weight": pm.PuzzleMix, "adversarial_prob": pm.PuzzleMix,
    "adversarial_eps": pm.PuzzleMix, "num_labels": pm.PuzzleMixConfig, "neighborhood_size": pm.PuzzleMixConfig,
    "transport_size": pm.PuzzleMixConfig, "threads": pm.PuzzleMixConfig, "num_classes": pm.PuzzleMix,
}  # fmt: skip
REALS = [*OWNERS][:8]
INTEGERS = [*OWNERS][8:]
NOT_A_NUMBER = [
    True, False, np.True_, "1", b"1", "1e39", None, 1j, np.complex64(1), Decimal(1), [1], (1.0,), {1}, {"a": 1}, object,
    torch.tensor(1.0), torch.tensor(1), np.array(1.0), np.array([1]), np.datetime64("2020-01-01"), slice(1),
]  # fmt: skip


@pytest.mark.parametrize("name", OWNERS)
@pytest.mark.parametrize("value", NOT_A_NUMBER, ids=lambda value: f"{type(value).__name__}-{value}"[:24])
def test_what_is_no_number_is_refused_by_name(name: str, value: Any) -> None:
    if value is None and name in ("transport_size", "threads", "num_classes"):
        assert getattr(OWNERS[name](**{name: value}), name) is None
        return
    with pytest.raises(TypeError, match=f"{name} must be (a number|an integer)( or None)?, got"):
        OWNERS[name](**{name: value})


@pytest.mark.parametrize("name", REALS)
@pytest.mark.parametrize(
    "value", [NAN, INF, -INF, -1e-300, -5e-324, 1e39, 1.7e308, 10**400, Fraction(10**400), 1.0001e6]
)
def test_numbers_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*got"):
        OWNERS[name](**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, -(10**400)])
def test_integers_out_of_range_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        OWNERS[name](**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_labels", MOST_LABELS + 1), ("num_labels", 100_000), ("threads", 1025), ("num_classes", MOST_CLASSES + 1),
     ("grid_sizes", (2, MOST_BLOCKS + 1)), ("grid_sizes", [10**400])],
)  # fmt: skip
def test_numbers_that_would_hang_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        OWNERS.get(name, pm.PuzzleMixConfig)(**{name: value})


@pytest.mark.parametrize(
    "make", [pm.MixUp, pm.CutMix, lambda alpha: pm.ManifoldMix(alpha=alpha), pm.MixUpCallback, pm.CutMixCallback]
)
@pytest.mark.parametrize("value", [0, -1.0, 5e-324, 9e-7, NAN, INF, 1.7e308, 10**400, True, "1", torch.tensor(1.0), 1j])
def test_alpha_of_the_baselines(make: Any, value: Any) -> None:
    """From about 1e308 on NumPy draws lam = 0 in silence, and far below 1e-6 older ones do not come to an end."""
    with pytest.raises((TypeError, ValueError), match="alpha must be"):
        make(alpha=value)


@given(st.floats(1 / LARGEST, LARGEST))
def test_lam_of_any_alpha_lies_in_the_unit_interval(alpha: float) -> None:
    draw = pm.MixUp(alpha=alpha, per_sample=True).draw(torch.zeros(64, 1, 4, 4), key=(0,))
    assert isinstance(draw.lam, Tensor)
    assert bool(((draw.lam >= 0) & (draw.lam <= 1)).all())
    if alpha > 1e4:
        assert bool((draw.lam - 0.5).abs().max() < 0.1)


@pytest.mark.parametrize("name", ["mean", "std", "grid_sizes"])
@pytest.mark.parametrize(
    "value", ["0.5", b"\x02", {2}, {2: 1}, frozenset({2}), 2, 0.5, np.array(2), torch.tensor(2), [True], ["2"], [1j]]
)
def test_sequences_that_are_none(name: str, value: Any) -> None:
    other = {"mean": {"std": (1.0,)}, "std": {"mean": (1.0,)}}.get(name, {})
    with pytest.raises(TypeError, match=f"{name} must be"):
        pm.PuzzleMixConfig(**{name: value}, **other)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [((1e39,), (1.0,), "mean must be in"), ((-1e7,), (1.0,), "mean must be in"), ((0.5,), (1e39,), "std must be in"),
     ((0.5,), (1e-300,), "std must be > 0"), ((0.5,), (5e-324,), "std must be > 0"), ((10**400,), (1.0,), "mean must be"),
     ((NAN,), (1.0,), "mean must hold"), ((0.5,), (-INF,), "std must hold")],
)  # fmt: skip
def test_normalizations_that_float32_cannot_undo(mean: Any, std: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        pm.PuzzleMixConfig(mean=mean, std=std)


@pytest.mark.parametrize("number", [int, np.int8, np.int32, np.uint8, np.uint64])
def test_integers_of_any_type_become_plain_ones(number: Any) -> None:
    config = pm.PuzzleMixConfig(
        num_labels=number(3), threads=number(2), transport_size=number(2), grid_sizes=[number(2)]
    )
    assert {type(config.num_labels), type(config.threads), type(config.transport_size), type(config.grid_sizes[0])} == {
        int
    }
    assert config == pm.PuzzleMixConfig(num_labels=3, threads=2, transport_size=2, grid_sizes=(2,))


@pytest.mark.parametrize("number", [int, float, np.float16, np.float32, np.float64, np.longdouble, Fraction, np.int8])
def test_reals_of_any_type_become_plain_ones(number: Any) -> None:
    config = pm.PuzzleMixConfig(
        alpha=number(2), beta=number(2), gamma=number(1), eta=number(2), transport_cost=number(2)
    )
    values = (config.alpha, config.beta, config.gamma, config.eta, config.transport_cost)
    assert values == (2.0, 2.0, 1.0, 2.0, 2.0)
    assert {type(value) for value in values} == {float}
    assert type(pm.PuzzleMix(clean_weight=number(1)).clean_weight) is float


def mixed(
    images: Tensor, saliency: Tensor, config: pm.PuzzleMixConfig | None = None, lam: Any = 0.5, blocks: int = 4
) -> Any:
    permutation = torch.arange(len(images)).roll(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "images un-normalized")
        return pm.puzzle_mix(images, saliency, permutation=permutation, lam=lam, blocks_per_side=blocks, config=config)


IMAGES, SALIENCY = torch.rand(4, 3, 16, 16), torch.rand(4, 16, 16) + 0.1


@pytest.mark.parametrize("value", [2e38, -2e38, 3.4e38, 1e20, -4e6])
@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_pixels_that_overflow_the_energy_are_refused_by_sample(value: float, blocks: int) -> None:
    images = IMAGES.clone()
    images[2] = value * (1 + images[2]) / 2
    with pytest.raises(ValueError, match=r"images .*(in sample 2|first in sample 2)"):
        mixed(images, SALIENCY, blocks=blocks)
    far = pm.PuzzleMixConfig(mean=(0.5,) * 3, std=(1e6,) * 3)
    with pytest.raises(ValueError, match=r"images .*std=\(1000000.0.*(in sample 2|first in sample 2)"):
        mixed(torch.where(images == IMAGES, 0.0, images.sign() * 1e3), SALIENCY, far, blocks=blocks)


@pytest.mark.parametrize("factor", [1e-300, 1e-44, 1e-38, 1e-20, 1e20, 1e36, 1e38, 1e300])
def test_only_the_proportions_of_a_saliency_count(factor: float) -> None:
    """Also where they are subnormal, or overflow a sum, or are doubles that no float32 holds."""
    expected = mixed(IMAGES, SALIENCY)
    scaled = SALIENCY.double() * factor
    found = mixed(IMAGES, scaled if not 1e-38 <= factor <= 1e38 else scaled.float())
    if factor != 1e-44:
        torch.testing.assert_close(found.mask, expected.mask)
    assert 0 < float(found.ratio.mean()) < 1


def test_a_negative_double_that_no_float_holds_is_refused() -> None:
    saliency = SALIENCY.double()
    saliency[1, 0, 0] = -1e-200
    with pytest.raises(ValueError, match=r"saliency must be >= 0, got .* in sample 1"):
        mixed(IMAGES, saliency)


WEIGHTS = st.one_of(st.sampled_from([0.0, 5e-324, 1e-300, LARGEST]), st.floats(0, LARGEST))


@given(
    beta=WEIGHTS, eta=WEIGHTS, cost=WEIGHTS, gamma=st.floats(0, 1), labels=st.sampled_from([2, 3, 17, MOST_LABELS]),
    lam=st.one_of(st.sampled_from([0.0, 5e-324, 1e-300, 1 - 2**-53, 1.0]), st.floats(0, 1)),
    span=st.sampled_from([1e-30, 1.0, 255.0, 1e5]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_allowed_numbers_give_the_mask_that_is_asked_for(
    beta: float, eta: float, cost: float, gamma: float, labels: int, lam: float, span: float, seed: int
) -> None:
    """Images and partners change places where lam becomes 1 - lam: an energy that overflowed would show neither side."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((2, 1, 8, 8), generator=generator) * span
    saliency = torch.rand((2, 8, 8), generator=generator)
    config = pm.PuzzleMixConfig(beta=beta, eta=eta, gamma=gamma, transport_cost=cost, num_labels=labels)
    found = mixed(images, saliency, config, lam)
    assert bool(found.images.isfinite().all())
    assert bool(((found.ratio >= 0) & (found.ratio <= 1)).all())
    if eta >= 1e4 and beta <= 1:
        # The prior alone decides: the most probable share of every block.
        assert bool((found.ratio - lam).abs().max() <= 1 / (labels - 1))
    if eta == 0 and beta <= 1e-3 and span <= 1:
        # Saliency alone decides: of every pair one image shows in each block, and not the same in all.
        assert 0 < float(found.ratio.mean()) < 1


def energies_of_all_masks(images: Tensor, saliency: Tensor, config: pm.PuzzleMixConfig) -> tuple[Tensor, Tensor]:
    """Return the 16 masks of 2 x 2 blocks with two labels and their (16, B) energies, all in float64."""
    grid = Grid.of(2, 2, 2)
    shares = saliency.double() / saliency.double().sum((1, 2), keepdim=True)
    partner = torch.arange(len(images)).roll(1)
    energy = mask_energy(shares, images.double(), partner, grid, beta=config.beta, gamma=config.gamma)
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).view(16, 1, 2, 2)
    prior = mixing_prior(0.5, 2, eta=config.eta, blocks_per_side=2)
    return masks, torch.stack([energy_of_mask(mask.expand(len(images), 2, 2), energy, prior) for mask in masks])


@given(
    arrays.arrays(np.float32, (3, 1, 2, 2), elements=st.one_of(st.floats(width=32), st.floats(-2, 3, width=32))),
    st.sampled_from([0.0, 1.2, LARGEST]), st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
def test_any_pixels_are_refused_or_mixed_by_an_optimal_mask(values: np.ndarray, beta: float, gamma: float) -> None:
    """Of all masks of 2 x 2 blocks none has less energy, computed in float64 from the very pixels."""
    images, saliency = torch.from_numpy(values), SALIENCY[:3, :2, :2]
    config = pm.PuzzleMixConfig(num_labels=2, transport=False, beta=beta, gamma=gamma)
    if not np.isfinite(values).all() or np.abs(values).max() > LARGEST:
        with pytest.raises(ValueError, match=r"^images "):
            mixed(images, saliency, config, blocks=2)
        return
    found = mixed(images, saliency, config, blocks=2)
    masks, energies = energies_of_all_masks(images, saliency, config)
    chosen = (masks.squeeze(1) == found.mask[:, None]).flatten(2).all(2).int().argmax(1)
    reached = energies[chosen, torch.arange(3)]
    # Float32 rounds the terms, each to one part in 10**7 of the largest.
    assert bool((reached - energies.amin(0) <= 1e-6 * energies.abs().amax(0)).all())


@pytest.mark.parametrize("blocks", [np.int64(2), np.uint8(2)])
def test_blocks_per_side_of_any_integer_type(blocks: Any) -> None:
    assert torch.equal(mixed(IMAGES, SALIENCY, blocks=blocks).mask, mixed(IMAGES, SALIENCY, blocks=2).mask)


def test_grids_that_would_take_minutes_are_refused_by_name() -> None:
    images = torch.rand(2, 1, 2 * MOST_MOVING_BLOCKS, 1).expand(-1, -1, -1, 2 * MOST_MOVING_BLOCKS)
    saliency = images[:, 0]
    with pytest.raises(ValueError, match=f"blocks_per_side must be at most {MOST_BLOCKS}, got 300"):
        mixed(images, saliency, blocks=300)
    with pytest.raises(ValueError, match=r"transport_size=1 cuts images .* use a transport_size of at least 2"):
        mixed(images, saliency, pm.PuzzleMixConfig(transport_size=1))


@pytest.mark.parametrize("scale", [NAN, -0.1, 1.5, "1", True])
def test_a_noise_scale_that_cannot_be(scale: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="noise_scale must be"):
        pm.MixDraw(torch.arange(2), 0.5, 2, noise_scale=scale)


@pytest.fixture
def default_dtype() -> Any:
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_first_batch_compiles_nothing_whatever_the_default_dtype(dtype: torch.dtype, default_dtype: Any) -> None:
    """Numba compiles once for each combination of argument types: there is one, made before training."""
    warm_up(pm.PuzzleMixConfig())
    compiled = len(minimize_labels.signatures), len(match_blocks.signatures)
    expected = pm.PuzzleMixConfig(mean=(0.5,) * 3, std=(0.3,) * 3, transport_size=1)
    reference = mixed(IMAGES, SALIENCY, expected)
    default_dtype(dtype)
    for count in (1, 4):
        for lam in (
            0.5,
            np.float32(0.25),
            torch.full((count,), 0.25, dtype=torch.float64),
            torch.tensor(0.25, dtype=torch.float32),
        ):
            for config in (expected, pm.PuzzleMixConfig(num_labels=np.uint8(5), transport_cost=np.float16(0.5))):
                for kind in (torch.float32, torch.float64, torch.bfloat16):
                    found = mixed(IMAGES[:count].to(kind), SALIENCY[:count].to(kind), config, lam, blocks=np.int32(4))
                    assert (found.images.dtype, found.mask.dtype, found.ratio.dtype) == (
                        kind,
                        torch.float32,
                        torch.float32,
                    )
    assert (len(minimize_labels.signatures), len(match_blocks.signatures)) == compiled
    assert torch.equal(mixed(IMAGES, SALIENCY, expected).images, reference.images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_draws_and_baselines_keep_their_dtypes(dtype: torch.dtype, default_dtype: Any) -> None:
    mixer = pm.PuzzleMix(pm.PuzzleMixConfig(grid_sizes=(4,)), adversarial_prob=1.0)
    expected = mixer.draw(IMAGES, key=(1,)).noise_start
    targets = torch.eye(4)
    default_dtype(dtype)
    assert torch.equal(mixer.draw(IMAGES, key=(1,)).noise_start, expected)
    for baseline in (pm.MixUp(), pm.CutMix(), pm.CutMix(per_sample=True), pm.ManifoldMix(("input",))):
        assert baseline(torch.nn.Identity(), IMAGES, targets).ratio.dtype == torch.float32


def test_more_processes_than_cores_leave_each_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    callback = pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(4,)))
    trainer = pl.Trainer(
        devices=1000, accelerator="cpu", strategy="ddp", logger=False, enable_checkpointing=False, callbacks=[callback]
    )
    # None of the thousand processes is there to be asked.
    monkeypatch.setattr(trainer.strategy, "reduce_boolean_decision", lambda decision, all: decision)
    callback.setup(trainer, Classifier(), "fit")
    assert callback.config.threads == 1
    assert math.isfinite(callback.config.alpha)
