"""Mixing that stays on the device: the same result to the bit, no waiting, and checks that come later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import emulated
import pytest
import torch
from emulated import EmulatedKernels
from fake_device import DeviceTensor, FakeDevice
from recorded import load_photos
from torch import Tensor

from lightning_puzzlemix import MixDraw, MixResult, PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.core.pipeline import mix_checked
from lightning_puzzlemix.solvers import DeferredChecks, backends, cuda_runtime, device


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    return emulated.build(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def on_device(kernels: EmulatedKernels, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kernels.install(monkeypatch)
    device._moves.cache_clear()
    yield
    device._moves.cache_clear()


def plain(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    assert isinstance(tensor, DeviceTensor)
    return tensor.inner


def place(value: Any) -> Any:
    return DeviceTensor(value) if isinstance(value, Tensor) else value


def check_equal(found: MixResult, expected: MixResult) -> None:
    for name in ("images", "mask", "ratio", "plan"):
        mine, other = plain(getattr(found, name)), getattr(expected, name)
        assert (mine is None) == (other is None)
        assert mine is None or torch.equal(mine, other), name


@pytest.mark.parametrize("case", range(0, 20, 3))
@pytest.mark.parametrize("settings", [{}, {"num_labels": 4, "transport_size": 4}, {"transport": False}], ids=str)
def test_photographs_are_mixed_as_on_the_host(case: int, settings: dict[str, Any], on_device: None) -> None:
    recordings = load_photos()
    recorded, facts = recordings[case % len(recordings)]
    config = {"mean": recorded.mean, "std": recorded.std, **settings}
    images, saliency = recorded.images, recorded.saliency
    call = {
        "permutation": torch.arange(len(images)).roll(1),
        "lam": facts["lam"],
        "blocks_per_side": facts["num_blocks"],
    }
    expected = puzzle_mix(images, saliency, **call, config=PuzzleMixConfig(**config, solve_on="host"))
    with FakeDevice() as counter:
        on = {name: place(value) for name, value in call.items()}
        found = puzzle_mix(
            DeviceTensor(images), DeviceTensor(saliency), **on, config=PuzzleMixConfig(**config, solve_on="device")
        )
    check_equal(found, expected)
    # By itself the function waits for its check of values, and for nothing else.
    assert (counter.out, counter.waits) == (1, 1)


@pytest.mark.parametrize("lam", [0.3, torch.tensor([0.1, 0.5, 0.9, 0.3])], ids=["number", "numbers of the host"])
def test_nothing_waits_where_the_checks_may_come_later(lam: float | Tensor, on_device: None) -> None:
    images, saliency = torch.rand(4, 3, 16, 16), torch.rand(4, 16, 16)
    call: dict[str, Any] = {"lam": lam, "blocks_per_side": 4}
    permutation = torch.tensor([1, 0, 3, 2])
    expected = puzzle_mix(images, saliency, permutation=permutation, **call)
    checks = DeferredChecks()
    with FakeDevice() as counter:
        on = DeviceTensor(images)
        draw = MixDraw(DeviceTensor(permutation), **call)
        found = mix_checked(
            on, DeviceTensor(saliency), draw, PuzzleMixConfig(solve_on="device"), on, on, checks
        )  # fmt: skip
        assert (counter.out, counter.waits) == (1, 0)
        checks.finish()
    check_equal(found, expected)


WRONG = {
    "NaN": (lambda images, saliency, lam: images[1].fill_(torch.nan), "images hold NaN"),
    "unit": (lambda images, saliency, lam: images.mul_(1e8), "must lie near"),
    "negative": (lambda images, saliency, lam: saliency[2].sub_(2), "saliency must be >= 0"),
    "lam": (lambda images, saliency, lam: lam[0].fill_(1.5), "lam must lie in"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("raised_by", ["the next batch", "the end"])
def test_wrong_values_are_raised_later_and_name_their_batch(kind: str, raised_by: str, on_device: None) -> None:
    spoil, message = WRONG[kind]
    checks = DeferredChecks()

    def mix(*, spoiled: bool) -> None:
        images, saliency, lam = torch.rand(3, 3, 8, 8), torch.rand(3, 8, 8), torch.full((3,), 0.5)
        if spoiled:
            spoil(images, saliency, lam)
        on = DeviceTensor(images)
        draw = MixDraw(DeviceTensor(torch.tensor([1, 2, 0])), DeviceTensor(lam), 2)
        mix_checked(on, DeviceTensor(saliency), draw, PuzzleMixConfig(solve_on="device"), on, on, checks)

    with FakeDevice() as target:
        checks.batch = "batch 0 of epoch 2"
        mix(spoiled=False)
        checks.batch = "batch 1 of epoch 2"
        mix(spoiled=True)
        checks.batch = "batch 2 of epoch 2"
        target.catch_up()
        with pytest.raises(ValueError, match=rf"batch 1 of epoch 2, which has been mixed since: .*{message}"):
            mix(spoiled=False) if raised_by == "the next batch" else checks.finish()
        # Once is enough.
        checks.finish()


def test_device_is_refused_where_it_cannot_solve() -> None:
    call: dict[str, Any] = {"permutation": torch.tensor([1, 0]), "lam": 0.5, "blocks_per_side": 2}
    with pytest.raises(ValueError, match=r"solve_on='device', but the images are on cpu.*use solve_on='host'"):
        puzzle_mix(torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), **call, config=PuzzleMixConfig(solve_on="device"))


def test_auto_solves_on_the_host_and_says_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def missing(index: int) -> None:
        tried.append(index)
        raise ImportError(f"cuda-core is not installed: {cuda_runtime.INSTALL}")

    monkeypatch.setattr(backends, "AUTO_MEANS_DEVICE", True)
    monkeypatch.setattr(backends, "_reasons_given", set())
    monkeypatch.setattr(cuda_runtime, "load_kernels", missing)
    device._why_no_kernels.cache_clear()
    with FakeDevice() as counter, caplog.at_level("INFO"):
        for _ in range(2):
            puzzle_mix(
                DeviceTensor(torch.rand(2, 3, 8, 8)), DeviceTensor(torch.rand(2, 8, 8)),
                permutation=DeviceTensor(torch.tensor([1, 0])), lam=0.5, blocks_per_side=2,
            )  # fmt: skip
    assert (counter.out, counter.back) == (2, 2)
    device._why_no_kernels.cache_clear()
    # Not with every batch.
    assert len(tried) == 1
    said = [record.message for record in caplog.records if "solves on the host" in record.message]
    assert said == [f"Puzzle Mix solves on the host: cuda-core is not installed: {cuda_runtime.INSTALL}"]


def test_the_host_waits_for_its_one_copy_alone() -> None:
    with FakeDevice() as counter:
        puzzle_mix(
            DeviceTensor(torch.rand(2, 3, 8, 8)), DeviceTensor(torch.rand(2, 8, 8)),
            permutation=DeviceTensor(torch.tensor([1, 0])), lam=0.5, blocks_per_side=2,
            config=PuzzleMixConfig(solve_on="host"),
        )  # fmt: skip
    assert (counter.out, counter.back, counter.waits) == (1, 1, 1)
