"""What the authors' code computed, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import energy_of
from recorded import GoldenSet, load_photos, make_tiny_net
from torch import nn

from lightning_puzzlemix import MixDraw, MixedBatch, PuzzleMix, PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core.energy import block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.core.grid import Grid
from lightning_puzzlemix.results import MixResult
from lightning_puzzlemix.saliency.gradient import gradient_saliency
from lightning_puzzlemix.solvers.problem import energy_of_mask, mixing_prior

SETS = ("cifar32", "tiny64", "imagenet224")
PHOTOS = load_photos()


def config_of(found: GoldenSet, case: dict[str, Any], solver: str) -> PuzzleMixConfig:
    return PuzzleMixConfig(
        mean=found.mean,
        std=found.std,
        num_labels=case["num_labels"],
        beta=case["beta"],
        gamma=case["gamma"],
        eta=case["eta"],
        neighborhood_size=case["neigh_size"],
        transport=case["transport"],
        transport_size=None if case["t_size"] == -1 else case["t_size"],
        transport_cost=case["t_eps"],
        solver=solver,
    )


def run(found: GoldenSet, case: dict[str, Any], solver: str) -> MixResult:
    return puzzle_mix(
        found.images,
        found.saliency,
        permutation=torch.from_numpy(found.array(case, "indices")),
        lam=case["lam"],
        blocks_per_side=case["num_blocks"],
        config=config_of(found, case, solver),
    )


@pytest.mark.parametrize("name", SETS)
def test_energies(name: str, golden: Any) -> None:
    found = golden(name)
    for case in found.cases:
        config, n = config_of(found, case, "exact"), case["num_blocks"]
        height, width = found.images.shape[2:]
        partner = torch.from_numpy(found.array(case, "indices"))
        cells = Grid.of(height, width, n, config.neighborhood_size)
        shares = block_saliency(found.saliency, Grid.of(height, width, n))
        pixels = pixel_cells(found.images, cells, config)
        energy = mask_energy(shares, pixels, partner, cells, beta=config.beta, gamma=config.gamma)
        pairs = {
            "cost_where_first": energy.cost_first,
            "cost_where_second": energy.cost_second,
            "weight_rows": energy.weight_rows,
            "weight_cols": energy.weight_cols,
        }
        for recorded, ours in pairs.items():
            np.testing.assert_allclose(ours.numpy(), found.array(case, recorded), rtol=2e-5, atol=1e-7)
        prior = mixing_prior(case["lam"], case["num_labels"], eta=config.eta, blocks_per_side=n)
        # Their margin inside the logarithm moves the recorded prior by less than this.
        np.testing.assert_allclose(prior[0, ::-1], found.array(case, "prior"), rtol=1e-3, atol=1e-6)
        mask = torch.from_numpy(found.array(case, "mask"))
        evaluated = energy_of_mask(mask, energy, prior).numpy()
        np.testing.assert_allclose(evaluated, found.array(case, "energy"), rtol=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_gco_gives_the_recorded_masks_and_images(name: str, golden: Any) -> None:
    pytest.importorskip("gco")
    found = golden(name)
    for case in found.cases:
        result = run(found, case, "gco")
        images = found.array(case, "mixed")
        np.testing.assert_allclose(result.mask.numpy(), found.array(case, "mask"), atol=1e-6)
        np.testing.assert_allclose(result.ratio.numpy(), found.array(case, "ratio"), atol=1e-6)
        # Recorded in float16 in the larger sets: half a unit in the last place of values up to 4.
        tolerance = 2e-3 if images.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(result.images.numpy(), images.astype(np.float32), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("found", "case"), load_photos(), ids=lambda each: each.get("case", "") if isinstance(each, dict) else ""
)
def test_gco_gives_the_masks_and_images_recorded_of_photographs(found: GoldenSet, case: dict[str, Any]) -> None:
    """Without anything beside the project: 80 samples of the authors' code."""
    pytest.importorskip("gco")
    result = run(found, case, "gco")
    np.testing.assert_allclose(result.mask.numpy(), found.array(case, "mask"), atol=1e-6)
    np.testing.assert_allclose(result.ratio.numpy(), found.array(case, "ratio"), atol=1e-6)
    off = np.abs(result.images.numpy() - found.array(case, "mixed").astype(np.float32)) >= 5e-3
    if case["case"] != "case010":
        assert not off.any()
        return
    # Three blocks of 4 pixels that no source takes are blank there, and keep their own content here.
    blank = np.zeros((4, 16, 16), bool)
    blank[0, 12, 14:] = blank[0, 13, 15] = True
    assert (off.any(1).reshape(4, 16, 4, 16, 4).any((2, 4)) == blank).all()


