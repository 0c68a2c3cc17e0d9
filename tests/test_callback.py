"""The callback in a Trainer: every container, what training_step and the others see, draws, logs, refusals."""

import copy
import pickle
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_puzzlemix as pm

Pair = namedtuple("Pair", "x y")


@dataclass
class Sample:
    image: Tensor
    label: Tensor
    name: str = "kept"


CONTAINERS = {
    "list": lambda x, y: [x, y],
    "tuple": lambda x, y: (x, y),
    "longer tuple": lambda x, y: (x, y, ["kept"] * len(y)),
    "namedtuple": Pair,
    "dict": lambda x, y: {"image": x, "label": y, "name": "kept"},
    "dataclass": Sample,
}


def fields(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, dict):
        return batch["image"], batch["label"]
    return (batch.image, batch.label) if hasattr(batch, "image") else (batch[0], batch[1])


class Recorder(pl.LightningModule):
    """A small classifier that remembers what its steps and hooks were given."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, classes)
        )
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.ends: list[Any] = []
        self.validated: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets = fields(batch)
        self.seen.append((images, targets))
        self.last_batch = batch
        return F.cross_entropy(self(images), targets)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(fields(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def data(count: int = 12) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 5)


def loader(make: Any = CONTAINERS["list"], count: int = 12, batch_size: int = 4) -> DataLoader:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> Any:
        return make(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))

    return DataLoader(data(count), batch_size=batch_size, collate_fn=collate)


def callback(**arguments: Any) -> pm.PuzzleMixCallback:
    arguments.setdefault("config", pm.PuzzleMixConfig(grid_sizes=(2, 4)))
    return pm.PuzzleMixCallback(**{"seed": 1, **arguments})


class Cached:
    """A loader that yields the same objects again in every epoch."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def trainer(*callbacks: pl.Callback, **arguments: Any) -> pl.Trainer:
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        accelerator="cpu", callbacks=list(callbacks), enable_model_summary=False, **{**settings, **arguments}
    )


@pytest.mark.parametrize("container", CONTAINERS)
def test_training_step_gets_the_mixed_batch_in_its_own_container(container: str) -> None:
    make, module, mixing = CONTAINERS[container], Recorder(), callback()
    trainer(mixing).fit(module, loader(make))
    originals, classes = data().tensors
    assert len(module.seen) == 3
    assert not torch.equal(torch.cat([images for images, _ in module.seen]), originals)
    for _, targets in module.seen:
        assert targets.shape == (4, 5)
        assert torch.allclose(targets.sum(1), torch.ones(4))
        # Nothing but the two classes of its pair may show in a soft target, and the first by exactly its ratio.
        assert bool(((targets > 0).sum(1) <= 2).all())
    partner = mixing.last.draw.permutation
    for row in range(4):
        expected = torch.zeros(5)
        expected[classes[8 + row]] += mixing.last.ratio[row]
        expected[classes[8 + partner[row]]] += 1 - mixing.last.ratio[row]
        assert torch.allclose(mixing.last.targets[row], expected)
    assert torch.equal(module.seen[-1][0], mixing.last.images)
    assert torch.equal(module.seen[-1][1], mixing.last.targets)
    assert torch.equal(mixing.last.originals, originals[8:])
    assert type(module.last_batch) is type(make(originals, classes))
    if isinstance(module.last_batch, dict):
        assert module.last_batch["name"] == "kept"
    for index, batch in enumerate(module.ends):
        assert torch.equal(fields(batch)[0], originals[4 * index : 4 * index + 4])


def test_step_without_batch_idx_and_cached_batches() -> None:
    class WithoutIndex(Recorder):
        def training_step(self, batch: Any) -> Tensor:
            return super().training_step(batch, 0)

    images, classes = data().tensors
    cached = [[images[:4], classes[:4]], (images[4:8], classes[4:8])]
    before = [(x.clone(), y.clone()) for x, y in cached]
    module = WithoutIndex()
    trainer(callback(), max_epochs=2).fit(module, Cached(*cached))
    assert len(module.seen) == 4
    assert all(targets.ndim == 2 for _, targets in module.seen)
    for (x, y), (kept_x, kept_y) in zip(cached, before, strict=True):
        assert torch.equal(x, kept_x)
        assert torch.equal(y, kept_y)


