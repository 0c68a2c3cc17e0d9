"""Several mixing callbacks, of which one is drawn for each batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from callback_cases import Recorder, data, trainer
from torch import Tensor
from torch.utils.data import DataLoader

import lightning_puzzlemix as pm

CONFIG = pm.PuzzleMixConfig(grid_sizes=(2, 4))
MAKERS: dict[str, Any] = {
    "puzzlemix": lambda **options: pm.PuzzleMixCallback(CONFIG, **options),
    "clean": lambda **options: pm.PuzzleMixCallback(CONFIG, clean_weight=0.5, **options),
    "mixup": pm.MixUpCallback,
    "cutmix": pm.CutMixCallback,
    "manifoldmix": lambda **options: pm.ManifoldMixCallback(layers=["input", "net.0"], **options),
}


class Module(Recorder):
    """Learns at a given rate; with 0 the saliency of a batch never changes."""

    def __init__(self, rate: float = 0.1) -> None:
        torch.manual_seed(4)
        super().__init__()
        self.rate = rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate)


def fit(callback: pl.Callback, *, rate: float = 0.1, epochs: int = 2, **options: Any) -> Module:
    module = Module(rate)
    trainer(callback, max_epochs=epochs, **options).fit(module, DataLoader(data(24), batch_size=4))
    return module


def names(mixing: pm.RandomMixCallback, batches: int, epoch: int = 0) -> list[str]:
    return [mixing.choose(epoch=epoch, batch_idx=index).name for index in range(batches)]


@pytest.mark.parametrize("name", MAKERS)
def test_a_single_callback_works_as_without(name: str, tmp_path: Path) -> None:
    """Batches, weights, metrics and images."""
    loggers = [pl.loggers.CSVLogger(tmp_path, name=kind) for kind in ("alone", "wrapped")]
    options = {"log_every_n_steps": 1, "enable_checkpointing": False}
    alone = fit(MAKERS[name](seed=1), logger=loggers[0], **options)
    wrapped = fit(pm.RandomMixCallback([MAKERS[name](seed=1)]), logger=loggers[1], **options)
    for (images, targets), (others, their_targets) in zip(alone.seen, wrapped.seen, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, their_targets)
    for key, value in alone.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[key]), key
    heads, images = zip(
        *(
            (
                Path(logger.log_dir, "metrics.csv").read_text().splitlines()[0],
                sorted(each.name for each in Path(logger.log_dir).rglob("*.png")),
            )
            for logger in loggers
        ),
        strict=True,
    )
    assert heads[0] == heads[1]
    assert images[0] == images[1] != []


def test_each_batch_is_mixed_by_the_one_that_was_drawn() -> None:
    seen = {name: fit(MAKERS[name](seed=1), rate=0).seen for name in ("puzzlemix", "cutmix")}
    mixing = pm.RandomMixCallback([MAKERS["puzzlemix"](), MAKERS["cutmix"]()], seed=1)
    found = fit(mixing, rate=0).seen
    chosen = [*names(mixing, 6), *names(mixing, 6, epoch=1)]
    assert set(chosen) == {"puzzlemix", "cutmix"}
    for index, name in enumerate(chosen):
        assert torch.equal(found[index][0], seen[name][index][0])
        assert torch.equal(found[index][1], seen[name][index][1])
    assert mixing.chosen is not None
    assert mixing.last is mixing.chosen.last
    assert mixing.chosen.name == chosen[-1]


def test_ranks_draw_one_method_and_each_its_own_mix() -> None:
    mixing = pm.RandomMixCallback([MAKERS["puzzlemix"](), MAKERS["cutmix"]()], seed=1)
    images, kinds = torch.rand(16, 3, 8, 8), set()
    for index in range(12):
        first, second = (mixing.draw(images, rank=rank, epoch=2, batch_idx=index) for rank in (0, 1))
        assert type(first) is type(second)
        assert first.lam != second.lam
        assert not torch.equal(first.permutation, second.permutation)
        kinds.add(type(first))
    assert kinds == {pm.MixDraw, pm.BaselineDraw}


def test_weights() -> None:
    mixing = pm.RandomMixCallback(
        [MAKERS["mixup"](), MAKERS["cutmix"](), MAKERS["puzzlemix"]()], weights=[3, 1, 0], seed=0
    )
    counts = Counter(names(mixing, 4000))
    assert set(counts) == {"mixup", "cutmix"}
    # Five standard deviations of a binomial.
    assert counts["mixup"] / 4000 == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / 4000) ** 0.5)


def test_a_resumed_run_draws_what_the_uninterrupted_one_would_have(tmp_path: Path) -> None:
    def make() -> pm.RandomMixCallback:
        return pm.RandomMixCallback([MAKERS["puzzlemix"](), MAKERS["cutmix"](), MAKERS["mixup"]()])

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "one.ckpt")

    module, whole = Module(), make()
    trainer(whole, Stop(), max_epochs=3).fit(module, DataLoader(data(24), batch_size=4))
    resumed, other = make(), Module()
    trainer(resumed, max_epochs=3).fit(other, DataLoader(data(24), batch_size=4), ckpt_path=tmp_path / "one.ckpt")
    assert whole.seed is None
    assert len(other.seen) == 12
    for (images, targets), (others, their_targets) in zip(module.seen[6:], other.seen, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, their_targets)
    with pytest.raises(ValueError, match="RandomMixCallback with 3 callbacks, and this one has 1"):
        pm.RandomMixCallback([MAKERS["mixup"]()]).load_state_dict(whole.state_dict())


def test_prob_and_epochs_are_its_own() -> None:
    mixing = pm.RandomMixCallback(
        [MAKERS["cutmix"](), MAKERS["mixup"]()], prob=0.5, start_epoch=1, stop_epoch=3, seed=3
    )
    module = fit(mixing, epochs=4)
    plain = [images for images, _ in DataLoader(data(24), batch_size=4)]
    mixed = [not torch.equal(images, plain[index % 6]) for index, (images, _) in enumerate(module.seen)]
    assert not any(mixed[:6] + mixed[18:])
    assert set(mixed[6:18]) == {True, False}
    assert all(targets.shape == (4, 5) for _, targets in module.seen)


def test_values_on_the_pixels_follow_the_batch() -> None:
    mixing = pm.RandomMixCallback([MAKERS["cutmix"](), MAKERS["puzzlemix"]()], prob=0.5, seed=2)

    class Both(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            original = self.original
            assert torch.equal(mixing.apply_mix(original), batch[0])
            self.seen.append((original, batch[0]))
            return F.cross_entropy(self(batch[0]), batch[1])

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.original = batch[0]

    module = Both(0.0)
    trainer(mixing).fit(module, DataLoader(data(24), batch_size=4))
    assert {torch.equal(*pair) for pair in module.seen} == {True, False}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pm.RandomMixCallback([]), TypeError, r"at least one mixing callback, got \[\]"),
        (lambda: pm.RandomMixCallback([pl.Callback()]), TypeError, "mixing callback, got"),
        (lambda: pm.RandomMixCallback([pm.MixUpCallback(prob=0.5)]), ValueError, r"MixUpCallback\(prob=0.5\).*weights"),
        (
            lambda: pm.RandomMixCallback([pm.MixUpCallback(stop_epoch=5)]),
            ValueError,
            "pass stop_epoch to RandomMixCallback",
        ),
        (
            lambda: pm.RandomMixCallback([pm.MixUpCallback(), pm.CutMixCallback(targets="pair")]),
            ValueError,
            "targets of one form",
        ),
        (
            lambda: pm.RandomMixCallback([pm.RandomMixCallback([pm.MixUpCallback()])]),
            ValueError,
            "no RandomMixCallback",
        ),
        (lambda: pm.RandomMixCallback([pm.MixUpCallback()] * 2, weights=[1]), ValueError, "each callback once"),
        (
            lambda: pm.RandomMixCallback([pm.MixUpCallback()], weights=[0]),
            ValueError,
            r"weights must be 1 numbers.*\[0\]",
        ),
        (lambda: pm.RandomMixCallback([pm.MixUpCallback()], weights=[1, 2]), ValueError, "weights must be 1 numbers"),
    ],
)
def test_refuses_what_does_not_go_together(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_refuses_another_mixing_callback_beside_it() -> None:
    with pytest.raises(ValueError, match="RandomMixCallback and CutMixCallback would both mix"):
        trainer(pm.RandomMixCallback([pm.MixUpCallback()]), pm.CutMixCallback()).fit(Module(), DataLoader(data(4)))