@pytest.mark.parametrize(
    ("found", "case"), load_photos(), ids=lambda each: each.get("case", "") if isinstance(each, dict) else ""
)
def test_exact_masks_of_photographs_cost_no_more_than_the_recorded_ones(found: GoldenSet, case: dict[str, Any]) -> None:
    config, n = config_of(found, case, "exact"), case["num_blocks"]
    height, width = found.images.shape[2:]
    partner = torch.from_numpy(found.array(case, "indices"))
    cells = Grid.of(height, width, n, config.neighborhood_size)
    shares = block_saliency(found.saliency, Grid.of(height, width, n))
    pixels = pixel_cells(found.images, cells, config)
    energy = mask_energy(shares, pixels, partner, cells, beta=config.beta, gamma=config.gamma)
    prior = mixing_prior(case["lam"], case["num_labels"], eta=config.eta, blocks_per_side=n)
    ours = energy_of_mask(run(found, case, "exact").mask, energy, prior)
    theirs = energy_of_mask(torch.from_numpy(found.array(case, "mask")), energy, prior)
    assert bool((ours <= theirs + 1e-6).all())


@pytest.mark.parametrize("name", SETS)
def test_exact_reaches_the_certified_optimum(name: str, golden: Any) -> None:
    found = golden(name)
    better = 0
    for case in found.cases:
        result = run(found, case, "exact")
        names = ("cost_where_first", "cost_where_second", "weight_rows", "weight_cols", "prior")
        energy = energy_of(result.mask.numpy(), *(found.array(case, each) for each in names))
        optimal, swap = found.array(case, "optimal_energy"), found.array(case, "energy")
        np.testing.assert_allclose(energy, optimal, rtol=1e-6)
        assert (energy <= swap * (1 + 1e-6)).all()
        better += int((energy < swap * (1 - 1e-5)).sum())
        np.testing.assert_allclose(result.ratio.numpy(), result.mask.numpy().mean((1, 2)), atol=1e-6)
    assert name != "cifar32" or better > 0


def test_energy_oracle_agrees_with_the_recorded_energies(golden: Any) -> None:
    found = golden("cifar32")
    for case in found.cases:
        names = ("mask", "cost_where_first", "cost_where_second", "weight_rows", "weight_cols", "prior")
        energy = energy_of(*(found.array(case, each) for each in names))
        np.testing.assert_allclose(energy, found.array(case, "energy"), rtol=1e-8)


@pytest.fixture
def net(step: dict[str, np.ndarray]) -> nn.Sequential:
    """The recorded net in training mode."""
    model = make_tiny_net()
    model.load_state_dict({key.removeprefix("net."): torch.from_numpy(step[key]) for key in step if key[:4] == "net."})
    return model.train()


def mix_step(step: dict[str, np.ndarray], net: nn.Module, clean_weight: float = 0.0, **noise: Any) -> MixedBatch:
    """Mix the recorded batch with the recorded random choices."""
    pytest.importorskip("gco")
    mean, std = (tuple(float(value) for value in step[key]) for key in ("mean", "std"))
    config = PuzzleMixConfig(mean=mean, std=std, transport_size=4, solver="gco")
    permutation = torch.from_numpy(step["indices"])
    draw = MixDraw(permutation, float(step["lam"]), int(step["num_blocks"]), **noise)
    mixer = PuzzleMix(config, clean_weight=clean_weight)
    return mixer(net, torch.from_numpy(step["images"]), torch.from_numpy(step["targets"]), draw)


