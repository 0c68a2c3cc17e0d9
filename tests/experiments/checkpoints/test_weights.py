"""Weights from the authors' files and from the study's own give the same logits; what does not fit is listed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision
from authors_networks import Basic, Bottleneck, PreAct, Pyramid, Wide, data_parallel, recorder, warm_up
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from experiments.checkpoints.weights import load_weights, read_checkpoint
from experiments.common.errors import UserError
from experiments.models import PreActResNet, PyramidNet, WideResNet, build_torchvision
from experiments.training.module import Classifier

AUTHORS = {"final_norm": False, "init": "torch"}
PAIRS = {
    "preactresnet18": (lambda: PreAct(Basic, 4, [2, 2, 2, 2], 6), lambda: PreActResNet(6, width=4, **AUTHORS)),
    "preactresnet50": (
        lambda: PreAct(Bottleneck, 4, [1, 2, 1, 1], 6),
        lambda: PreActResNet(6, width=4, depths=(1, 2, 1, 1), block="bottleneck", **AUTHORS),
    ),
    "wrn28_10": (lambda: Wide(2, 2, 6), lambda: WideResNet(6, depth=16, widen_factor=2)),
    "pyramidnet": (lambda: Pyramid(2, 20, 6), lambda: PyramidNet(6, depth=20, alpha=20)),
    "resnet50": (lambda: torchvision.models.resnet18(num_classes=6), lambda: build_torchvision("resnet18", 6)),
}


def write(path: Path, net: nn.Module, *, module: str = "logger", arch: str = "preactresnet18", **options: Any) -> Path:
    """A checkpoint as the authors' training writes it at the end of an epoch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with recorder(module) as record:
        content = {
            "epoch": 3, "arch": arch, "state_dict": data_parallel(net), "recorder": record,
            "optimizer": optimizer.state_dict(),
        }  # fmt: skip
        torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("name", PAIRS)
def test_the_authors_networks_give_the_same_logits(name: str, tmp_path: Path) -> None:
    make_theirs, make_ours = PAIRS[name]
    theirs, ours = warm_up(make_theirs()), make_ours().eval()
    images = torch.randn(3, 3, 32, 32)
    path = write(tmp_path / "checkpoint.pth.tar", theirs, arch=name)
    with torch.no_grad():
        assert not torch.allclose(ours(images), theirs(images), atol=0.01)
        checkpoint = load_weights(ours, path)
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)
    assert (checkpoint.source, checkpoint.epoch, checkpoint.architecture) == ("authors", 3, name)
    assert checkpoint.weights.keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("module", ["logger", "utils"])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_both_formats_are_read_and_their_record_ignored(module: str, options: dict[str, Any], tmp_path: Path) -> None:
    net = PreAct(Basic, 4, [1, 1, 1, 1], 6)
    checkpoint = read_checkpoint(write(tmp_path / "checkpoint.pth.tar", net, module=module, **options))
    assert checkpoint.results == {}
    torch.testing.assert_close(checkpoint.weights, dict(net.state_dict()))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"best_prec1": torch.tensor(78.76)}, {"best_test_accuracy": 0.7876}),
        ({"best_prec1": 78.76}, {"best_test_accuracy": 0.7876}),
        ({"best_prec1": np.float32(78.75)}, {}),
        ({"best_prec1": "78.76", "recorder": {"epoch_accuracy": 3}}, {}),
        ({"best_prec1": torch.ones(2)}, {}),
    ],
)
def test_recorded_accuracies_are_read_where_they_are_plain_numbers(
    facts: dict[str, Any], expected: dict[str, float], tmp_path: Path
) -> None:
    content = {"epoch": 300, "arch": "resnet50", "state_dict": {"fc.bias": torch.ones(2)}, **facts}
    torch.save(content, tmp_path / "a.tar")
    checkpoint = read_checkpoint(tmp_path / "a.tar")
    assert checkpoint.results == pytest.approx(expected)
    assert (checkpoint.epoch, checkpoint.architecture) == (300, "resnet50")


