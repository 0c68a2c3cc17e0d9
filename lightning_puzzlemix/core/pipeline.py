"""Puzzle Mix of one batch, given its saliency: the pipeline as a list of calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.core.energy import block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.core.grid import Axis, Grid, expand, pixel_share
from lightning_puzzlemix.core.input_checks import check_content, check_mix_inputs, check_moving_blocks
from lightning_puzzlemix.core.transport import move_and_blend
from lightning_puzzlemix.results import MixResult
from lightning_puzzlemix.sampling import MixDraw
from lightning_puzzlemix.solvers import DeferredChecks, MixingProblem, send, solve
from lightning_puzzlemix.validation import check_images


@dataclass(frozen=True)
class _Grids:
    """The three ways in which a batch is cut: into the mask's blocks, the cells compared at borders, the moving blocks."""

    blocks: Grid
    cells: Grid
    moves: Grid

    @classmethod
    def of(cls, images: Tensor, blocks_per_side: int, config: PuzzleMixConfig) -> _Grids:
        height, width = images.shape[2:]
        return cls(
            Grid.of(height, width, blocks_per_side),
            Grid.of(height, width, blocks_per_side, config.neighborhood_size),
            Grid.of(height, width, blocks_per_side, config.transport_size if config.transport else None),
        )


def puzzle_mix(
    images: Tensor,
    saliency: Tensor,
    *,
    permutation: Tensor,
    lam: float | Tensor,
    blocks_per_side: int,
    config: PuzzleMixConfig | None = None,
    first_content: Tensor | None = None,
    partner_content: Tensor | None = None,
) -> MixResult:
    """Mix each image with a partner so that as much saliency of both as possible stays visible.

    Every image b is paired with ``images[permutation[b]]``. A mask over n x n blocks minimizes the energy of the paper's
    section 4.1 (hidden saliency, smoothness, prior), then the blocks of both images move to where the mask shows them
    (section 4.2), and both are blended. The arguments are left unchanged and nothing is random here.

    Args:
        images: (B, C, H, W) floating point; any C, H and W. Un-normalized with ``config.mean`` and ``config.std`` they lie
            in [0, 1]; averages of cells beyond 1e6 are refused.
        saliency: (B, H, W) >= 0. Only each map's proportions count. A map that is all zero, NaN or infinite is replaced by
            a uniform one.
        permutation: (B,) integers in [0, B), the partner of each image.
        lam: Target share of the first image in [0, 1]: one number, or (B,) of them.
        blocks_per_side: n, from 1 to the shorter side of the images, at most 256. Where n does not divide a side the blocks
            differ by at most one pixel (see :mod:`lightning_puzzlemix.core.grid`).
        config: Hyperparameters; by default those of :class:`PuzzleMixConfig`.
        first_content: (B, C, H, W) what is shown of the first images in place of ``images``, which alone make the energy;
            for the adversarial variant.
        partner_content: (B, C, H, W) the same for the partners, before ``permutation``.

    Returns:
        The mixed images, their ratio and their masks.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If shapes do not fit together or values lie outside their range.
        ImportError: If ``config.solver`` is ``"gco"`` and gco-wrapper is not installed.
    """
    config = PuzzleMixConfig() if config is None else config
    check_images(images, config.std)
    for name, content in (("first_content", first_content), ("partner_content", partner_content)):
        if content is not None:
            check_content(name, content, images)
    first, second = (images if content is None else content for content in (first_content, partner_content))
    return mix_checked(images, saliency, MixDraw(permutation, lam, blocks_per_side), config, first, second)


@torch.no_grad()
def mix_checked(
    images: Tensor,
    saliency: Tensor,
    draw: MixDraw,
    config: PuzzleMixConfig,
    first: Tensor,
    second: Tensor,
    checks: DeferredChecks | None = None,
) -> MixResult:
    """Do what :func:`puzzle_mix` does, for checked images, showing ``first`` of the first images and ``second`` of partners.

    What is wrong with values on a device may be raised later, by ``checks``.
    """
    check_mix_inputs(images, saliency, draw)
    # A plain integer: NumPy's would give its dtype to what is computed with it.
    grids = _Grids.of(images, int(draw.blocks_per_side), config)
    check_moving_blocks(grids.moves.shape, images, config)
    partner = draw.permutation.to(images.device, torch.int64)
    # Autocast would round the energies to 16 bits, and the mask would then solve another problem.
    with torch.autocast(images.device.type, enabled=False):
        problem = _build_problem(images, saliency, partner, grids, config)
        labels, plans = solve(problem, draw.lam, config, checks)
        mask = labels.float() / (config.num_labels - 1)
        plan = None if plans is None else plans.unflatten(2, grids.moves.shape)
        mixed = _blend(first, second, partner, mask, plan, grids)
        return MixResult(mixed, pixel_share(mask, grids.blocks), mask, plan)