def test_validation_is_left_alone() -> None:
    module = Recorder()
    trainer(callback()).fit(module, loader(), loader())
    originals, classes = data().tensors
    assert torch.equal(torch.cat([images for images, _ in module.validated[-3:]]), originals)
    assert torch.equal(torch.cat([targets for _, targets in module.validated[-3:]]), classes)


def test_reproduces_the_recorded_training_step(step: dict[str, np.ndarray], tiny_net: nn.Module) -> None:
    """One SGD step with learning rate 1 moves the weights by the gradients that the authors' code computed."""
    arrays = step
    tiny_net.load_state_dict({key[4:]: torch.tensor(step[key]) for key in step if key.startswith("net.")})
    for name, weight in (("plain_ce", 0.0), ("clean1_ce", 1.0)):

        class Fixed(pm.PuzzleMixCallback):
            def draw(self, *args: Any, **kwargs: Any) -> pm.MixDraw:
                return pm.MixDraw(torch.tensor(arrays["indices"]), float(arrays["lam"]), int(arrays["num_blocks"]))

        class Step(Recorder):
            def __init__(self) -> None:
                super().__init__()
                self.net = copy.deepcopy(tiny_net)

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), 1.0)

        config = pm.PuzzleMixConfig(mean=arrays["mean"], std=arrays["std"], transport_size=4, solver="gco")
        module, batch = Step(), [torch.tensor(arrays["images"]), torch.tensor(arrays["targets"])]
        before = {key: parameter.detach().clone() for key, parameter in module.net.named_parameters()}
        trainer(Fixed(config, clean_weight=weight)).fit(module, Cached(batch))
        for key, parameter in module.net.named_parameters():
            np.testing.assert_allclose(
                (before[key] - parameter.detach()).numpy(), arrays[f"{name}.grad.{key}"], atol=1e-5
            )


def test_leaves_nothing_behind() -> None:
    class Failing(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 1:
                raise RuntimeError("the step fails")
            return super().training_step(batch, batch_idx)

    class FailingHook(Recorder):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("the hook fails")

    class Skipping(Recorder):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
            return -1

    for module, fails in ((Recorder(), False), (Failing(), True), (FailingHook(), True), (Skipping(), False)):
        mixing = callback()
        if fails:
            with pytest.raises(RuntimeError, match="fails"):
                trainer(mixing).fit(module, loader())
        else:
            trainer(mixing).fit(module, loader())
        assert "training_step" not in module.__dict__
        pickle.loads(pickle.dumps(mixing))
        copy.deepcopy(mixing)
        module.trainer = None
        copy.deepcopy(module)


def test_keeps_a_step_that_was_put_on_the_instance() -> None:
    module = Recorder()
    calls = []
    own = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Tensor:
        calls.append(fields(batch)[1])
        return own(batch, batch_idx)

    module.training_step = training_step
    trainer(callback()).fit(module, loader())
    assert module.__dict__["training_step"] is training_step
    assert [targets.ndim for targets in calls] == [2, 2, 2]


def test_lbfgs_sees_the_mixed_batch_at_every_evaluation() -> None:
    class Quasi(Recorder):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.parameters(), max_iter=3)

    module = Quasi()
    trainer(callback()).fit(module, loader(count=4))
    assert len(module.seen) > 1
    assert all(torch.equal(images, module.seen[0][0]) for images, _ in module.seen)
    assert all(targets.ndim == 2 for _, targets in module.seen)


def fit_and_record(**arguments: Any) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    module = Recorder()
    trainer(callback(**arguments), max_epochs=2).fit(module, loader())
    return module.seen


def test_draws_depend_on_seed_epoch_and_batch_alone() -> None:
    first, again, other = fit_and_record(seed=5), fit_and_record(seed=5), fit_and_record(seed=6)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))
    mixing, images = callback(), torch.zeros(64, 3, 8, 8)
    one = mixing.draw(images, rank=0, epoch=0, batch_idx=0)
    assert torch.equal(one.permutation, mixing.draw(images, rank=0, epoch=0, batch_idx=0).permutation)
    for key in ({"rank": 1}, {"epoch": 1}, {"batch_idx": 1}):
        assert not torch.equal(one.permutation, mixing.draw(images, **key).permutation)


