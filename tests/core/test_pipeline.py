"""What holds for every mixed batch, whatever its shape, dtype and content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import binomial_prior, borders, energy_terms_loops, pool_loops

from lightning_puzzlemix import MixResult, PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core.energy import block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.core.grid import Grid
from lightning_puzzlemix.solvers.problem import energy_of_mask, mixing_prior

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CONTENTS = ("random", "constant", "one-hot", "zero saliency", "nan saliency", "inf saliency")


def draw_batch(
    seed: int, shape: tuple[int, int, int, int], content: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw images in [0, 1], saliency and a permutation."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, height, width = shape
    images = torch.rand(shape, generator=generator).to(dtype)
    saliency = torch.rand((batch, height, width), generator=generator)
    if content == "constant":
        images = torch.full(shape, 0.25, dtype=dtype)
    elif content == "one-hot":
        saliency = torch.zeros_like(saliency)
        saliency[:, height // 2, width // 3] = 1
    elif content != "random":
        saliency[0] = {"zero": 0.0, "nan": float("nan"), "inf": float("inf")}[content.split()[0]]
    return images, saliency, torch.randperm(batch, generator=generator)


@given(
    seed=st.integers(0, 10**6), batch=st.integers(1, 5), channels=st.integers(1, 4), height=st.integers(4, 23),
    width=st.integers(4, 23), n=st.integers(1, 4), count=st.integers(2, 5), lam=st.sampled_from([0.0, 1.0, 0.5, 0.13]),
    transport=st.booleans(), size=st.sampled_from([None, 1, 2, 50]), dtype=st.sampled_from(DTYPES),
    content=st.sampled_from(CONTENTS),
)  # fmt: skip
def test_invariants(
    seed: int, batch: int, channels: int, height: int, width: int, n: int, count: int, lam: float, transport: bool,
    size: int | None, dtype: torch.dtype, content: str,
) -> None:  # fmt: skip
    images, saliency, permutation = draw_batch(seed, (batch, channels, height, width), content, dtype)
    inputs = (images, saliency, permutation)
    copies, versions = [each.clone() for each in inputs], [each._version for each in inputs]
    config = PuzzleMixConfig(num_labels=count, transport=transport, transport_size=size)

    def mix(wished: float | torch.Tensor) -> MixResult:
        return puzzle_mix(images, saliency, permutation=permutation, lam=wished, blocks_per_side=n, config=config)

    result = mix(lam)
    assert result.images.shape == images.shape
    assert result.images.dtype == dtype
    assert result.mask.shape == (batch, n, n)
    labels = result.mask.double() * (count - 1)
    torch.testing.assert_close(labels, labels.round(), atol=1e-5, rtol=0)
    assert labels.min() >= 0
    assert labels.max() <= count - 1
    areas = np.outer(np.diff(borders(height, n)), np.diff(borders(width, n))) / (height * width)
    np.testing.assert_allclose(result.ratio.numpy(), (result.mask.numpy() * areas).sum((1, 2)), atol=1e-6)
    slack = torch.finfo(dtype).eps
    assert result.images.min() >= images.min() - slack
    assert result.images.max() <= images.max() + slack
    for each, copy, version in zip(inputs, copies, versions, strict=True):
        assert torch.equal(each.nan_to_num(7), copy.nan_to_num(7))
        assert each._version == version
    for again in (mix(lam), mix(torch.full((batch,), lam)), mix(torch.tensor(lam)), mix(torch.tensor([lam]))):
        assert torch.equal(again.images, result.images)
        assert torch.equal(again.mask, result.mask)


@pytest.mark.parametrize(("size", "n"), [((28, 28), 16), ((8, 8), 4), ((9, 14), 4), ((7, 5), 3)])
@pytest.mark.parametrize("transport", [True, False])
def test_ratio_is_the_share_of_pixels(size: tuple[int, int], n: int, transport: bool) -> None:
    """Of white images that are mixed with black ones, it is the brightness; 28 px and 16 blocks are those of MNIST."""
    generator = torch.Generator().manual_seed(n)
    images = torch.stack([torch.ones(1, *size)] * 4 + [torch.zeros(1, *size)] * 4)
    partners = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    saliency, lam = torch.rand(8, *size, generator=generator), torch.rand(8, generator=generator)
    config = PuzzleMixConfig(transport=transport)
    result = puzzle_mix(images, saliency, permutation=partners, lam=lam, blocks_per_side=n, config=config)
    brightness = result.images.double().mean((1, 2, 3))
    np.testing.assert_allclose(result.ratio[:4], brightness[:4], atol=1e-6)
    np.testing.assert_allclose(result.ratio[4:], 1 - brightness[4:], atol=1e-6)


def mix_default(images: torch.Tensor, saliency: torch.Tensor, permutation: Any, **options: Any) -> MixResult:
    """Mix with lam 0.5 on a 4 x 4 grid."""
    lam, n = options.pop("lam", 0.5), options.pop("n", 4)
    return puzzle_mix(
        images, saliency, permutation=torch.as_tensor(permutation), lam=lam, blocks_per_side=n,
        config=PuzzleMixConfig(**options),
    )  # fmt: skip


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("transport", [True, False])
def test_a_map_that_says_nothing_counts_as_uniform_and_leaves_others_alone(bad: float, transport: bool) -> None:
    images, saliency, _ = draw_batch(1, (4, 3, 16, 16), "random", torch.float32)
    spoilt, uniform = saliency.clone(), saliency.clone()
    spoilt[0, 5:, 2:] = bad
    if bad == 0:
        spoilt[0] = 0
    uniform[0] = 1
    found = mix_default(images, spoilt, [1, 0, 3, 2], transport=transport)
    expected = mix_default(images, uniform, [1, 0, 3, 2], transport=transport)
    clean = mix_default(images, saliency, [1, 0, 3, 2], transport=transport)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.images[2:], clean.images[2:])
    assert torch.equal(found.mask[2:], clean.mask[2:])


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e37, 2e38])
def test_the_scale_of_saliency_does_not_count(scale: float) -> None:
    _, saliency, _ = draw_batch(2, (4, 3, 16, 16), "random", torch.float32)
    saliency = saliency + 0.1
    scaled = block_saliency(saliency * scale, Grid.of(16, 16, 4))
    torch.testing.assert_close(scaled, block_saliency(saliency, Grid.of(16, 16, 4)), rtol=1e-4, atol=0)


def test_block_saliency_by_loops() -> None:
    saliency = torch.rand(3, 13, 10)
    pooled = pool_loops(saliency.numpy(), borders(13, 4), borders(10, 4))
    expected = pooled / pooled.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(block_saliency(saliency, Grid.of(13, 10, 4)).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mixing_with_itself_returns_the_image(dtype: torch.dtype) -> None:
    images, saliency, _ = draw_batch(3, (4, 3, 17, 14), "random", dtype)
    result = mix_default(images, saliency, [0, 1, 2, 3], transport=False)
    assert torch.equal(result.images, images)
    assert result.images.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
def test_blending_pixel_by_pixel(dtype: torch.dtype) -> None:
    images, saliency, _ = draw_batch(4, (3, 2, 13, 10), "random", dtype)
    partner = [2, 0, 1]
    result = mix_default(images, saliency, partner, transport=False)
    rows, cols = borders(13, 4), borders(10, 4)
    expected = torch.zeros(images.shape, dtype=torch.float64)
    for s, i, j in np.ndindex(3, 4, 4):
        place = np.s_[:, rows[i] : rows[i + 1], cols[j] : cols[j + 1]]
        share = result.mask[s, i, j].double()
        expected[s][place] = share * images[s][place].double() + (1 - share) * images[partner[s]][place].double()
    torch.testing.assert_close(result.images.double(), expected, rtol=0, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("transport", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (15, 18)])
def test_channels_last_is_kept(transport: bool, size: tuple[int, int]) -> None:
    images, saliency, _ = draw_batch(5, (4, 3, *size), "random", torch.float32)
    last = images.contiguous(memory_format=torch.channels_last)
    result = mix_default(last, saliency, [3, 2, 1, 0], transport=transport)
    assert result.images.is_contiguous(memory_format=torch.channels_last)
    plain = mix_default(images, saliency, [3, 2, 1, 0], transport=transport).images
    assert plain.is_contiguous()
    assert torch.equal(result.images, plain)


@pytest.mark.parametrize("transport", [True, False])
@pytest.mark.parametrize("side", [16, 18])
def test_autocast_changes_nothing(transport: bool, side: int) -> None:
    images, saliency, _ = draw_batch(6, (6, 3, side, side), "random", torch.float32)
    outside = mix_default(images, saliency, [5, 4, 3, 2, 1, 0], transport=transport)
    with torch.autocast("cpu", torch.bfloat16):
        inside = mix_default(images, saliency, [5, 4, 3, 2, 1, 0], transport=transport)
    assert torch.equal(inside.images, outside.images)
    assert torch.equal(inside.mask, outside.mask)


def test_energies_are_made_outside_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever operation is used for them, now or later, none may be rounded to 16 bits."""
    seen = []

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return mask_energy(*args, **options)

    monkeypatch.setattr("lightning_puzzlemix.core.pipeline.mask_energy", spy)
    images, saliency, _ = draw_batch(6, (2, 3, 8, 8), "random", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mix_default(images, saliency, [1, 0])
    assert seen == [False]


def test_no_graph_is_built() -> None:
    images, saliency, _ = draw_batch(6, (2, 3, 8, 8), "random", torch.float32)
    result = mix_default(images.requires_grad_(), saliency.requires_grad_(), [1, 0])
    assert not result.images.requires_grad
    assert not result.ratio.requires_grad


def test_lam_decides_where_saliency_does_not() -> None:
    images, saliency, _ = draw_batch(7, (4, 3, 16, 16), "constant", torch.float32)
    lams = torch.tensor([0.0, 0.02, 0.98, 1.0])
    result = mix_default(images, torch.ones_like(saliency), [1, 0, 3, 2], lam=lams, eta=1.0)
    assert result.ratio.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert mix_default(images, saliency, [1, 0, 3, 2], lam=lams.double()).mask.equal(
        mix_default(images, saliency, [1, 0, 3, 2], lam=lams).mask
    )


def test_other_content_is_shown_but_does_not_decide() -> None:
    images, saliency, _ = draw_batch(8, (2, 3, 8, 8), "random", torch.float32)
    first, second = torch.full_like(images, 3.0), torch.full_like(images, -5.0)
    result = puzzle_mix(
        images, saliency, permutation=torch.tensor([1, 0]), lam=0.5, blocks_per_side=2, first_content=first,
        partner_content=second,
    )  # fmt: skip
    assert torch.equal(result.mask, mix_default(images, saliency, [1, 0], n=2).mask)
    share = torch.nn.functional.interpolate(result.mask[:, None], size=(8, 8), mode="nearest")
    torch.testing.assert_close(result.images, (share * 3 - (1 - share) * 5).expand_as(images))


@pytest.mark.parametrize(
    ("height", "width", "n", "cell"), [(13, 10, 4, 1), (16, 16, 4, 2), (11, 23, 3, 4), (9, 9, 1, 4)]
)
def test_energy_by_loops(height: int, width: int, n: int, cell: int) -> None:
    """Each term, and the energy of random masks, from pixels by plain loops; sides that n does not divide too."""
    images, saliency, partner = draw_batch(9, (3, 2, height, width), "random", torch.float32)
    mean, std = (0.4, 0.6), (0.5, 0.25)
    config = PuzzleMixConfig(mean=mean, std=std, neighborhood_size=cell)
    view = (1, 2, 1, 1)
    normalized = (images - torch.tensor(mean).view(view)) / torch.tensor(std).view(view)
    grid = Grid.of(height, width, n, cell)
    shares = block_saliency(saliency, Grid.of(height, width, n))
    energy = mask_energy(shares, pixel_cells(normalized, grid, config), partner, grid, beta=1.2, gamma=0.5)
    cells = tuple(max(1, (side // n) // cell) for side in (height, width))
    expected = energy_terms_loops(
        images.double().numpy(), shares.numpy(), partner.tolist(), n, cells, beta=1.2, gamma=0.5
    )  # fmt: skip
    found = (energy.cost_first, energy.cost_second, energy.weight_rows, energy.weight_cols)
    for ours, loops in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), loops, rtol=1e-4, atol=1e-7)
    labels = np.random.default_rng(1).integers(0, 3, size=(3, n, n))
    prior = binomial_prior(0.3, 3, 0.2, n)
    first, second, rows, cols = expected
    share = labels / 2
    total = (share * first + (1 - share) * second + prior[labels]).sum((1, 2))
    total += (rows * np.diff(share, axis=1) ** 2).sum((1, 2)) + (cols * np.diff(share, axis=2) ** 2).sum((1, 2))
    ours = energy_of_mask(torch.from_numpy(share), energy, mixing_prior(0.3, 3, eta=0.2, blocks_per_side=n))
    np.testing.assert_allclose(ours.numpy(), total, rtol=1e-5)
