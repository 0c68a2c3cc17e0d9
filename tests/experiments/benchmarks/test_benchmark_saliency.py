"""The benchmark of the sources: what it reads off a checkpoint, and its correlations against numpy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from experiments.benchmarks.saliency import SOURCES, correlations, load_subject, training_steps
from experiments.models import PreActResNet


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, PreActResNet]:
    """A checkpoint in a run's folder, without the run's settings, and what is in it."""
    net = PreActResNet(num_classes=7, in_channels=3, width=4, depths=(1, 2, 1, 3))
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {f"net.{name}": value for name, value in net.state_dict().items()}}, path)
    return path, net


def test_a_network_is_built_from_its_weights(checkpoint: tuple[Path, PreActResNet]) -> None:
    path, net = checkpoint
    subject = load_subject(path, images=5)
    assert subject.images.shape == (5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(subject.net.eval()(subject.images), net.eval()(subject.images))
        assert torch.equal(subject.classes, net(subject.images).argmax(1))


def test_the_stem_and_the_data_come_from_the_run(checkpoint: tuple[Path, PreActResNet]) -> None:
    path, _ = checkpoint
    settings = "model: {stem_stride: 2}\ndata: {_target_: experiments.data.DigitsDataModule, num_workers: 0}\n"
    (path.parent.parent / "config.yaml").write_text(settings)
    subject = load_subject(path, images=5)
    assert subject.net.stem.stride == (2, 2)
    # The digits are gray: what the net would be asked is another matter.
    assert subject.images.shape[:2] == (5, 1)
    assert len(set(subject.classes.tolist())) > 1


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"fc.weight": torch.ones(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="holds no PreActResNet"):
        load_subject(tmp_path / "x.ckpt")


def test_correlations(checkpoint: tuple[Path, PreActResNet]) -> None:
    subject = load_subject(checkpoint[0], images=5)
    found = correlations(subject)
    assert set(found) == set(SOURCES)
    maps = {
        name: SOURCES[name].compute(subject.net, subject.images, subject.classes).saliency.numpy()
        for name in ("gradient", "spectral")
    }
    for n in (2, 4, 8, 16):
        assert found["gradient"][str(n)] == pytest.approx(1.0)
        blocks = {
            name: each.reshape(5, n, 32 // n, n, 32 // n).mean((2, 4)).reshape(5, -1) for name, each in maps.items()
        }
        expected = np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*blocks.values(), strict=True)])
        assert found["spectral"][str(n)] == pytest.approx(expected, abs=1e-4)


def test_every_step_trains(checkpoint: tuple[Path, PreActResNet]) -> None:
    subject = load_subject(checkpoint[0], images=4)
    steps = training_steps(subject.net, subject.images, subject.classes, subject.config)
    assert set(steps) >= {"plain", *SOURCES, "MixUp", "CutMix"}
    assert any(name.startswith("manifold mixup") for name in steps)
    for name, step in steps.items():
        before = subject.net.head.weight.clone()
        step()
        assert not torch.equal(subject.net.head.weight, before), name