def test_wrappers_leave_no_prefix(tmp_path: Path) -> None:
    names = ("module.module.conv1.weight", "module.module._orig_mod.weight", "module._orig_mod.weight", "module.weight")
    found = []
    for name in names:
        torch.save({"state_dict": {name: torch.ones(1)}}, tmp_path / "a.tar")
        found += read_checkpoint(tmp_path / "a.tar").weights
    assert found == ["conv1.weight", "weight", "weight", "weight"]


def test_files_of_old_torch_have_no_counters(tmp_path: Path) -> None:
    theirs, ours = PreAct(Basic, 4, [2, 2, 2, 2], 6).eval(), PreActResNet(6, width=4, **AUTHORS).eval()
    weights = data_parallel(theirs)
    old = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": old}, tmp_path / "old.tar")
    load_weights(ours, tmp_path / "old.tar")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_everything_that_does_not_fit_is_listed_and_the_network_left_alone(tmp_path: Path) -> None:
    weights = data_parallel(PreAct(Basic, 4, [2, 2, 2, 2], 100))
    del weights["module.layer2.1.conv2.weight"]
    weights["module.layer5.0.conv1.weight"] = torch.ones(1, 1, 1, 1)
    weights["module.extra"] = torch.ones(1)
    weights["module.stem.weight"] = weights["module.conv1.weight"]
    torch.save({"state_dict": weights, "arch": "preactresnet18", "epoch": 9}, tmp_path / "a.tar")
    net = PreActResNet(6, width=4, **AUTHORS)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(net, tmp_path / "a.tar")
    first, *lines = str(caught.value).splitlines()
    assert "its arch is preactresnet18" in first
    expected = [
        r"Twice in the file: conv1\.weight, stem\.weight",
        r"Error\(s\) in loading state_dict for PreActResNet:",
        r'Missing key\(s\) in state_dict: "stages\.1\.1\.conv2\.weight"\.',
        r'Unexpected key\(s\) in state_dict: "extra", "stages\.4\.0\.conv1\.weight"\.',
        r"size mismatch for head\.weight: .*\[100, 32\]\) from checkpoint.*\[6, 32\]\)\.",
        r"size mismatch for head\.bias: .*\[100\]\) from checkpoint.*\[6\]\)\.",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line.strip()), line
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


class Watcher(pl.Callback):
    """Saves in the midst of validation, as the checkpoint callback does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_the_study_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier(PreActResNet(6, width=4), num_classes=6)
    data = DataLoader(TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 6), batch_size=4)
    keeper = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="best", monitor="val_accuracy", mode="max")
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Watcher(tmp_path / "first.ckpt"), keeper],
    )  # fmt: skip
    trainer.fit(classifier, data, data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    net = PreActResNet(6, width=4)
    checkpoint = load_weights(net, tmp_path / "end.ckpt")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(images), classifier.net.eval()(images))
    assert (checkpoint.source, checkpoint.epoch, checkpoint.architecture) == ("study", 2, None)
    assert checkpoint.results == {"best_val_accuracy": pytest.approx(keeper.best_model_score.item())}
    assert read_checkpoint(tmp_path / "first.ckpt").epoch == 1
    with pytest.raises(UserError, match=r"size mismatch for head\.weight"):
        load_weights(PreActResNet(7, width=4), tmp_path / "end.ckpt")


def test_of_a_lightning_checkpoint_only_the_metrics_are_passed_over(tmp_path: Path) -> None:
    net = PreActResNet(6, width=4)
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    content: dict[str, Any] = {"pytorch-lightning_version": "2.4.0", "epoch": 3, "state_dict": weights}
    weights["val_metrics.val_accuracy.tp"] = torch.ones(1)
    torch.save(content, tmp_path / "a.ckpt")
    assert load_weights(net, tmp_path / "a.ckpt").epoch is None
    weights["my_metrics.tp"] = torch.ones(1)
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"Unexpected key\(s\) in state_dict: \"my_metrics\.tp\""):
        load_weights(net, tmp_path / "a.ckpt")
