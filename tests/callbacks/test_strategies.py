"""DDP, its variants, FSDP1, FSDP2 and ddp_spawn on two CPU processes train like one process by hand."""

from __future__ import annotations

import csv
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from distributed_cases import Batches, Classifier, config, fully_shard, launch, make_batch, quiet, saliency_of
from platforms import needs_posix
from pytorch_lightning.plugins.precision import FSDPPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._pytree import tree_map

import lightning_puzzlemix as pm

pytestmark = needs_posix

Reports = list[dict[str, Any]]
Pair = namedtuple("Pair", "x y")
# What FSDP1 casts inputs to in mixed precision, which Lightning decides.
FSDP_DTYPE = FSDPPrecision("bf16-mixed").mixed_precision_config.param_dtype


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strategies")


@pytest.fixture(scope="module")
def everything(folder: Path) -> Reports:
    """Run every strategy in one launch, since starting processes takes longest."""
    return launch("strategies", folder, processes=2)


def of(everything: Reports, case: str) -> Reports:
    if case.startswith("fsdp2") and fully_shard is None:
        pytest.skip("FSDP2 runs on GPUs alone before torch 2.6")
    reports = [report[case] for report in everything]
    assert len(reports) == 2
    for report in reports:
        assert "error" not in report, report["error"]
    return reports


def replay(
    reports: Reports, clean_weight: float, window: int = 1
) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """Train one model by hand on both ranks' batches; return its weights and (found, expected) saliencies."""
    model, maps = Classifier(), []
    model.train()
    for step in range(len(reports[0]["journal"])):
        for report in reports:
            images, targets, originals, classes = report["journal"][step]
            loss = F.cross_entropy(model(images), targets)
            if report["rows"][step] is not None:
                model.train(clean_weight > 0)
                maps.append((report["rows"][step][1], saliency_of(model, originals, classes)))
                model.train()
                loss = loss + clean_weight * F.cross_entropy(model(originals), classes)
            (loss / 2 / window).backward()
        if (step + 1) % window and step + 1 < len(reports[0]["journal"]):
            continue
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    return {name: value.detach() for name, value in model.named_parameters()}, maps


@pytest.mark.parametrize(
    ("case", "clean_weight", "window"),
    [("ddp", 0.5, 1), ("find unused", 0.5, 1), ("static graph", 0.5, 1), ("accumulated", 0.5, 3), ("bare", 0.0, 1)],
)
def test_ddp_trains_like_one_process(case: str, clean_weight: float, window: int, everything: Reports) -> None:
    reports = of(everything, case)
    expected, maps = replay(reports, clean_weight, window)
    for name, value in expected.items():
        assert torch.equal(reports[0]["weights"][name], reports[1]["weights"][name]), f"{name} differs between ranks"
        torch.testing.assert_close(reports[0]["weights"][name], value, atol=1e-6, rtol=1e-5)
    # BatchNorm in evaluation mode looks at rank 0's statistics, which this replay does not keep.
    if clean_weight:
        for found, by_hand in maps:
            torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("case", ["ddp", "find unused", "static graph", "bare", "fsdp2"])
def test_ranks_make_the_same_decisions_and_different_draws(case: str, everything: Reports) -> None:
    first, second = of(everything, case)
    decisions = [[row is not None for row in report["rows"]] for report in (first, second)]
    assert decisions[0] == decisions[1]
    if case == "ddp":
        assert set(decisions[0]) == {True, False}, "the seed must give both decisions"
    else:
        assert first["seed"] == second["seed"], "a seed that is drawn must be rank 0's everywhere"
    pairs = [(a[0], b[0]) for a, b in zip(first["rows"], second["rows"], strict=True) if a is not None]
    # Of 40320 permutations two are equal by chance once in a blue moon.
    assert not pairs or not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("case", "clean_weight"),
    [("fsdp2", 0.0), ("fsdp2 clean", 0.5), ("fsdp1", 0.0), ("fsdp1 clean", 0.5), ("fsdp1 method", 0.0)],
)
def test_sharded_strategies_train_like_one_process(case: str, clean_weight: float, everything: Reports) -> None:
    """Also with a saliency loss that is a method of the module, inside the wrapper of FSDP1."""
    reports = of(everything, case)
    assert all(row is None or 0 <= float(row[1].min()) < float(row[1].max()) for row in reports[0]["rows"])
    expected, _ = replay(reports, clean_weight)
    for name, value in expected.items():
        torch.testing.assert_close(reports[0]["weights"][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "clean_weight", "dtype"),
    [("fsdp1 bf16", 0.0, FSDP_DTYPE), ("fsdp2 bf16", 0.0, torch.float32), ("ddp fp16", 0.5, torch.float32)],
)
def test_mixed_precision_trains_within_its_rounding(
    case: str, clean_weight: float, dtype: torch.dtype, everything: Reports
) -> None:
    """FSDP1 casts what goes into training_step; the targets keep their precision."""
    reports = of(everything, case)
    for report in reports:
        assert {(images.dtype, targets.dtype) for images, targets, *_ in report["journal"] if targets.ndim == 2} == {
            (dtype, torch.float32)
        }
        report["journal"] = [(images.float(), *rest) for images, *rest in report["journal"]]
    expected, _ = replay(reports, clean_weight)
    start = dict(Classifier().named_parameters())
    for name, value in expected.items():
        found = reports[0]["weights"][name].float()
        # Rounding grows through eight steps; a batch mixed otherwise would be farther off by a multiple. Of a bias before
        # BatchNorm, which has no gradient, only rounding is left.
        assert float((found - value).norm()) < 0.1 * float((value - start[name]).norm()) + 1e-3, name