def _build_problem(
    images: Tensor, saliency: Tensor, partner: Tensor, grids: _Grids, config: PuzzleMixConfig
) -> MixingProblem[Tensor]:
    """State on the images' device what is to be solved."""
    shares = block_saliency(saliency, grids.blocks)
    moving = shares if grids.moves == grids.blocks else block_saliency(saliency, grids.moves)
    cells = pixel_cells(images, grids.cells, config)
    energy = mask_energy(shares, cells, partner, grids.cells, beta=config.beta, gamma=config.gamma)
    flat, peaks = cells.flatten(1), saliency.flatten(1)
    # Not aminmax, which on a CPU takes five times as long.
    extremes = [flat.amin(1), flat.amax(1), _as_float(peaks.amin(1)), _as_float(peaks.amax(1))]
    return MixingProblem(energy, moving, moving[partner], torch.stack(extremes, dim=1))


def _as_float(values: Tensor) -> Tensor:
    """Convert to float32; doubles that it cannot hold keep their sign, and stay finite where they are."""
    if values.dtype != torch.float64:
        return values.float()
    limits = torch.finfo(torch.float32)
    size = torch.where(values == 0, values, values.abs().clamp(limits.tiny, limits.max))
    return torch.where(values.isfinite(), size.copysign(values), values).float()


def _blend(first: Tensor, second: Tensor, partner: Tensor, mask: Tensor, plan: Tensor | None, grids: _Grids) -> Tensor:
    """Move the blocks of both images and blend them by the mask."""
    if plan is not None:
        flat = plan.flatten(2)
        mixed = move_and_blend(first, second, partner, flat[0], flat[1], mask, grids.moves)
    else:
        mixed = torch.lerp(second[partner], first, expand(mask, grids.blocks).unsqueeze(1).to(first.dtype))
    if first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous():
        mixed = mixed.contiguous(memory_format=torch.channels_last)
    return mixed


@torch.no_grad()
def keep_samples(mix: MixResult, images: Tensor, kept: Tensor) -> MixResult:
    """Put the original images back where ``kept`` (B,) is true, with the mask, moves and share that leave them as they are."""
    kept = send(kept, images.device)
    each = kept[:, None, None]
    plan = mix.plan
    if plan is not None:
        home = torch.arange(plan[0, 0].numel(), device=plan.device, dtype=plan.dtype).view(plan.shape[2:])
        plan = torch.where(each, home, plan)
    return MixResult(
        torch.where(each[..., None], images.detach(), mix.images),
        torch.where(kept, 1.0, mix.ratio),
        torch.where(each, 1.0, mix.mask),
        plan,
    )


@torch.no_grad()
def mix_like(values: Tensor, mask: Tensor, plan: Tensor | None, permutation: Tensor) -> Tensor:
    """Move and blend values by the mask and the moves that were found for images of perhaps another size.

    Args:
        values: (B, C, H, W) floating point.
        mask: (B, n, n), as in :class:`MixResult`.
        plan: (2, B, R, C), as there.
        permutation: (B,) integers in [0, B), the partner of each image.

    Returns:
        (B, C, H, W) mixed values, a new tensor.

    Raises:
        ValueError: If H and W are less than the blocks along each side.
    """
    blocks = mask.shape[-1]
    rows, cols = mask.shape[1:] if plan is None else plan.shape[2:]
    height, width = values.shape[2:]
    if height < rows or width < cols:
        raise ValueError(
            f"{height} x {width} pixels cannot be cut into the {rows} x {cols} blocks of the mix: enlarge them before, or mix "
            "with smaller grid_sizes, and transport_size=None, by which the mask's own blocks move"
        )
    whole = Grid.of(height, width, blocks)
    moves = Grid(Axis(height, blocks, rows // blocks), Axis(width, blocks, cols // blocks))
    values = values.detach()
    return _blend(values, values, permutation.to(values.device, torch.int64), mask, plan, _Grids(whole, whole, moves))
