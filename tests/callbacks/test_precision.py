"""Every precision and memory format, compiled modules, inference tensors: masks are solved in float32, training is exact."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from distributed_cases import Batches, Classifier, config, make_batch, quiet, saliency_of
from platforms import needs_compile
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

import lightning_puzzlemix as pm


class Mixes(pl.Callback):
    """Keeps every mixed batch, and the default dtype in force after the mixing."""

    def __init__(self, mixing: pm.PuzzleMixCallback) -> None:
        self.mixing = mixing
        self.kept: list[pm.MixedBatch] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert torch.get_default_dtype() == torch.float32
        self.kept.append(self.mixing.last)


def fit(
    module: Any = None, batches: Any = None, mixing: pm.PuzzleMixCallback | None = None, **arguments: Any
) -> tuple[Any, list[pm.MixedBatch]]:
    mixing = mixing or pm.PuzzleMixCallback(config(), seed=1)
    mixes, module = Mixes(mixing), module or Classifier()
    quiet(mixing, mixes, **arguments).fit(module, batches or Batches(*(make_batch(0, 0, i, 32) for i in range(3))))
    return module, mixes.kept


PRECISIONS = {
    "32-true": (torch.float32, lambda: {"precision": "32-true"}),
    "64-true": (torch.float64, lambda: {"precision": "64-true"}),
    "bf16-mixed": (torch.float32, lambda: {"precision": "bf16-mixed"}),
    "bf16-true": (torch.bfloat16, lambda: {"precision": "bf16-true"}),
    "16-true": (torch.float16, lambda: {"precision": "16-true"}),
    # Named in the Trainer, "16-mixed" becomes "bf16-mixed" on the CPU; the plugin itself works there.
    "16-mixed": (
        torch.float32,
        lambda: {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]},
    ),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_energies_are_solved_in_float32(precision: str) -> None:
    """The masks are those of float32 copies of the very images and saliency."""
    dtype, arguments = PRECISIONS[precision]
    # Many labels and much smoothness: with energies in 16 bits several of these masks come out otherwise.
    fine = config(grid_sizes=(4,), num_labels=17, beta=4.0)
    module, mixes = fit(mixing=pm.PuzzleMixCallback(fine, seed=1), **arguments())
    assert len(mixes) == len(module.journal) == 3
    assert all(bool(value.isfinite().all()) for value in module.state_dict().values())
    for mixed, (images, targets, originals, classes) in zip(mixes, module.journal, strict=True):
        assert images.dtype == originals.dtype == dtype
        assert mixed.saliency.dtype == mixed.mask.dtype == torch.float32
        assert targets.shape == (32, 5)
        again = pm.puzzle_mix(
            originals.float(),
            mixed.saliency,
            permutation=mixed.draw.permutation,
            lam=mixed.draw.lam,
            blocks_per_side=mixed.draw.blocks_per_side,
            config=fine,
        )
        assert torch.equal(mixed.mask, again.mask)
        torch.testing.assert_close(images.float(), again.images, atol=2 * torch.finfo(dtype).eps, rtol=0)
        share = targets.float()[torch.arange(32), classes]
        assert bool((share >= mixed.ratio - torch.finfo(dtype).eps).all())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true", "16-mixed"])
def test_saliency_is_computed_in_the_trainers_precision(precision: str) -> None:
    """It is near the float32 one, but not the same: the forward pass runs as the training step does."""
    _, arguments = PRECISIONS[precision]
    _, mixes = fit(**arguments())
    images, targets = make_batch(0, 0, 0, 32)
    exact = saliency_of(Classifier().eval(), images, targets)
    found = mixes[0].saliency
    assert not torch.equal(found, exact)
    cosine = F.cosine_similarity(found.flatten(1), exact.flatten(1))
    assert float(cosine.min()) > 0.98
    assert float((found.sum() / exact.sum()).log().abs()) < 0.05


def test_channels_last() -> None:
    def batches(memory_format: torch.memory_format) -> Batches:
        made = (make_batch(0, 0, index) for index in range(3))
        return Batches(*((images.contiguous(memory_format=memory_format), targets) for images, targets in made))

    plain, mixes = fit(batches=batches(torch.contiguous_format))
    module = Classifier().to(memory_format=torch.channels_last)
    last, last_mixes = fit(module, batches(torch.channels_last))
    for (images, targets, *_), (expected, wanted, *_) in zip(last.journal, plain.journal, strict=True):
        assert images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images, expected)
        torch.testing.assert_close(targets, wanted)
    for found, mixed in zip(last_mixes, mixes, strict=True):
        torch.testing.assert_close(found.saliency, mixed.saliency, atol=1e-6, rtol=1e-4)
    assert module.net[0].weight.is_contiguous(memory_format=torch.channels_last)


class Quiet(Classifier):
    """Keeps nothing: a list that grows would itself make torch.compile start over."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        pass

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


