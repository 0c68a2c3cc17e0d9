"""Clean regularization for the first part of a run only."""

import pytorch_lightning as pl

from lightning_puzzlemix import PuzzleMixCallback


class CleanUntil(pl.Callback):
    """Switches clean regularization off from epoch `until` on; the 3-phase ImageNet recipe does so for its last phase.

    Args:
        mix: The callback whose `clean_weight` is meant.
        until: First epoch without, >= 0.

    Raises:
        ValueError: If there is nothing to switch off.
    """

    def __init__(self, mix: object, until: int) -> None:
        if not isinstance(mix, PuzzleMixCallback) or not mix.mixer.clean_weight:
            raise ValueError(
                f"clean_stop_epoch={until} needs mix=puzzlemix with mix.clean_weight > 0; drop it otherwise"
            )
        if until < 0:
            raise ValueError(f"clean_stop_epoch must be null or at least 0, got {until}")
        self.mixer = mix.mixer
        self.weight = mix.mixer.clean_weight
        self.until = until

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the weight of an epoch that is gone on with: Lightning does not announce it again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the weight of this epoch."""
        self.mixer.clean_weight = self.weight if trainer.current_epoch < self.until else 0.0
