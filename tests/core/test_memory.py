"""Nothing as large as a dense transport plan is ever made."""

import tracemalloc
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_puzzlemix import puzzle_mix

BATCH, BLOCKS = 40, 16
DENSE_PLAN = BATCH * BLOCKS**4


class Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_no_dense_plan_on_device_or_host() -> None:
    images, saliency = torch.rand(BATCH, 3, 32, 32), torch.rand(BATCH, 32, 32) ** 4
    arguments: dict[str, Any] = {"permutation": torch.randperm(BATCH), "lam": 0.5, "blocks_per_side": BLOCKS}
    puzzle_mix(images, saliency, **arguments)
    tracemalloc.start()
    with Largest() as largest:
        puzzle_mix(images, saliency, **arguments)
    host_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.numel() <= largest.elements < DENSE_PLAN / 10
    assert host_bytes < DENSE_PLAN / 2


def test_the_measurement_would_notice_one() -> None:
    with Largest() as largest:
        torch.zeros(BATCH, BLOCKS**2, 1) + torch.zeros(BATCH, 1, BLOCKS**2)
    assert largest.elements == DENSE_PLAN