def test_prob_decides_how_many_batches_are_mixed() -> None:
    assert all(targets.ndim == 1 for _, targets in fit_and_record(prob=0.0))
    module = Recorder()
    trainer(callback(prob=0.5)).fit(module, loader(count=200, batch_size=2))
    share = np.mean([targets.ndim == 2 for _, targets in module.seen])
    assert 0.3 < share < 0.7


def test_clean_regularisation_skips_batches_that_are_not_mixed() -> None:
    torch.manual_seed(0)
    module, reference = Recorder(), Recorder()
    reference.load_state_dict(module.state_dict())
    trainer(callback(prob=0.0, clean_weight=5.0)).fit(module, loader())
    trainer().fit(reference, loader())
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_seed_comes_from_the_argument_the_global_seed_or_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert callback(seed=4).state_dict()["seed"] == 4
    assert callback(seed=None).state_dict()["seed"] == 17
    monkeypatch.delenv("PL_GLOBAL_SEED")
    drawn = callback(seed=None)
    resumed = callback(seed=None)
    assert drawn.state_dict() != resumed.state_dict()
    resumed.load_state_dict(drawn.state_dict())
    assert resumed.state_dict() == drawn.state_dict()
    explicit = callback(seed=4)
    explicit.load_state_dict(drawn.state_dict())
    assert explicit.state_dict()["seed"] == 4


def test_takes_the_normalisation_from_the_datamodule() -> None:
    class Data(pl.LightningDataModule):
        mean, std = torch.tensor([0.1, 0.2, 0.3]), (0.5, 0.6, 0.7)

        def train_dataloader(self) -> DataLoader:
            return loader()

    mixing = callback()
    trainer(mixing).fit(Recorder(), datamodule=Data())
    assert mixing.config.mean == pytest.approx((0.1, 0.2, 0.3))
    assert mixing.config.std == (0.5, 0.6, 0.7)
    own = callback(config=pm.PuzzleMixConfig(mean=(0, 0, 0), std=(1, 1, 1), grid_sizes=(2,)))
    trainer(own).fit(Recorder(), datamodule=Data())
    assert own.config.std == (1, 1, 1)


def test_logs_ratio_and_seconds(tmp_path: Any) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    mixing = callback()
    run = trainer(mixing, logger=logger, log_every_n_steps=1)
    run.fit(Recorder(), loader())
    assert float(run.callback_metrics["puzzlemix/ratio"]) == pytest.approx(float(mixing.last.ratio.mean()))
    header, *rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    assert {"puzzlemix/ratio", "puzzlemix/saliency_seconds", "puzzlemix/mixing_seconds"} <= set(header.split(","))
    assert len(rows) == 3
    assert mixing.seconds["saliency"] > 0
    assert mixing.seconds["mixing"] > 0


def test_refuses_what_cannot_work() -> None:
    class Fetching(Recorder):
        def training_step(self, dataloader_iter: Any) -> None:
            next(dataloader_iter)

    class Manual(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    class Quasi(Recorder):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(ValueError, match=r"dataloader_iter.*use training_step\(self, batch, batch_idx\)"):
        trainer(callback()).fit(Fetching(), loader())
    with pytest.raises(ValueError, match=r"clean_weight=0.5 needs automatic optimisation"):
        trainer(callback(clean_weight=0.5)).fit(Manual(), loader())
    with pytest.raises(ValueError, match=r"clean_weight=0.5 cannot be used with LBFGS"):
        trainer(callback(clean_weight=0.5)).fit(Quasi(), loader())
    with pytest.raises(ValueError, match=r"grid_sizes must be at most the shorter image side 8.*\(2, 4, 8\)"):
        trainer(pm.PuzzleMixCallback()).fit(Recorder(), loader())
    with pytest.raises(ValueError, match=r"prob must be .*1.5"):
        pm.PuzzleMixCallback(prob=1.5)
    with pytest.raises(ValueError, match=r"saliency must be one of .*'peak'"):
        pm.PuzzleMixCallback(saliency="peak")
    with pytest.raises(ValueError, match="seed must be a non-negative integer or None, got -1"):
        pm.PuzzleMixCallback(seed=-1)
