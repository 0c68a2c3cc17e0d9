"""One copy to the host and one back for each batch, counted on a device that does not exist."""

from __future__ import annotations

import pytest
import torch
from fake_device import DEVICE, DeviceTensor, FakeDevice

from lightning_puzzlemix import PuzzleMixConfig, mix_targets, puzzle_mix
from lightning_puzzlemix.config import SOLVERS


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return what a device tensor holds, and make sure that it is one."""
    assert isinstance(tensor, DeviceTensor)
    return tensor.inner


@pytest.mark.parametrize("side", [16, 19])
@pytest.mark.parametrize("transport", [True, False])
@pytest.mark.parametrize("lam", ["float", "device tensor", "device scalar"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_copy_each_way(side: int, transport: bool, lam: str, solver: str) -> None:
    if solver == "gco":
        pytest.importorskip("gco")
    images, saliency, permutation = torch.rand(6, 3, side, side), torch.rand(6, side, side), torch.randperm(6)
    config = PuzzleMixConfig(mean=(0.1, 0.2, 0.3), std=(0.5,) * 3, transport=transport, solver=solver, transport_size=2)
    wished = {"float": 0.3, "device tensor": torch.full((6,), 0.3), "device scalar": torch.tensor(0.3)}[lam]
    host = puzzle_mix(images, saliency, permutation=permutation, lam=wished, blocks_per_side=4, config=config)
    with FakeDevice() as counter:
        result = puzzle_mix(
            DeviceTensor(images),
            DeviceTensor(saliency),
            permutation=DeviceTensor(permutation),
            lam=DeviceTensor(wished) if isinstance(wished, torch.Tensor) else wished,
            blocks_per_side=4,
            config=config,
        )
    assert (counter.out, counter.back) == (1, 1)
    assert torch.equal(plain(result.images), host.images)
    assert torch.equal(plain(result.mask), host.mask)
    assert torch.equal(plain(result.ratio), host.ratio)


@pytest.mark.parametrize("layout", ["channels_last", "float16", "contents"])
def test_one_copy_each_way_in_other_forms(layout: str) -> None:
    images, saliency, permutation = torch.rand(4, 3, 16, 16), torch.rand(4, 16, 16), torch.tensor([1, 0, 3, 2])
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    elif layout == "float16":
        images = images.half()
    contents = {"first_content": images + 1, "partner_content": images + 2} if layout == "contents" else {}
    host = puzzle_mix(images, saliency, permutation=permutation, lam=0.5, blocks_per_side=8, **contents)
    with FakeDevice() as counter:
        result = puzzle_mix(
            DeviceTensor(images), DeviceTensor(saliency), permutation=DeviceTensor(permutation), lam=0.5,
            blocks_per_side=8, **{name: DeviceTensor(content) for name, content in contents.items()},
        )  # fmt: skip
    assert (counter.out, counter.back) == (1, 1)
    assert torch.equal(plain(result.images), host.images)


@pytest.mark.parametrize("kind", ["probabilities", "classes"])
def test_targets_stay_on_the_device(kind: str) -> None:
    targets = torch.softmax(torch.randn(4, 5), 1) if kind == "probabilities" else torch.tensor([0, 4, 2, 2])
    permutation, ratio = torch.tensor([1, 0, 3, 2]), torch.tensor([0.0, 0.25, 0.5, 1.0])
    expected = mix_targets(targets, permutation=permutation, ratio=ratio, num_classes=5)
    with FakeDevice() as counter:
        found = mix_targets(
            DeviceTensor(targets), permutation=DeviceTensor(permutation), ratio=DeviceTensor(ratio), num_classes=5
        )
    assert (counter.out, counter.back) == (0, 0)
    assert torch.equal(plain(found), expected)


def test_the_counter_counts() -> None:
    with FakeDevice() as counter:
        tensor = DeviceTensor(torch.ones(3))
        (tensor + 1).cpu()
        assert (counter.out, counter.back) == (1, 0)
        assert isinstance(torch.ones(3).to(DEVICE), DeviceTensor)
        assert (counter.out, counter.back) == (1, 1)
        tensor.copy_(torch.zeros(3))
        assert (counter.out, counter.back) == (1, 2)
        torch.zeros(3).copy_(tensor)
        assert (counter.out, counter.back) == (2, 2)
        tensor.double().to(DEVICE)
        assert (counter.out, counter.back) == (2, 2)
        assert tensor.inner.tolist() == [0, 0, 0]
        assert isinstance(torch.arange(3, device=DEVICE), DeviceTensor)
        assert (counter.out, counter.back) == (2, 2)


def test_the_counter_refuses_what_waits_or_mixes() -> None:
    with FakeDevice():
        tensor = DeviceTensor(torch.arange(3.0))
        with pytest.raises(RuntimeError, match=r"wait|meta"):
            tensor.sum().item()
        with pytest.raises(RuntimeError, match=r"wait|meta"):
            bool((tensor > 0).all())
        with pytest.raises(RuntimeError, match="wait"):
            tensor[tensor > 0]
        with pytest.raises(RuntimeError, match="mixes"):
            tensor + torch.ones(3)
        assert isinstance(tensor + torch.tensor(1.0), DeviceTensor)
