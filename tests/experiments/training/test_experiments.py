"""Every experiment runs: composed as on the command line, with its own network, on a few made-up images."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from experiments.data import CIFAR100DataModule, ImageNetDataModule, TinyImageNetDataModule
from experiments.data.base import Sources
from experiments.train import run

Compose = Callable[..., DictConfig]
NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[3] / "conf" / "experiment").glob("*.yaml"))
PHASED = [name for name in NAMES if name.endswith("_3phase")]
SHORT = (
    "trainer=cpu", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
    "trainer.num_sanity_val_steps=0", "data.root=/made-up",
)  # fmt: skip
# So much of each network, or of the images, that two steps take a second or two.
NARROW = {
    "preactresnet18": ["model.width=8"],
    "wrn28_10": ["model.width=4"],
    "pyramidnet200": ["model.depth=20"],
    "resnet50": ["data.image_size=64"],
}


class MadeUpImages:
    """Noise images of the size in which the data set comes, with a few of its classes."""

    def __init__(self, side: int, count: int = 12) -> None:
        self.side = side
        self.targets = [index % 5 for index in range(count)]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)
        return Image.fromarray(pixels), self.targets[index]


@pytest.fixture(autouse=True)
def _made_up_data(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = ((CIFAR100DataModule, 32, 100), (TinyImageNetDataModule, 64, 200), (ImageNetDataModule, 256, 1000))
    for module, side, classes in made_up:
        sources = Sources(train=MadeUpImages(side), test=MadeUpImages(side))
        monkeypatch.setattr(module, "prepare_data", lambda self: None)
        monkeypatch.setattr(module, "open_sources", lambda self, sources=sources: sources)
        monkeypatch.setattr(module, "class_names", [str(index) for index in range(classes)])
        monkeypatch.setattr(module, "num_classes", classes)


@pytest.mark.parametrize(
    "size", [pytest.param("narrow", id="narrow"), pytest.param("full", marks=pytest.mark.slow, id="full")]
)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in PHASED])
def test_two_steps(name: str, size: str, compose_train: Compose, tmp_path: Path) -> None:
    """With the network of the recipe among the slow tests, else with a narrower one of the same kind."""
    small = ["epochs=1", "data.batch_size=4", "data.num_workers=0"]
    if size == "narrow":
        small += next(settings for part, settings in NARROW.items() if part in name)
    summary = run(compose_train(f"experiment={name}", *SHORT, *small))
    assert (summary.epochs, summary.train_images) == (1, 12)
    assert np.isfinite(list(summary.test.values())).all()
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    # What comes after the result fails with a warning alone.
    assert {path.name for path in (tmp_path / "run").glob("*.*")} >= {"images.png", "report.html", "summary.json"}


# Of the baselines, which differ in nothing but the callback, one is enough for every day.
EVERY_DAY = ("imagenet_resnet50_puzzlemix_3phase", "imagenet_resnet50_vanilla_3phase")


@pytest.mark.parametrize(
    "name", [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in PHASED]
)
def test_all_three_phases_in_one_run(name: str, compose_train: Compose, tmp_path: Path) -> None:
    """One epoch of each phase; the rate logged at its start is that of the phase."""
    phases = [f"data.phases.{phase}.batch_size=4" for phase in ("first", "second", "third")]
    phases += [f"data.phases.{phase}.until={epoch}" for phase, epoch in (("first", 1), ("second", 2), ("third", 3))]
    sizes = [f"data.phases.{phase}.image_size={side}" for phase, side in (("first", 32), ("second", 64), ("third", 64))]
    points = "scheduler.points=[[0,0.5],[1,0.125],[1,0.2],[2,0.02],[3,0.002]]"
    summary = run(
        compose_train(
            f"experiment={name}",
            *SHORT,
            *phases,
            points,
            "epochs=3",
            *(["clean_stop_epoch=2"] if "puzzlemix" in name else []),
            "data.num_workers=0",
            *sizes,
        )
    )
    assert summary.epochs == 3
    with (tmp_path / "run" / "logs" / "metrics.csv").open() as file:
        rates = [float(line["lr"]) for line in csv.DictReader(file) if line["lr"]]
    # The step that ends half-way through an epoch has half of its way behind it.
    assert rates == pytest.approx([(0.5 + 0.125) / 2, (0.2 + 0.02) / 2, (0.02 + 0.002) / 2])
