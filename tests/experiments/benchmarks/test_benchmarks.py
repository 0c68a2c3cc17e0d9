"""The benchmark: its commands, its timing, the networks that it loads, and its correlations against numpy's."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

pytest.importorskip("sklearn")

import experiments.benchmark
from experiments.benchmarks import timing, training
from experiments.benchmarks.mixing import mix_densely
from experiments.benchmarks.setup import Batch, photograph_crops, training_steps
from experiments.benchmarks.timing import OperationCounter
from experiments.benchmarks.training import correlations, load_model, measure_memory, puzzle_mixers
from experiments.common.errors import UserError
from experiments.data import MissingDataError
from experiments.models import PreActResNet
from lightning_puzzlemix import CutMix, ManifoldMix, MixUp, PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.saliency import SaliencySource

DIGITS = {"_target_": "experiments.data.DigitsDataModule", "num_workers": 0}


def write_run(folder: Path, net: nn.Module, data: dict[str, Any], model: dict[str, Any]) -> Path:
    """A run folder with config.yaml and a checkpoint."""
    (folder / "checkpoints").mkdir(parents=True)
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    torch.save(
        {"state_dict": weights, "pytorch-lightning_version": pl.__version__}, folder / "checkpoints" / "last.ckpt"
    )
    OmegaConf.save(OmegaConf.create({"data": data, "model": model}), folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = {"_target_": "experiments.models.PreActResNet", "width": 4, "stem_stride": 2}
    net = PreActResNet(10, in_channels=1, width=4, stem_stride=2)
    return write_run(tmp_path_factory.mktemp("digits") / "run", net, DIGITS, model)


def test_network_and_validation_images_come_from_the_run(run_dir: Path) -> None:
    net, images, classes, config = load_model(str(run_dir / "checkpoints" / "last.ckpt"), count=5)
    assert isinstance(net, PreActResNet)
    assert net.stem.stride == (2, 2)
    stored = torch.load(run_dir / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(net.head.weight, stored["net.head.weight"])
    assert images.shape[:2] == (5, 1)
    assert len(set(classes.tolist())) > 1
    assert config.mean is not None


def test_missing_data_is_an_error(tmp_path: Path) -> None:
    data = {"_target_": "experiments.data.CIFAR100DataModule", "root": str(tmp_path / "missing")}
    model = {"_target_": "experiments.models.PreActResNet", "width": 4}
    run_dir = write_run(tmp_path / "run", PreActResNet(100, width=4), data, model)
    with pytest.raises(MissingDataError, match="missing"):
        load_model(str(run_dir))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    from experiments.models import WideResNet

    settings = {"depth": 10, "widen_factor": 1}
    net = WideResNet(10, in_channels=1, **settings)
    folder = write_run(tmp_path / "run", net, DIGITS, {"_target_": "experiments.models.WideResNet", **settings})
    with pytest.raises(UserError, match="must hold a PreActResNet"):
        load_model(str(folder))


def test_correlations(run_dir: Path) -> None:
    net, images, classes, config = load_model(str(run_dir), count=5)
    found, mixers = correlations(net, images, classes), puzzle_mixers(config)
    assert set(found) == set(mixers)
    maps = {
        name: mixers[name].source.compute(net, images, classes).saliency.numpy() for name in ("gradient", "spectral")
    }
    side = maps["gradient"].shape[1]
    for n in (2, 4, 8, 16):
        assert found["gradient"][str(n)] == pytest.approx(1.0)
        blocks = {
            name: each.reshape(5, n, side // n, n, side // n).mean((2, 4)).reshape(5, -1) for name, each in maps.items()
        }
        expected = np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*blocks.values(), strict=True)])
        assert found["spectral"][str(n)] == pytest.approx(expected, abs=1e-4)


def test_every_step_trains_on_what_its_name_promises(run_dir: Path) -> None:
    net, images, classes, config = load_model(str(run_dir), count=4)
    seen, outputs, mixed_outputs = [], [], []
    net.train().register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    net.stages[0].register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    net.stages[1].register_forward_pre_hook(lambda module, args: mixed_outputs.append(args[0].detach()))
    ways = {"MixUp": MixUp(), "CutMix": CutMix(), "manifold": ManifoldMix(["stages.0"]), "saliency": SaliencySource()}
    steps = training_steps(net, images, classes, puzzle_mixers(config) | ways)
    assert set(steps) == {"plain", *puzzle_mixers(config), *ways}
    for name, step in steps.items():
        before = net.head.weight.detach().clone()
        step()
        assert not torch.equal(net.head.weight, before), name
        # The last forward pass is the one that is trained on.
        assert torch.equal(seen[-1], images) == (name in ("plain", "manifold", "saliency")), name
        assert torch.equal(mixed_outputs[-1], outputs[-1]) == (name != "manifold"), name


def test_saliency_alone_is_computed_in_the_context_of_the_step(run_dir: Path) -> None:
    net, images, classes, _ = load_model(str(run_dir), count=4)
    calls = []

    def source(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        calls.append((images.shape, torch.is_autocast_enabled("cpu")))
        return images[:, 0].abs()

    context = partial(torch.autocast, "cpu", torch.bfloat16)
    training_steps(net, images, classes, {"alone": SaliencySource(source)}, context)["alone"]()
    assert calls == [(images.shape, True)]


def test_candidates_run_in_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter([0.0, 0.0, 0.0, 1.0, 1.0, 9.0, 10.0, 13.0, 13.0, 20.0, 20.0, 22.0, 22.0, 23.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    candidates = {name: lambda name=name: order.append(name) for name in "ab"}
    assert timing.time_interleaved(3, candidates) == {"a": 2000.0, "b": 7000.0}
    assert order == list("abababab")


def test_the_mean_of_calls_in_a_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter([0.0, 1.0, 1.0, 9.0, 20.0, 30.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    candidates = {name: lambda name=name: order.append(name) for name in "ab"}
    assert timing.time_interleaved(1, candidates, repeats=4) == {"a": 2000.0, "b": 2500.0}
    assert order == list("aaaabbbbaaaabbbb")


def batch(count: int, size: int) -> Batch:
    images, _ = photograph_crops(count, size)
    return Batch(images, torch.rand(count, size, size), torch.arange(count).roll(1), torch.linspace(0.1, 0.9, count))


def test_the_dense_formulation_agrees_with_puzzle_mix_without_transport() -> None:
    """Both solve the same problem: with gco's masks, and moves that cost too much, they give the same images."""
    pytest.importorskip("gco")
    config, mixed = PuzzleMixConfig(solver="gco", transport_cost=1000.0), batch(5, 32)
    images, ratio = mix_densely(mixed, 4, config)
    expected = puzzle_mix(
        mixed.images, mixed.saliency, permutation=mixed.permutation, lam=mixed.lam, blocks_per_side=4, config=config
    )
    torch.testing.assert_close(images, expected.images)
    torch.testing.assert_close(ratio, expected.ratio)


