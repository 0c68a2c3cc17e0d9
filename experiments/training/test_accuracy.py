"""Test accuracy over the epochs: best, last, and the median of the last ten, as the paper's authors report it."""

from typing import Any

import pytorch_lightning as pl

from experiments.runs.summary import AccuracyByEpoch


class TestAccuracyTracker(pl.Callback):
    """Gathers the test accuracy of every epoch, and the validation accuracy of the last.

    Kept in checkpoints, so that a resumed run knows all of them, and one that died after its last epoch too.

    Reads what the validation has logged: `test_accuracy` from the loader of test images, or `val_accuracy` where the test
    part itself validates.
    """

    # Its name is no test's.
    __test__ = False

    def __init__(self) -> None:
        self.accuracies: list[float] = []
        # Of the last epoch that was validated.
        self.val_accuracy: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch that was just scored."""
        if trainer.sanity_checking or trainer.datamodule is None:  # type: ignore[attr-defined]
            return
        validated = trainer.callback_metrics.get("val_accuracy")
        self.val_accuracy = None if validated is None else float(validated)
        on_test = trainer.datamodule.validates_on_test  # type: ignore[attr-defined]
        accuracy = trainer.callback_metrics.get("val_accuracy" if on_test else "test_accuracy")
        if accuracy is not None:
            self.accuracies.append(float(accuracy))

    def summary(self) -> AccuracyByEpoch | None:
        """The three figures; None: no epoch was scored on test images."""
        return AccuracyByEpoch.of(self.accuracies) if self.accuracies else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"accuracies": list(self.accuracies), "val_accuracy": self.val_accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the epochs of the run that is resumed."""
        self.accuracies = list(state_dict["accuracies"])
        self.val_accuracy = state_dict.get("val_accuracy")
