"""Only training_step gets the mixed batch: at every call, with every strategy, beside other callbacks."""

import copy
import pickle
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from callback_cases import Cached, Recorder, callback, data, loader, trainer
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lightning_puzzlemix as pm

MIXINGS = {
    "puzzlemix": lambda **options: callback(**options),
    "mixup": lambda **options: pm.MixUpCallback(seed=1, **options),
    "cutmix": lambda **options: pm.CutMixCallback(seed=1, **options),
    "manifoldmix": lambda **options: pm.ManifoldMixCallback(layers=["net.0"], seed=1, **options),
}


class SAM(torch.optim.SGD):
    """Evaluates the closure, climbs, and evaluates it again before it steps from where it began."""

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        weights = [p for group in self.param_groups for p in group["params"]]
        saved = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                weight += 0.05 * weight.grad
        closure()
        with torch.no_grad():
            for weight, value in zip(weights, saved, strict=True):
                weight.copy_(value)
        super().step()
        return loss


class SharpnessAware(Recorder):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return SAM(self.parameters(), 0.01)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_every_evaluation_of_a_closure_gets_the_mixed_batch(mixing: str) -> None:
    module = SharpnessAware()
    trainer(MIXINGS[mixing]()).fit(module, loader())
    assert len(module.seen) == 6
    for (images, targets), (again, targets_again) in zip(module.seen[::2], module.seen[1::2], strict=True):
        assert torch.equal(images, again)
        assert torch.equal(targets, targets_again)
        assert targets.shape == (4, 5)


def test_clean_regularization_is_refused_if_a_batch_is_differentiated_twice() -> None:
    with pytest.raises(ValueError, match=r"clean_weight=0.5 cannot be used with an optimizer that differentiates"):
        trainer(callback(clean_weight=0.5)).fit(SharpnessAware(), loader())


class Halving(pl.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0] = batch[0] * 0.5


class Shifting(Recorder):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0] = batch[0] + 0.25


class ShiftingInPlace(Recorder):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0] += 0.25


@pytest.mark.parametrize("module_type", [Shifting, ShiftingInPlace])
def test_changes_in_hooks_are_mixed(module_type: type[Recorder]) -> None:
    mixing, module = callback(), module_type()
    trainer(mixing, Halving()).fit(module, loader())
    expected = data().tensors[0][8:] * 0.5 + 0.25
    assert torch.equal(mixing.last.originals, expected)
    assert torch.equal(module.seen[-1][0], mixing.last.images)
    assert "on_train_batch_start" not in module.__dict__


class Late(SingleDeviceStrategy):
    """Changes the batch where nobody hears of it any more."""

    def __init__(self, change: Any) -> None:
        super().__init__(torch.device("cpu"))
        self.change = change

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(self.change(batch), *args, **kwargs)


def halved_in_place(batch: Any) -> Any:
    batch[0].mul_(0.5)
    return batch


LATE_CHANGES = {
    "another tensor": lambda batch: [batch[0] * 0.5, batch[1]],
    "another shape": lambda batch: [batch[0][:2], batch[1][:2]],
    "written to": halved_in_place,
    "fewer entries": lambda batch: batch[:1],
    "no container": lambda batch: batch[0],
    "no tensor": lambda batch: ["images", batch[1]],
}


@pytest.mark.parametrize("change", LATE_CHANGES)
@pytest.mark.parametrize("mixing", ["puzzlemix", "mixup"])
def test_changes_after_the_mixing_are_refused(change: str, mixing: str) -> None:
    owner = MIXINGS[mixing]()
    with pytest.raises(RuntimeError, match=rf"^{type(owner).__name__}: entry '[01]' of the batch was changed"):
        trainer(owner, strategy=Late(LATE_CHANGES[change])).fit(Recorder(), loader())