def test_seeds_that_differ_between_ranks_are_refused_on_every_rank(everything: Reports) -> None:
    errors = [report["seeds"]["error"] for report in everything]
    assert all("seed must be the same on every rank, got" in error and "3 on rank 0" in error for error in errors)


def test_only_rank_zero_logs_and_it_logs_its_own_batches(folder: Path, everything: Reports) -> None:
    report = of(everything, "ddp")[0]
    assert [path.name for path in folder.rglob("metrics*.csv")] == ["metrics.csv"]
    # The first mixed batch and the last.
    assert len(list(folder.rglob("images/*.png"))) == 2
    assert len(list(folder.rglob("*.png"))) == 2
    with (folder / "log" / "metrics.csv").open() as file:
        logged = [float(row["puzzlemix/ratio"]) for row in csv.DictReader(file) if row["puzzlemix/ratio"]]
    assert len(logged) == len(report["rows"])
    for value, row in zip(logged, report["rows"], strict=True):
        # In a batch that is not mixed Lightning repeats the value of the one before.
        assert row is None or value == pytest.approx(float(row[2].mean()), abs=1e-5)


class Rebuilding(SingleDeviceStrategy):
    """Gives training_step new containers around the same tensors, as FSDP1 does, and DDP on GPUs before pytorch#171617."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(*tree_map(lambda value: value, args), **kwargs)


@pytest.mark.parametrize("kind", [list, tuple, Pair, lambda pair: dict(zip("xy", pair, strict=True))])
def test_a_strategy_may_rebuild_the_batchs_containers(kind: Any) -> None:
    class Unpacking(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(tuple(batch.values()) if isinstance(batch, dict) else batch, batch_idx)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(tuple(batch.values()) if isinstance(batch, dict) else batch, batch_idx)

    module, batches = Unpacking(), [make_batch(0, 0, index) for index in range(2)]
    made = [Pair(*batch) if kind is Pair else kind(batch) for batch in batches]
    mixing = pm.PuzzleMixCallback(config(), seed=1)
    quiet(mixing, strategy=Rebuilding(torch.device("cpu"))).fit(module, Batches(*made))
    assert [targets.shape for _, targets, *_ in module.journal] == [(8, 5)] * 2
    assert torch.equal(module.journal[-1][0], mixing.last.images)


def test_a_used_callback_can_be_spawned(tmp_path: Path) -> None:
    launch("spawn", tmp_path)
    reports = [torch.load(tmp_path / f"spawned.{rank}.pt", weights_only=False) for rank in range(2)]
    assert reports[0]["seed"] == reports[1]["seed"]
    for name, value in reports[0]["weights"].items():
        assert torch.equal(value, reports[1]["weights"][name])
        assert not torch.equal(value, dict(Classifier().named_parameters())[name])
    originals = [batch[0] for batch in Batches()]
    pairs = list(zip(reports[0]["journal"], reports[1]["journal"], strict=True))
    for (first, second), original in zip(pairs, originals, strict=True):
        assert first[1].ndim == second[1].ndim == 2
        assert torch.equal(first[2], original)
    # Both ranks see the same data here; only their draws tell them apart.
    assert not all(torch.equal(first[0], second[0]) for first, second in pairs)
