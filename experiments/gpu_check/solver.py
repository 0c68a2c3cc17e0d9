"""Times of masks, plans and the mixing of a batch of photographs, on the device and on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

from experiments.gpu_check.measuring import Results, microseconds, milliseconds
from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core import Grid, block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.solvers import Energy, device, host

GRID_SIZES = (2, 4, 8, 16)


def photographs(batch: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Crop scikit-learn's photographs: (B, 3, side, side) in [0, 1], and the local contrast as (B, side, side) saliency."""
    generator = torch.Generator().manual_seed(seed)
    whole = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    crops = []
    for index in range(batch):
        image = whole[index % len(whole)]
        zoom = min(2 * side, *image.shape[1:])
        top, left = (int(torch.randint(edge - zoom + 1, (), generator=generator)) for edge in image.shape[1:])
        crops.append(
            F.interpolate(image[None, :, top : top + zoom, left : left + zoom], size=(side, side), mode="area")
        )
    images = torch.cat(crops)
    blurred = F.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
    return images, (images - blurred).square().mean(1).sqrt()


def problems(n: int, batch: int, seed: int, target: torch.device) -> list[Tensor]:
    """Return the four terms of the energies of photographs, and the shares of both images."""
    images, saliency = (each.to(target) for each in photographs(batch, 32, seed))
    config, partner = PuzzleMixConfig(), torch.arange(batch, device=target).roll(1)
    cells = Grid.of(32, 32, n, config.neighborhood_size)
    shares = block_saliency(saliency, Grid.of(32, 32, n))
    energy = mask_energy(
        shares, pixel_cells(images, cells, config), partner, cells, beta=config.beta, gamma=config.gamma
    )
    return [*vars(energy).values(), shares, shares[partner]]


def time_kernels(results: Results, target: torch.device, n: int, batch: int) -> None:
    """Compare the masks of photographs with the host's, and time masks and plans."""
    config, name = PuzzleMixConfig(), f"n={n} batch={batch}"
    pool = [problems(n, batch, seed, target) for seed in range(4)]
    prior = device.device_prior(0.4, config, n, target)
    labels = [device.minimize_labels(Energy(*each[:4]), prior) for each in pool]
    wrong = 0
    for each, found in zip(pool, labels, strict=True):
        terms = Energy(*(term.cpu().contiguous().numpy() for term in each[:4]))
        wrong += int((host.solve_masks(terms, 0.4, config) != found.cpu().numpy()).any((1, 2)).sum())
    results.add(f"masks that differ from the host's, {name}", wrong)
    if target.type == "cuda":
        results.add(
            f"mask us, {name}", microseconds(lambda turn: device.minimize_labels(Energy(*pool[turn % 4][:4]), prior))
        )
        results.add(
            f"plan us, {name}",
            microseconds(lambda turn: device.plan_moves(*pool[turn % 4][4:], labels[turn % 4], config)),
        )


def time_mixing(results: Results, target: torch.device, solve_on: str, side: int, batch: int) -> None:
    """Time `puzzle_mix`, the mean over the grid sizes."""
    images, saliency = (each.to(target) for each in photographs(batch, side, 9))
    permutation, config = torch.randperm(batch, device=target), PuzzleMixConfig(solve_on=solve_on)

    def mix(turn: int) -> None:
        n = GRID_SIZES[turn % 4]
        puzzle_mix(images, saliency, permutation=permutation, lam=0.4, blocks_per_side=n, config=config)

    results.add(f"mixing ms, {solve_on}, side={side} batch={batch}", milliseconds(mix))


def time_solver(results: Results, target: torch.device, batches: Sequence[int]) -> None:
    """Time masks, plans and the mixing of a batch, on the device and on the host."""
    for batch in batches:
        for n in GRID_SIZES:
            time_kernels(results, target, n, batch)
        for side in (32, 224):
            for solve_on in ("host", "device") if target.type == "cuda" else ("host",):
                time_mixing(results, target, solve_on, side, batch)