def test_entries_cast_by_the_strategy_are_replaced_by_cast_entries() -> None:
    class Noting(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch[0].dtype == torch.bfloat16
            assert batch[2].dtype == torch.bfloat16
            return super().training_step((batch[0].float(), batch[1]), batch_idx)

    images, classes = data().tensors
    mixing, module = callback(target_key=1), Noting()
    cast = Late(lambda batch: tuple(each.bfloat16() if each.is_floating_point() else each for each in batch))
    trainer(mixing, strategy=cast).fit(module, Cached((images, classes, torch.rand(12))))
    assert torch.equal(module.seen[0][0], mixing.last.images.bfloat16().float())
    assert module.seen[0][1].dtype == torch.float32


def test_a_step_may_call_itself_with_another_batch() -> None:
    class Twofold(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if len(batch[0]) == 4:
                loss = loss + self.training_step([batch[0][:2], batch[1][:2]], batch_idx)
            return loss

    module = Twofold()
    trainer(callback()).fit(module, loader())
    assert [len(images) for images, _ in module.seen] == [4, 2] * 3
    assert all(targets.ndim == 2 for _, targets in module.seen)


def test_a_module_copied_during_a_batch_has_its_own_step() -> None:
    copies: list[Any] = []

    class Copying(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            assert "training_step" in pl_module.__dict__
            pl_module.trainer = None
            copies.extend([copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))])
            pl_module.trainer = trainer

    module = Recorder()
    trainer(callback(), Copying()).fit(module, loader(count=4))
    images, classes = data().tensors
    for each in copies:
        assert each.training_step.__self__ is each
        each.training_step((images, classes), 0)
        assert each.seen[-1][1] is classes


@pytest.mark.parametrize("mixing", MIXINGS)
def test_skipped_batches_and_stopped_epochs_leave_nothing_behind(mixing: str) -> None:
    seen_after: list[bool] = []

    class Skipping(Recorder):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 1 else None

    class After(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen_after.append(any(name in pl_module.__dict__ for name in ("training_step", "on_train_batch_start")))

    module = Skipping()
    trainer(MIXINGS[mixing](), After(), max_epochs=2).fit(module, loader())
    assert [targets.ndim for _, targets in module.seen] == [2, 2]
    assert seen_after == [False, False]
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


def test_two_callbacks_that_would_mix_the_same_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MixUpCallback and CutMixCallback would both mix .*epoch 3.*start_epoch"):
        trainer(pm.MixUpCallback(stop_epoch=4), pm.CutMixCallback(start_epoch=3)).fit(Recorder(), loader())
    with pytest.raises(
        ValueError, match=r"one form, got MixUpCallback\(targets='soft'\), CutMixCallback\(targets='pair'\)"
    ):
        trainer(pm.MixUpCallback(stop_epoch=4), pm.CutMixCallback(start_epoch=4, targets="pair")).fit(
            Recorder(), loader()
        )


def test_two_callbacks_alternate_by_epochs_and_keep_their_seeds(tmp_path: Any) -> None:
    first, second = callback(stop_epoch=1, seed=None), callback(start_epoch=1, seed=None)
    module = Recorder()
    run = trainer(first, second, max_epochs=2, enable_checkpointing=True, default_root_dir=tmp_path)
    run.fit(module, loader())
    assert torch.equal(module.seen[2][0], first.last.images)
    assert torch.equal(module.seen[5][0], second.last.images)
    run.save_checkpoint(tmp_path / "both.ckpt")
    again = callback(stop_epoch=1, seed=None), callback(start_epoch=1, seed=None)
    trainer(*again, max_epochs=3).fit(Recorder(), loader(), ckpt_path=tmp_path / "both.ckpt")
    assert [each.state_dict() for each in again] == [first.state_dict(), second.state_dict()]
    assert first.state_dict() != second.state_dict()


class Layered(Recorder):
    """Looks at itself in evaluation mode in the middle of a step."""

    def __init__(self, frozen: bool = False, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.frozen = frozen
        self.looks: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        self.net[0].train(not self.frozen)

    def forward(self, images: Tensor) -> Tensor:
        if self.checkpointed:
            return checkpoint(self.net, images, use_reentrant=False)
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        modes = [(each, each.training) for each in self.modules()]
        self.eval()
        with torch.no_grad():
            self.looks.append(self(batch[0][:2]))
            self.expected = F.linear(self.net[:4](batch[0][:2]), self.net[4].weight, self.net[4].bias)
        for each, mode in modes:
            each.training = mode
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_pass_in_evaluation_mode_is_not_mixed(frozen: bool) -> None:
    module, mixing = Layered(frozen), MIXINGS["manifoldmix"]()
    trainer(mixing).fit(module, loader(count=4))
    torch.testing.assert_close(module.looks[0], module.expected)
    assert module.seen[0][1].shape == (4, 5)


def test_a_checkpoint_recomputes_what_was_mixed() -> None:
    """Gradients with recomputation are those without."""
    modules = [Layered(checkpointed=each) for each in (False, True)]
    modules[1].load_state_dict(modules[0].state_dict())
    for module in modules:
        trainer(MIXINGS["manifoldmix"]()).fit(module, loader(count=4))
    for plain, recomputed in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(plain, recomputed)


class Twice(Recorder):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.act = nn.Identity()
        self.times = times

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.times):
            images = self.act(images)
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1]) + F.cross_entropy(self(batch[0]), batch[1])


