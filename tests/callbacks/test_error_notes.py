"""A step that needs class indices and gets mixed targets fails with a note on the cause and the solution."""

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from callback_cases import Recorder, callback, loader, trainer
from torch import Tensor

import lightning_puzzlemix as pm

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no notes")


class Stepping(Recorder):
    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.of = loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.of(self(batch[0]), batch[1])


def notes_of(loss: Any, mixing: Any) -> list[str]:
    with pytest.raises((RuntimeError, TypeError, IndexError, OSError)) as caught:
        trainer(mixing).fit(Stepping(loss), loader())
    return getattr(caught.value, "__notes__", [])


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets) + (logits.argmax(1) == targets).float().mean()


NEED_CLASSES = {
    "nll_loss": lambda logits, targets: F.nll_loss(logits.log_softmax(1), targets),
    "gather": lambda logits, targets: -logits.log_softmax(1).gather(1, targets[:, None]).mean(),
    "index": lambda logits, targets: -logits.log_softmax(1)[range(len(targets)), targets].mean(),
    "one_hot": lambda logits, targets: F.mse_loss(logits, F.one_hot(targets, 5).float()),
    "accuracy": accuracy,
    "ignore_index": lambda logits, targets: F.cross_entropy(logits, targets, ignore_index=2),
}


@pytest.mark.parametrize("name", NEED_CLASSES)
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_losses_that_need_classes_get_a_note(name: str, prob: float) -> None:
    (note,) = notes_of(NEED_CLASSES[name], pm.MixUpCallback(prob=prob, seed=1))
    assert note.startswith(
        "MixUpCallback gave training_step soft targets, float32 (4, 5), for 1, int64 (4,) in the batch."
    )
    assert "targets='pair'" in note
    assert "pair_loss(loss, logits, targets)" in note
    assert "targets.argmax(1)" in note


def test_losses_of_pairs_get_a_note() -> None:
    (note,) = notes_of(F.cross_entropy, callback(targets="pair"))
    assert note.startswith("PuzzleMixCallback gave training_step PairTargets (first, second, ratio) for 1, int64 (4,)")
    assert "pair_loss(loss, logits, targets), or use targets='soft'" in note


def test_other_errors_get_no_note() -> None:
    def out_of_memory(logits: Tensor, targets: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("no memory")

    def interrupted(logits: Tensor, targets: Tensor) -> Tensor:
        raise FileNotFoundError("no such file")

    assert notes_of(out_of_memory, callback()) == []
    assert notes_of(interrupted, callback()) == []
    # A message of this project says itself what to do.
    parts = pm.ManifoldMixCallback(layers=["net"], seed=1)

    class Parts(Recorder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0][:2]).sum()

    with pytest.raises(ValueError, match="layers") as caught:
        trainer(parts).fit(Parts(), loader())
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("form", ["soft targets", "class indices"])
def test_pair_loss_refuses_other_targets(form: str) -> None:
    targets = torch.arange(4) if form == "class indices" else torch.eye(4)
    with pytest.raises(TypeError, match=r"targets must be PairTargets.*targets='pair'.*got .* \(4.*validation_step"):
        pm.pair_loss(F.cross_entropy, torch.zeros(4, 4), targets)