def test_no_tensor_is_larger_than_the_batch() -> None:
    mixed = batch(4, 64)
    with OperationCounter() as operations:
        mixed.mix(16, PuzzleMixConfig(neighborhood_size=2, threads=1))
    assert operations.largest == mixed.images.numel() < 4 * 16**4
    with OperationCounter() as operations:
        torch.zeros(3, 5).expand(2, 3, 5).clone()
    assert operations.largest == 30


def test_operations_that_would_launch_a_kernel_are_counted() -> None:
    values = torch.rand(2, 6)
    with OperationCounter() as operations:
        rows = values.view(4, 3).t()[1:].unsqueeze(0).detach()
        torch.empty(3), torch.empty_like(rows), values.new_empty(2)
    assert operations.launches == 0
    with OperationCounter() as operations:
        # Sum, division, zeros, assignment, copy, product; the transposed view is copied once to be reshaped.
        shares = values / values.sum()
        out = torch.zeros(2, 6)
        out[0] = 1
        (out.clone() @ shares.t()).t().reshape(-1)
    assert operations.launches == 7


def test_the_launches_of_a_mixing_step_depend_on_its_pipeline() -> None:
    counts = {}
    for name, config in {"moved": PuzzleMixConfig(), "not moved": PuzzleMixConfig(transport=False)}.items():
        with OperationCounter() as operations:
            batch(4, 32).mix(4, config)
        counts[name] = operations.launches
    assert 0 < counts["not moved"] < counts["moved"] < 200


@pytest.mark.parametrize("peak", [None, 1.5])
def test_memory_with_and_without_the_callback(
    peak: float | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a device nothing runs; with one, a Trainer fits once plainly and once with the callback."""
    fitted = []

    class Trainer:
        def __init__(self, callbacks: list[pl.Callback], **options: Any) -> None:
            self.callbacks = [type(each).__name__ for each in callbacks]

        def fit(self, module: pl.LightningModule, data: DataLoader) -> None:
            fitted.append((self.callbacks, next(iter(data))[0].shape))

    monkeypatch.setattr(pl, "Trainer", Trainer)
    monkeypatch.setattr(training, "peak_device_memory", lambda run: None if peak is None else (run(), peak)[1])
    assert measure_memory() == {"plain": peak, "PuzzleMixCallback": peak}
    shape = (100, 3, 32, 32)
    assert fitted == ([] if peak is None else [([], shape), (["PuzzleMixCallback"], shape)])
    printed = capsys.readouterr().out
    assert ("not measured: no device" in printed) == (peak is None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_memory_is_measured_without_a_device() -> None:
    assert timing.peak_device_memory(lambda: pytest.fail("run")) is None


@pytest.mark.parametrize(
    ("command", "file"), [("mixing", "benchmark_mixing.json"), ("logging-cost", "benchmark_logging_cost.json")]
)
def test_metrics_are_written_with_the_machine(
    command: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(rounds: int = 11, threads: int = 2) -> dict[str, Any]:
        """Measure."""
        return {"rounds": rounds, "threads": threads}

    monkeypatch.setitem(experiments.benchmark.COMMANDS, command, measure)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark", command, "--rounds", "3"])
    experiments.benchmark.main()
    written = json.loads((tmp_path / "experiments" / "results" / file).read_text())
    assert (written["rounds"], written["threads"]) == (3, 2)
    assert (
        written["machine"]["torch"] == torch.__version__.split("+")[0]
        or written["machine"]["torch"] == torch.__version__
    )
    assert written["machine"]["cores"] >= 1


@pytest.mark.parametrize("arguments", [["mixing", "--rounds", "0"], ["saliency", "--threads", "2"], ["looking"], []])
def test_wrong_options_are_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(SystemExit) as caught:
        experiments.benchmark.main()
    assert caught.value.code == 2


def test_a_missing_checkpoint_is_a_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "saliency", "--checkpoint", "missing"])
    with pytest.raises(SystemExit) as caught:
        experiments.benchmark.main()
    assert caught.value.code == 1
    assert "missing" in capsys.readouterr().out
