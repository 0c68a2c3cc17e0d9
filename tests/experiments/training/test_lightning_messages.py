"""What Lightning says at every start is left out of a run's output, what the plugin says is not."""

import logging
from typing import Any

import pytest
import pytorch_lightning as pl

import lightning_puzzlemix as pm
from experiments.training.builders import quiet_lightning


class Silent(pl.loggers.Logger):
    name = version = "silent"

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


def test_messages_of_the_plugin_come_through_and_those_of_lightning_do_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        quiet_lightning()
        trainer = pl.Trainer(accelerator="cpu", logger=Silent(), enable_checkpointing=False)
        pm.MixUpCallback().on_train_start(trainer, pl.LightningModule())
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["mixup"]
    quiet_lightning()
    assert len(logging.getLogger("pytorch_lightning.utilities.rank_zero").filters) == 1
