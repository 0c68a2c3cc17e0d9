"""MixUp, CutMix and manifold mixup against torchvision and by hand, and in a Trainer."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_puzzlemix as pm

IMAGES = torch.rand(6, 3, 10, 14, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(6) % 4
ROLLED = torch.arange(6).roll(1)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.layer2 = nn.Conv2d(4, 5, 3)
        self.head = nn.Linear(5, 4)
        self.unused = nn.Linear(2, 2)
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.outputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.layer2(self.layer1(images))).mean((2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append((batch[0], batch[1]))
        logits = self(batch[0])
        self.outputs.append(logits.detach())
        return F.cross_entropy(logits, batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(callback: pl.Callback, **arguments: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **{"max_epochs": 1, **arguments},
    )  # fmt: skip


def loader(count: int = 6, batch_size: int = 6) -> DataLoader:
    images = torch.rand(count, 3, 10, 14, generator=torch.Generator().manual_seed(4))
    return DataLoader(TensorDataset(images, torch.arange(count) % 4), batch_size=batch_size)


def apply(transform: Any, inputs: Tensor, params: dict[str, Any]) -> Tensor:
    """Call a transform of torchvision with parameters, which has a public name since 0.21."""
    return getattr(transform, "transform" if hasattr(transform, "transform") else "_transform")(inputs, params)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_mixup_equals_torchvision(lam: float) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    mixed = pm.MixUp()(Module(), IMAGES, CLASSES, pm.MixDraw(ROLLED, lam, 1))
    theirs = v2.MixUp(num_classes=4)
    params = {"labels": CLASSES, "batch_size": 6, "lam": lam}
    torch.testing.assert_close(mixed.images, apply(theirs, IMAGES, params))
    torch.testing.assert_close(mixed.targets, apply(theirs, CLASSES, params).float())


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_equals_torchvision(seed: int) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    mixer = pm.CutMix()
    draw = mixer.draw(IMAGES, key=(seed,))
    draw = pm.BaselineDraw(ROLLED, draw.lam, boxes=draw.boxes)
    mixed = mixer(Module(), IMAGES, CLASSES, draw)
    top, bottom, left, right = (int(value) for value in draw.boxes[0])
    kept = 1 - (bottom - top) * (right - left) / 140
    params = {"labels": CLASSES, "batch_size": 6, "box": (left, top, right, bottom), "lam_adjusted": kept}
    theirs = v2.CutMix(num_classes=4)
    assert torch.equal(mixed.images, apply(theirs, IMAGES, params))
    torch.testing.assert_close(mixed.targets, apply(theirs, CLASSES, params).float())
    assert float(mixed.ratio[0]) == pytest.approx(kept)


def test_cutmix_boxes_have_the_published_size_and_places() -> None:
    mixer, images = pm.CutMix(per_sample=True), torch.zeros(4000, 1, 40, 60)
    draw = mixer.draw(images, key=(1,))
    top, bottom, left, right = draw.boxes.T
    side = np.sqrt(1 - draw.lam.numpy())
    inside = (top > 0) & (bottom < 40) & (left > 0) & (right < 60)
    assert inside.sum() > 500
    np.testing.assert_array_equal((bottom - top)[inside], 2 * (side * 40 / 2).astype(int)[inside])
    np.testing.assert_array_equal((right - left)[inside], 2 * (side * 60 / 2).astype(int)[inside])
    assert top.min() == 0
    assert bottom.max() == 40
    small = (bottom - top <= 10) & inside
    assert 17 < ((top + bottom) / 2)[small].mean() < 23


def test_per_sample_boxes_and_lam() -> None:
    mixer = pm.CutMix(per_sample=True)
    draw = mixer.draw(IMAGES, key=(3,))
    mixed = mixer(Module(), IMAGES, CLASSES, draw)
    assert draw.boxes.shape == (6, 4)
    for row in range(6):
        top, bottom, left, right = draw.boxes[row]
        expected = IMAGES[row].clone()
        expected[:, top:bottom, left:right] = IMAGES[draw.permutation[row]][:, top:bottom, left:right]
        assert torch.equal(mixed.images[row], expected)
        assert float(mixed.ratio[row]) == pytest.approx(1 - (bottom - top) * (right - left) / 140)
    blended = pm.MixUp(per_sample=True)
    draw = blended.draw(IMAGES, key=(3,))
    mixed = blended(Module(), IMAGES, CLASSES, draw)
    for row in range(6):
        lam = float(draw.lam[row])
        torch.testing.assert_close(mixed.images[row], lam * IMAGES[row] + (1 - lam) * IMAGES[draw.permutation[row]])


@pytest.mark.parametrize("make", [pm.MixUpCallback, pm.CutMixCallback])
def test_callbacks_mix_what_training_step_sees(make: Any) -> None:
    callback, module = make(seed=1), Module()
    run = trainer(callback, max_epochs=2)
    run.fit(module, loader(12))
    assert len(module.seen) == 4
    assert all(targets.shape == (6, 4) for _, targets in module.seen)
    assert torch.equal(module.seen[-1][0], callback.last.images)
    assert not torch.equal(callback.last.images, callback.last.originals)
    assert float(run.callback_metrics[f"{callback.name}/ratio"]) == pytest.approx(float(callback.last.ratio.mean()))
    assert callback.seconds["mixing"] > 0
    assert "training_step" not in module.__dict__
    pickle.loads(pickle.dumps(callback))


@pytest.mark.parametrize("layer", ["input", "layer1", "layer2"])
def test_manifold_mixup_against_a_manual_forward(layer: str) -> None:
    module, callback = Module(), pm.ManifoldMixCallback(layers=[layer], seed=2)
    before = copy.deepcopy(module)
    trainer(callback).fit(module, loader())
    images, lam, partner = loader().dataset.tensors[0], callback.last.draw.lam, callback.last.draw.permutation

    def mix(values: Tensor) -> Tensor:
        return lam * values + (1 - lam) * values[partner]

    values = mix(images) if layer == "input" else images
    values = before.layer1(values)
    values = mix(values) if layer == "layer1" else values
    values = before.layer2(values)
    values = mix(values) if layer == "layer2" else values
    torch.testing.assert_close(module.outputs[0], before.head(F.relu(values).mean((2, 3))).detach())
    assert module.seen[0][1].shape == (6, 4)
    assert not any(each._forward_hooks for each in module.modules())


def test_manifold_mixup_draws_every_layer_and_trains_through_it() -> None:
    module, callback = Module(), pm.ManifoldMixCallback(seed=0)
    drawn = {callback.draw(IMAGES, batch_idx=index).layer for index in range(40)}
    assert drawn == {"input", "layer1", "layer2"}
    trainer(callback, max_epochs=10).fit(module, loader())
    assert all(parameter.grad is not None for parameter in module.layer1.parameters())


def test_manifold_mixup_refuses_layers_that_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match=r"got \['net.layer9'\]: it has \['layer1'"):
        trainer(pm.ManifoldMixCallback(layers=["net.layer9"])).fit(Module(), loader())
    with pytest.raises(RuntimeError, match="'unused' did not run in training_step"):
        trainer(pm.ManifoldMixCallback(layers=["unused"])).fit(Module(), loader())
    with pytest.raises(ValueError, match="layers must name at least one"):
        pm.ManifoldMixCallback(layers=[])

    class Failing(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise RuntimeError("the step fails")

    module = Failing()
    with pytest.raises(RuntimeError, match="the step fails"):
        trainer(pm.ManifoldMixCallback(layers=["layer1"])).fit(module, loader())
    assert not any(each._forward_hooks for each in module.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"alpha": 0.0}, "alpha must be finite and > 0, got 0.0"), ({"alpha": float("nan")}, "alpha must be finite")],
)
@pytest.mark.parametrize("make", [pm.MixUpCallback, pm.CutMixCallback, pm.ManifoldMixCallback])
def test_baselines_refuse_bad_hyperparameters(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_inputs_stay_unchanged_and_draws_repeat() -> None:
    for mixer in (pm.MixUp(), pm.CutMix(), pm.CutMix(per_sample=True), pm.ManifoldMix(["input"])):
        images = IMAGES.clone()
        first = mixer(Module(), images, CLASSES, mixer.draw(images, key=(7, 1)))
        again = mixer(Module(), images, CLASSES, mixer.draw(images, key=(7, 1)))
        assert torch.equal(images, IMAGES)
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.targets, again.targets)
        torch.manual_seed(5)
        one = mixer.draw(images)
        torch.manual_seed(5)
        assert torch.equal(one.permutation, mixer.draw(images).permutation)


@pytest.mark.parametrize("mixer", [pm.CutMix(), pm.ManifoldMix(["layer1"])])
def test_draws_without_box_or_layer_are_refused(mixer: Any) -> None:
    with pytest.raises(ValueError, match=rf"draw must be a BaselineDraw for {type(mixer).__name__}, got a MixDraw"):
        mixer(Module(), IMAGES, CLASSES, pm.MixDraw(ROLLED, 0.5, 1))
