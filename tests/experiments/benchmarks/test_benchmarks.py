"""The benchmark: its commands, its timing, the networks that it loads, and its correlations against numpy's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn

pytest.importorskip("sklearn")

import experiments.benchmark
from experiments.benchmarks import setup
from experiments.benchmarks.dense_mixing import mix_densely
from experiments.benchmarks.mixing import Batch, LargestTensor
from experiments.benchmarks.saliency import correlations, load_model
from experiments.benchmarks.steps import SOURCES, training_steps
from experiments.common.errors import UserError
from experiments.models import PreActResNet
from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix

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
    model = load_model(str(run_dir / "checkpoints" / "last.ckpt"), images=5)
    assert isinstance(model.net, PreActResNet)
    assert model.net.stem.stride == (2, 2)
    stored = torch.load(run_dir / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(model.net.head.weight, stored["net.head.weight"])
    assert model.images.shape[:2] == (5, 1)
    assert len(set(model.classes.tolist())) > 1
    assert model.config.mean is not None


def test_photographs_take_the_place_of_missing_data(tmp_path: Path) -> None:
    net = PreActResNet(100, width=4)
    data = {"_target_": "experiments.data.CIFAR100DataModule", "root": str(tmp_path / "missing")}
    run_dir = write_run(tmp_path / "run", net, data, {"_target_": "experiments.models.PreActResNet", "width": 4})
    model = load_model(str(run_dir), images=5)
    assert model.images.shape == (5, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.classes, net.eval()(model.images).argmax(1))
    assert "data is missing" in model.description


def test_other_networks_are_refused(tmp_path: Path) -> None:
    from experiments.models import WideResNet

    settings = {"depth": 10, "widen_factor": 1}
    net = WideResNet(10, in_channels=1, **settings)
    folder = write_run(tmp_path / "run", net, DIGITS, {"_target_": "experiments.models.WideResNet", **settings})
    with pytest.raises(UserError, match="must hold a PreActResNet"):
        load_model(str(folder))


def test_correlations(run_dir: Path) -> None:
    model = load_model(str(run_dir), images=5)
    found = correlations(model)
    assert set(found) == set(SOURCES)
    maps = {
        name: SOURCES[name].compute(model.net, model.images, model.classes).saliency.numpy()
        for name in ("gradient", "spectral")
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
    model = load_model(str(run_dir), images=4)
    net = model.net.train()
    images, outputs, mixed_outputs = [], [], []
    net.register_forward_pre_hook(lambda module, args: images.append(args[0].detach()))
    net.stages[0].register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    net.stages[1].register_forward_pre_hook(lambda module, args: mixed_outputs.append(args[0].detach()))
    steps = training_steps(net, model.images, model.classes, model.config)
    manifold = "manifold mixup, stages.0"
    assert set(steps) == {"plain", *SOURCES, "MixUp", "CutMix", "CutMix, per sample", manifold}
    for name, step in steps.items():
        before = net.head.weight.detach().clone()
        step()
        assert not torch.equal(net.head.weight, before), name
        # The last forward pass is the one that is trained on.
        assert torch.equal(images[-1], model.images) == (name in ("plain", manifold)), name
        assert torch.equal(mixed_outputs[-1], outputs[-1]) == (name != manifold), name


def test_candidates_run_in_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = iter([0.0, 0.0, 0.0, 1.0, 1.0, 9.0, 10.0, 13.0, 13.0, 20.0, 20.0, 22.0, 22.0, 23.0])
    monkeypatch.setattr(setup.time, "perf_counter", lambda: next(clock))
    candidates = {name: lambda name=name: order.append(name) for name in "ab"}
    assert setup.time_interleaved(3, candidates) == {"a": 2.0, "b": 7.0}
    assert order == list("abababab")


def batch(count: int, size: int) -> Batch:
    images, _ = setup.photograph_crops(count, size)
    return Batch(images, torch.rand(count, size, size), torch.arange(count).roll(1), torch.linspace(0.1, 0.9, count))


def test_the_dense_formulation_agrees_with_puzzle_mix_without_transport() -> None:
    """Both solve the same problem: with gco's masks, and moves that cost too much, they give the same images."""
    pytest.importorskip("gco")
    config, mixed = PuzzleMixConfig(solver="gco", transport_cost=1000.0), batch(5, 32)
    images, ratio = mix_densely(mixed.images, mixed.saliency, mixed.permutation, mixed.lam, 4, config)
    expected = puzzle_mix(
        mixed.images, mixed.saliency, permutation=mixed.permutation, lam=mixed.lam, blocks_per_side=4, config=config
    )
    torch.testing.assert_close(images, expected.images)
    torch.testing.assert_close(ratio, expected.ratio)


def test_no_tensor_is_larger_than_the_batch() -> None:
    mixed = batch(4, 64)
    with LargestTensor() as largest:
        mixed.mix(16, PuzzleMixConfig(neighborhood_size=2, threads=1))
    assert largest.elements == mixed.images.numel() < 4 * 16**4
    with LargestTensor() as largest:
        torch.zeros(3, 5).expand(2, 3, 5).clone()
    assert largest.elements == 30


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