def test_a_layer_may_run_in_two_forward_passes_but_not_twice_in_one() -> None:
    mixing = pm.ManifoldMixCallback(layers=["act"], seed=1)
    trainer(mixing).fit(Twice(times=1), loader())
    with pytest.raises(ValueError, match=r"layers: 'act' runs more than once in a forward pass.*runs once"):
        trainer(pm.ManifoldMixCallback(layers=["act"], seed=1)).fit(Twice(times=2), loader())


class Teaching(Recorder):
    """Makes its teacher in the first step: a copy that goes on in training mode."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not hasattr(self, "teachers"):
            copies = [copy.deepcopy(self.net), pickle.loads(pickle.dumps(self.net))]
            self.__dict__["teachers"], self.__dict__["agree"] = copies, []
        for teacher in self.teachers:
            teacher.load_state_dict(self.net.state_dict())
            self.agree.append(torch.equal(teacher(batch[0]), nn.Sequential(*self.net)(batch[0])))
        return super().training_step(batch, batch_idx)


def test_a_copy_of_the_model_made_in_a_step_is_not_mixed() -> None:
    module = Teaching()
    trainer(pm.ManifoldMixCallback(layers=["net"], seed=1)).fit(module, loader())
    assert module.agree == [True] * 6


def test_a_pass_of_other_samples_is_refused() -> None:
    class Parts(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0][:2]).sum()

    with pytest.raises(ValueError, match=r"batch of 4 first, got \(2, 5\).*parts of the batch.*layers=\['input'\]"):
        trainer(pm.ManifoldMixCallback(layers=["net"], seed=1)).fit(Parts(), loader())


class SemiSupervised(Recorder):
    """Looks at unlabeled images of the same batch, too."""

    def __init__(self, look: bool) -> None:
        super().__init__()
        self.look = look

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.train(not self.look)
        consistency = self(batch["unlabeled"]).mean()
        self.train()
        return super().training_step(batch["labeled"], batch_idx) + consistency


def test_a_layer_is_not_mixed_in_passes_of_other_images() -> None:
    images, classes = data().tensors
    batch = {"labeled": [images, classes], "unlabeled": images.flip(0)}
    mixing = {"layers": ["net"], "seed": 1}
    trainer(pm.ManifoldMixCallback(**mixing)).fit(SemiSupervised(look=True), Cached(batch))
    with pytest.raises(ValueError, match=r"second forward pass.*\['unlabeled'\].*evaluation mode.*layers=\['input'\]"):
        trainer(pm.ManifoldMixCallback(**mixing)).fit(SemiSupervised(look=False), Cached(batch))
    trainer(pm.ManifoldMixCallback(layers=["input"], seed=1)).fit(SemiSupervised(look=False), Cached(batch))