class Compilations(pl.Callback):
    """A backend that counts, and how far it had come after each batch."""

    def __init__(self) -> None:
        self.graphs = 0
        self.after: list[int] = []

    def compile(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward

    def on_train_batch_end(self, *args: Any) -> None:
        self.after.append(self.graphs)


@needs_compile
@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
@pytest.mark.parametrize("prob", [1.0, 0.6])
def test_a_compiled_module_is_compiled_once_and_trains_equally(prob: float, clean_weight: float) -> None:
    torch._dynamo.reset()
    ran: list[dict[str, Tensor]] = []
    counter = Compilations()
    for module in (Quiet(), torch.compile(Quiet(), backend=counter.compile)):
        mixing = pm.PuzzleMixCallback(config(), prob=prob, clean_weight=clean_weight, seed=2)
        quiet(mixing, counter, max_epochs=2).fit(module, Batches(count=5))
        ran.append({name.removeprefix("_orig_mod."): value.detach() for name, value in module.state_dict().items()})
    for name, value in ran[0].items():
        torch.testing.assert_close(ran[1][name], value, atol=1e-6, rtol=1e-5)
    after = counter.after[10:]
    # Saliency and a step for mixed batches, and one for batches that are not; nothing more from the second epoch on.
    assert 2 <= after[4] <= 4
    assert after[5:] == [after[4]] * 5
    if prob == 1:
        assert after[1:] == [after[1]] * 9


@needs_compile
def test_a_compiled_module_keeps_its_compiled_step() -> None:
    """Lightning puts it on the instance, where the callback hangs its own for each batch."""
    torch._dynamo.reset()

    class Remembers(pl.Callback):
        def setup(self, trainer: Any, module: Any, stage: str) -> None:
            self.step = module.__dict__["training_step"]

    module, remembers = Quiet(), Remembers()
    compiled = torch.compile(module, backend=Compilations().compile)
    quiet(pm.PuzzleMixCallback(config(), seed=2), remembers).fit(compiled, Batches(count=2))
    assert module.__dict__["training_step"] is remembers.step


@needs_compile
def test_a_compiled_submodule() -> None:
    torch._dynamo.reset()

    class Inner(Quiet):
        def __init__(self, counter: Compilations | None = None) -> None:
            super().__init__()
            self.fast = self.net.forward if counter is None else torch.compile(self.net, backend=counter.compile)

        def forward(self, images: Tensor) -> Tensor:
            return self.fast(images)

    counter, trained = Compilations(), []
    for module in (Inner(), Inner(counter)):
        quiet(pm.PuzzleMixCallback(config(), seed=2), counter).fit(module, Batches(count=5))
        trained.append(module.net[0].weight.detach())
    torch.testing.assert_close(*trained)
    assert counter.after[6:] == [counter.after[6]] * 4


def test_inference_tensors() -> None:
    with torch.inference_mode():
        batches = [tuple(value.clone() for value in make_batch(0, 0, index)) for index in range(3)]
    assert batches[0][0].is_inference()
    module, _ = fit(batches=Batches(*batches))
    normal, _ = fit(batches=Batches(count=3))
    for ours, theirs in zip(module.journal, normal.journal, strict=True):
        assert torch.equal(ours[0], theirs[0])
    for name, value in normal.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)


def test_checkpointing_that_is_not_reentrant_changes_nothing() -> None:
    class Thrifty(Classifier):
        reentrant = False

        def forward(self, images: Tensor) -> Tensor:
            # BatchNorm is left out: computed twice, it would update its statistics twice.
            features = torch.utils.checkpoint.checkpoint(self.net[0], images, use_reentrant=self.reentrant)
            return self.net[1:](features)

    thrifty, _ = fit(Thrifty())
    plain, _ = fit()
    for name, value in plain.named_parameters():
        torch.testing.assert_close(dict(thrifty.named_parameters())[name], value)
    reentrant = Thrifty()
    reentrant.reentrant = True
    with pytest.raises(ValueError, match="use_reentrant=False"):
        fit(reentrant)


def test_a_frozen_batchnorm_stays_frozen() -> None:
    class Frozen(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.modes: list[tuple[bool, ...]] = []
            self.net[1].requires_grad_(False)

        def on_train_epoch_start(self) -> None:
            self.net[1].eval()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.modes.append(tuple(part.training for part in self.modules()))
            return super().training_step(batch, batch_idx)

    for clean_weight in (0.0, 0.5):
        frozen = Frozen()
        frozen, _ = fit(frozen, mixing=pm.PuzzleMixCallback(config(), seed=1, clean_weight=clean_weight))
        expected = tuple(not isinstance(part, nn.BatchNorm2d) for part in frozen.modules())
        assert frozen.modes == [expected] * 3
        assert torch.equal(frozen.net[1].running_mean, torch.zeros(6))
        assert int(frozen.net[1].num_batches_tracked) == 0


def test_mixing_changes_neither_statistics_nor_the_global_random_state() -> None:
    class Watching(Classifier):
        def on_train_start(self) -> None:
            self.state = torch.get_rng_state()

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            assert torch.equal(torch.get_rng_state(), self.state)
            assert int(self.net[1].num_batches_tracked) == batch_idx

    module, _ = fit(Watching(), mixing=pm.PuzzleMixCallback(config(), seed=1, adversarial_prob=0.5))
    assert len(module.journal) == 3
