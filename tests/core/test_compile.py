"""What runs on the images' device before and after the solvers is one graph for torch.compile, and counted in operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from platforms import needs_compile
from torch.utils._python_dispatch import TorchDispatchMode

import lightning_puzzlemix as pm
from lightning_puzzlemix.core.pipeline import _blend, _build_problem, _Grids

CONFIG = pm.PuzzleMixConfig(mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.25))
# They make no kernel run on a GPU.
FREE = {
    "view",
    "_unsafe_view",
    "expand",
    "select",
    "slice",
    "unsqueeze",
    "transpose",
    "permute",
    "detach",
    "alias",
    "unbind",
}


class Operations(TorchDispatchMode):
    """Lists the operations that would be kernels on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name not in FREE:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def batch(size: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(6, 3, size, size, generator=generator)
    return images, torch.rand(6, size, size, generator=generator), torch.randperm(6, generator=generator)


@needs_compile
@pytest.mark.parametrize(("size", "blocks"), [(32, 4), (32, 16), (30, 4)])
def test_pipeline_is_one_graph(size: int, blocks: int) -> None:
    images, saliency, partner = batch(size)
    grids = _Grids.of(images, blocks, CONFIG)
    build = torch.compile(_build_problem, fullgraph=True, backend="eager")
    blend = torch.compile(_blend, fullgraph=True, backend="eager")
    found = build(images, saliency, partner, grids, CONFIG)
    expected = _build_problem(images, saliency, partner, grids, CONFIG)
    for ours, theirs in zip(found.arrays(), expected.arrays(), strict=True):
        # Torch 2.4 rounds the last bit of some in another way.
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    rows, cols = grids.moves.shape
    plan = torch.randint(rows * cols, (2, 6, rows, cols), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(6, blocks, blocks, generator=torch.Generator().manual_seed(2))
    arguments = (images, images, partner, mask, plan, grids)
    assert torch.equal(blend(*arguments), _blend(*arguments))


@pytest.mark.parametrize(("blocks", "building", "blending"), [(4, 76, 12), (16, 70, 12)])
def test_operations_of_a_batch(blocks: int, building: int, blending: int) -> None:
    """On a GPU each costs more than the computation on such small tensors."""
    images, saliency, partner = batch()
    grids = _Grids.of(images, blocks, CONFIG)
    # Constants are made once.
    _build_problem(images, saliency, partner, grids, CONFIG)
    with Operations() as built:
        _build_problem(images, saliency, partner, grids, CONFIG)
    plan, mask = torch.zeros((2, 6, *grids.moves.shape), dtype=torch.int64), torch.rand(6, blocks, blocks)
    with Operations() as blended:
        _blend(images, images, partner, mask, plan, grids)
    assert len(built.names) <= building, built.names
    assert len(blended.names) <= blending, blended.names
