"""Images are mixed for a trained network: its image size, normalization, gradient and predicted classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.nn import functional as F

import experiments.show_mixing
import lightning_puzzlemix as pm
from experiments.data import DigitsDataModule
from experiments.models import PreActResNet
from experiments.show_mixing import main
from experiments.test_results.results import TEST_RESULTS, CalibrationCurve, TestResults
from experiments.training.module import Classifier

WIDTH = 4
MEAN, STD = 0.306, 0.324


def make_run(folder: Path, data: dict[str, Any], classes: int, channels: int) -> Path:
    """A run folder as an unfinished training leaves it: config.yaml and best.ckpt."""
    torch.manual_seed(1)
    classifier = Classifier(PreActResNet(classes, in_channels=channels, width=WIDTH), num_classes=classes)
    # Without this an untrained network predicts the same class for all images.
    patches = (torch.rand(16, channels, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3) - MEAN) / STD
    *_, bias = classifier.net.parameters()
    with torch.no_grad():
        bias -= classifier.net.eval()(patches).mean(0)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_model_summary=False)
    trainer.strategy.connect(classifier)
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    model = {"_target_": "experiments.models.PreActResNet", "width": WIDTH}
    OmegaConf.save(OmegaConf.create({"data": data, "model": model}), folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {"_target_": "experiments.data.DigitsDataModule", "seed": 0}
    return make_run(tmp_path_factory.mktemp("digits") / "run", data, classes=10, channels=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three gray images of the digits' size."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in "abc":
        patches = random.integers(0, 256, (8, 8)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        Image.fromarray(patches).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[pm.MixedBatch, dict[str, Any]]]:
    """The arguments of plot_mixes, which is called."""
    kept: list[Any] = []
    plot_mixes = experiments.show_mixing.plot_mixes

    def draw(mixed: pm.MixedBatch, **options: Any) -> Any:
        kept.append((mixed, options))
        return plot_mixes(mixed, **options)

    monkeypatch.setattr(experiments.show_mixing, "plot_mixes", draw)
    return kept


def restored(run: Path) -> torch.nn.Module:
    net = PreActResNet(10, in_channels=1, width=WIDTH)
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    net.load_state_dict({key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")})
    return net.eval()


@pytest.mark.parametrize("inside", [".", "checkpoints/best.ckpt"])
def test_saliency_is_the_gradient_for_the_predicted_classes(
    inside: str, digits_run: Path, folder: Path, tmp_path: Path, plotted: list[Any]
) -> None:
    output = tmp_path / "mix.png"
    assert main([str(folder), "--checkpoint", str(digits_run / inside), "--output", str(output)]) == 0
    mixed, options = plotted[0]
    gray = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
    images = ((torch.from_numpy(gray)[:, None] / 255 - MEAN) / STD).requires_grad_()
    logits = restored(digits_run)(images)
    predicted = logits.argmax(1)
    assert len(set(predicted.tolist())) > 1
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, predicted), images)
    torch.testing.assert_close(mixed.originals[:3], images.detach())
    # The loss is the mean over three images here, over both images of three pairs there.
    torch.testing.assert_close(2 * mixed.saliency[:3], gradient.square().mean(1).sqrt())
    titles = [f"{name},\npredicted as {label}" for name, label in zip("abc", predicted.tolist(), strict=True)]
    assert options["titles"][:3] == titles
    assert (mixed.mean, mixed.std) == ((MEAN,), (STD,))
    assert options["class_names"] == tuple("0123456789")
    assert mixed.targets.shape == (6, 10)
    # Borders are compared on the pixels before normalization, so the config must know the normalization.
    config = pm.PuzzleMixConfig(mean=(MEAN,), std=(STD,))
    expected = pm.puzzle_mix(
        mixed.originals, mixed.saliency, permutation=torch.arange(6).roll(3), lam=0.5, blocks_per_side=8, config=config
    )
    assert torch.equal(mixed.images, expected.images)
    with Image.open(output) as plot:
        assert min(plot.size) > 400


@pytest.mark.parametrize("saliency", ["feature", "spectral"])
def test_other_saliency_can_be_asked_for(
    saliency: str, digits_run: Path, folder: Path, tmp_path: Path, plotted: list[Any]
) -> None:
    arguments = [str(folder), "--checkpoint", str(digits_run), "--output", str(tmp_path / "mix.png")]
    assert main([*arguments, "--saliency", saliency]) == 0
    assert main(arguments) == 0
    maps = [mixed.saliency for mixed, _ in plotted]
    assert not torch.allclose(maps[0], maps[1])


def test_a_grid_names_the_predicted_class(digits_run: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "grid.svg"
    grid = ["--grid", "eta=0,0.2", "--checkpoint", str(digits_run), "--output", str(output)]
    assert main([str(folder), *grid]) == 0
    gray = torch.from_numpy(np.asarray(Image.open(folder / "a.png")).copy())[None, None] / 255
    predicted = int(restored(digits_run)((gray - MEAN) / STD).argmax())
    text = output.read_text()
    assert "first: a," in text
    assert f"predicted as {predicted}" in text


def test_images_get_the_given_size(digits_run: Path, folder: Path, tmp_path: Path, plotted: list[Any]) -> None:
    arguments = [str(folder), "--checkpoint", str(digits_run), "--output", str(tmp_path / "mix.png")]
    assert main([*arguments, "--size", "48x40"]) == 0
    assert plotted[0][0].images.shape == (6, 1, 48, 40)


def test_a_size_that_the_network_does_not_take_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32, 2))
    monkeypatch.setattr("experiments.show.prepare.load_network", lambda *_, **__: (net, DigitsDataModule(), None))
    arguments = [str(folder), "--checkpoint", "run", "--output", str(tmp_path / "mix.png")]
    assert main(arguments) == 0
    assert main([*arguments, "--size", "64x32"]) == 1
    printed = capsys.readouterr().out
    assert "does not take 64 x 32 pixels" in printed
    assert "leave out --size" in printed


def write_test_results(run: Path, names: tuple[str, ...]) -> None:
    bins = np.zeros(2)
    curve = CalibrationCurve(np.array([0.0, 0.5, 1.0]), bins.astype(np.int64), bins, bins)
    TestResults(names, np.zeros((len(names), len(names)), np.int64), curve).save(run / TEST_RESULTS)


def test_the_data_is_not_needed_if_the_run_names_its_classes(
    folder: Path, tmp_path: Path, plotted: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"_target_": "experiments.data.FolderDataModule", "root": str(tmp_path / "gone"), "image_size": 24}
    run = make_run(tmp_path / "run", data, classes=3, channels=3)
    arguments = [str(folder), "--checkpoint", str(run), "--output", str(tmp_path / "mix.png")]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "The image folder was not found" in printed
    assert str(tmp_path / "gone" / "train") in printed
    write_test_results(run, ("ape", "bee", "cat"))
    assert main(arguments) == 0
    mixed, options = plotted[0]
    assert options["class_names"] == ("ape", "bee", "cat")
    assert mixed.images.shape == (6, 3, 24, 24)


def test_classes_are_numbers_where_only_their_number_is_known(
    folder: Path, tmp_path: Path, plotted: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    data = {"_target_": "experiments.data.CIFAR100DataModule", "root": str(tmp_path / "gone"), "download": True}
    run = make_run(tmp_path / "run", data, classes=100, channels=3)
    assert main([str(folder), "--checkpoint", str(run), "--output", str(tmp_path / "mix.png")]) == 0
    assert plotted[0][1]["class_names"] is None
    assert "Classes are shown by number" in caplog.text
    assert not (tmp_path / "gone").exists()


def test_a_checkpoint_outside_a_run_is_an_error(
    digits_run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "elsewhere" / "net.ckpt"
    alone.parent.mkdir()
    alone.write_bytes((digits_run / "checkpoints" / "best.ckpt").read_bytes())
    assert main([str(folder), "--checkpoint", str(alone), "--output", str(tmp_path / "mix.png")]) == 1
    printed = capsys.readouterr().out
    assert "--checkpoint must be a run folder of this study or a .ckpt in its checkpoints/" in printed
    assert str(tmp_path / "config.yaml") in printed
    assert not (tmp_path / "mix.png").exists()