def bce_on_softmax(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy(logits.softmax(1), targets)


LOSSES = {"ce": F.cross_entropy, "bce": bce_on_softmax}


def test_saliency_in_evaluation_mode(step: dict[str, np.ndarray], net: nn.Module) -> None:
    found = gradient_saliency(net, torch.from_numpy(step["images"]), torch.from_numpy(step["targets"]))
    recorded = step["saliency_eval"]
    np.testing.assert_allclose(found.saliency.numpy(), recorded, rtol=1e-4, atol=1e-6 * recorded.max())


@pytest.mark.parametrize(
    ("case", "clean_weight"),
    # The CIFAR code weighs its clean cross-entropy by 2 / num_classes.
    [("plain_ce", 0.0), ("plain_bce", 0.0), ("clean1_ce", 1.0), ("clean1_bce", 0.2)],
)
def test_training_step(case: str, clean_weight: float, step: dict[str, np.ndarray], net: nn.Module) -> None:
    mixed = mix_step(step, net, clean_weight)
    saliency = step[f"{case}.saliency"]
    # Recorded from the weighted clean loss; only proportions matter.
    ours = mixed.saliency.numpy() * (clean_weight or 1.0)
    np.testing.assert_allclose(ours, saliency, rtol=1e-4, atol=1e-5 * saliency.max())
    np.testing.assert_allclose(mixed.images.numpy(), step[f"{case}.mixed"], atol=1e-5)
    np.testing.assert_allclose(mixed.targets.numpy(), step[f"{case}.targets"], atol=1e-6)
    loss = LOSSES[case.split("_")[1]](net(mixed.images), mixed.targets)
    assert loss.item() == pytest.approx(float(step[f"{case}.loss"]), rel=1e-5)
    total = loss if mixed.clean is None else loss + mixed.clean.surrogate_loss()
    assert total.item() == loss.item()
    total.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad.numpy(), step[f"{case}.grad.{name}"], atol=1e-5, err_msg=name)
    for name, buffer in net.named_buffers():
        np.testing.assert_allclose(buffer.numpy(), step[f"{case}.buffer.{name}"], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", ["adv11", "adv10", "adv01"])
def test_adversarial_noise(case: str, step: dict[str, np.ndarray], net: nn.Module) -> None:
    mixed = mix_step(
        step,
        net,
        adversarial_first=case[3] == "1",
        adversarial_second=case[4] == "1",
        noise_start=torch.from_numpy(step[f"{case}.uniform"]),
        noise_scale=float(step[f"{case}.coef"]),
    )
    saliency = step[f"{case}.saliency"]
    np.testing.assert_allclose(mixed.saliency.numpy(), saliency, rtol=1e-3, atol=1e-5 * saliency.max())
    np.testing.assert_allclose(mixed.images.numpy(), step[f"{case}.mixed"], atol=2e-5)
    np.testing.assert_allclose(mixed.ratio.numpy(), step[f"{case}.ratio"], atol=1e-6)


@pytest.mark.parametrize("case", ["adv11", "adv10", "adv01"])
def test_final_noise(case: str, step: dict[str, np.ndarray], net: nn.Module) -> None:
    from lightning_puzzlemix.mixers.adversarial import add_noise, adversarial_noise

    mean, std = (tuple(float(value) for value in step[key]) for key in ("mean", "std"))
    config = PuzzleMixConfig(mean=mean, std=std)
    images, start = torch.from_numpy(step["images"]), torch.from_numpy(step[f"{case}.uniform"])
    gradient = gradient_saliency(net, add_noise(images, start, config), torch.from_numpy(step["targets"])).gradient
    noise = adversarial_noise(images, start, gradient, config, eps=10 / 255, scale=float(step[f"{case}.coef"]))
    off = np.abs(noise.numpy() - step[f"{case}.noise"]) > 1e-6
    # The sign of a gradient that is all but zero may turn with the order of a sum.
    assert off.mean() < 1e-4
