"""What is measured: batches of real images, a quickly trained network, whole training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.transforms.functional import resized_crop

from experiments.models import PreActResNet
from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core import Grid, block_saliency, mask_energy, pixel_cells
from lightning_puzzlemix.mixers import Mixer, blend
from lightning_puzzlemix.saliency import ForwardContext, SaliencySource
from lightning_puzzlemix.solvers import Energy, available_threads
from lightning_puzzlemix.solvers.transfer import to_host

GRID_SIZES = (2, 4, 8, 16)
CORES = available_threads()
# What a training step does with its batch: mix it, or compute the saliency alone.
Way = Mixer | SaliencySource


def photograph_crops(count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crop scikit-learn's two photographs to (count, 3, size, size) in [0, 1]; the 8 classes are photograph and quadrant."""
    rng = np.random.default_rng(seed)
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    crops, classes = [], []
    for index in range(count):
        which = index % len(photographs)
        height, width = photographs[which].shape[1:]
        side = min(2 * size, height, width)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        crops.append(resized_crop(photographs[which], top, left, side, side, [size, size]))
        classes.append(4 * which + 2 * (2 * top + side >= height) + (2 * left + side >= width))
    return torch.stack(crops), torch.tensor(classes)


@lru_cache(maxsize=1)
def trained_net(steps: int = 60) -> PreActResNet:
    """Train a narrow PreActResNet on the crops: the saliency of an untrained one is nearly uniform."""
    torch.manual_seed(0)
    net = PreActResNet(num_classes=8, width=16)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for images, classes in zip(*(each.split(50) for each in photograph_crops(50 * steps, 32, seed=1)), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(net(images), classes).backward()
        optimizer.step()
    return net


@dataclass(frozen=True)
class Batch:
    """A batch to mix: images in [0, 1], their saliency, their partners, and lam of each, evenly spaced over [0, 1]."""

    images: Tensor
    saliency: Tensor
    permutation: Tensor
    lam: Tensor

    @classmethod
    def of(cls, count: int, size: int, source: str = "gradient", device: torch.device | str = "cpu") -> Batch:
        """Take ``count`` crops of ``size`` x ``size`` pixels; their gradient saliency is that of :func:`trained_net`."""
        images, classes = (each.to(device) for each in photograph_crops(count, size))
        net = deepcopy(trained_net()).to(device) if source == "gradient" else nn.Identity()
        parts = zip(images.split(25), classes.split(25), strict=True)
        saliency = torch.cat([SaliencySource(source).compute(net, *part).saliency for part in parts])
        generator = torch.Generator().manual_seed(0)
        permutation, order = (torch.randperm(count, generator=generator) for _ in range(2))
        return cls(images, saliency, permutation.to(device), ((torch.arange(count) + 0.5) / count)[order])

    def energy(self, n: int, config: PuzzleMixConfig) -> tuple[Energy[Tensor], Tensor]:
        """Return the energies of the masks, and the (B, n, n) block saliency that they are made from."""
        size = self.images.shape[2:]
        cells = Grid.of(*size, n, config.neighborhood_size)
        shares, pixels = block_saliency(self.saliency, Grid.of(*size, n)), pixel_cells(self.images, cells, config)
        return mask_energy(shares, pixels, self.permutation, cells, beta=config.beta, gamma=config.gamma), shares

    def mix(self, n: int, config: PuzzleMixConfig) -> None:
        """Mix as a user does."""
        pair = {"permutation": self.permutation, "lam": self.lam}
        puzzle_mix(self.images, self.saliency, **pair, blocks_per_side=n, config=config)


def on_host(energy: Energy[Tensor]) -> Energy[np.ndarray]:
    """Copy energies to the host."""
    return Energy(*to_host(energy.arrays()))


def training_steps(
    net: nn.Module, images: Tensor, classes: Tensor, ways: Mapping[str, Way], context: ForwardContext = nullcontext
) -> dict[str, Callable[[], None]]:
    """Return whole training steps by name: "plain", with the batch mixed, or with the saliency computed but not used."""
    # A small learning rate: many steps on one batch would otherwise lead to denormal numbers, which are slow.
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4)

    def step(way: Way | None, turns: Iterator[int]) -> None:
        inputs, targets, hook = images, classes, nullcontext()
        if isinstance(way, SaliencySource):
            way.compute(net, images, classes, forward_context=context)
        elif way is not None:
            # The same sequence of draws for every mixer, so that all solve the same problems.
            draw = way.draw(images, key=(next(turns),))
            mixed = way(net, images, classes, draw, forward_context=context)
            inputs, targets = mixed.images, mixed.targets
            if mixed.layer is not None:
                layer = net.get_submodule(mixed.layer)
                hook = layer.register_forward_hook(lambda *passed: blend(passed[-1], draw.permutation, mixed.ratio))
        optimizer.zero_grad()
        with context(), hook:
            loss = F.cross_entropy(net(inputs), targets)
        loss.backward()
        optimizer.step()

    return {name: partial(step, way, count()) for name, way in {"plain": None, **ways}.items()}
