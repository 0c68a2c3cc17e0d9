"""The callback in a Trainer: containers, what training_step and hooks get, errors, nothing left behind."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from callback_cases import CONTAINERS, Cached, Recorder, callback, data, fields, loader, trainer
from torch import Tensor, nn

import lightning_puzzlemix as pm


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


def test_validation_batches_are_not_changed() -> None:
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


def test_keeps_a_step_set_on_the_instance() -> None:
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
    with pytest.raises(ValueError, match=r"clean_weight=0.5 needs automatic optimization"):
        trainer(callback(clean_weight=0.5)).fit(Manual(), loader())
    with pytest.raises(ValueError, match=r"clean_weight=0.5 cannot be used with an optimizer.*LBFGS"):
        trainer(callback(clean_weight=0.5)).fit(Quasi(), loader())
    with pytest.raises(ValueError, match=r"grid_sizes must be at most the shorter image side 8.*\(2, 4, 8\)"):
        trainer(pm.PuzzleMixCallback()).fit(Recorder(), loader())
    with pytest.raises(ValueError, match=r"prob must be .*1.5"):
        pm.PuzzleMixCallback(prob=1.5)
    with pytest.raises(ValueError, match=r"saliency must be one of .*'peak'"):
        pm.PuzzleMixCallback(saliency="peak")
    with pytest.raises(ValueError, match="seed must be a non-negative integer or None, got -1"):
        pm.PuzzleMixCallback(seed=-1)
