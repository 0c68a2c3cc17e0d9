"""From the composed config to the objects of a run, in the order in which they need each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.common import UserError, mask_text, mask_texts
from experiments.data import ImageDataModule
from experiments.loggers import build_csv_logger
from experiments.runs import (
    LAST_CHECKPOINT,
    AtomicCheckpointIO,
    EpochLine,
    GracefulStop,
    RunRecord,
    RunStopped,
    Summary,
    build_best_checkpoint,
    build_last_checkpoint,
    comparable_settings,
)
from experiments.training.callbacks import CleanLossStop, EpochTimer, TestAccuracyTracker
from experiments.training.module import Classifier
from experiments.training.progress_bar import progress_callbacks


@dataclass(frozen=True)
class RunComponents:
    """Everything that a run consists of."""

    data: ImageDataModule
    model: Classifier
    mix: Any
    timer: EpochTimer
    test_accuracy: TestAccuracyTracker
    best_checkpoint: ModelCheckpoint
    stop: GracefulStop
    trainer: pl.Trainer

    def fit(self, checkpoint: Path | None) -> None:
        """Train, from a checkpoint or from the start.

        Raises:
            RunStopped: If it was stopped by a signal.
        """
        path = None if checkpoint is None else str(checkpoint)
        try:
            self.trainer.fit(self.model, datamodule=self.data, ckpt_path=path, weights_only=True)
        except SIGTERMException:
            # In processes that were not signaled themselves Lightning's exits with 0, as it should.
            if self.stop.signum is None:
                raise
        # Also when signaled after the last batch, when there was nothing left to stop.
        if self.stop.signum is not None:
            raise RunStopped(self.stop.signum)

    def summarize(
        self, cfg: DictConfig, metrics: Mapping[str, float], choices: Mapping[str, str | None], *, seconds: float
    ) -> Summary:
        """Gather the results of a finished run; `metrics` are those of the test."""
        # Each process has as many batches, of its share of the batch; `trainer.limit_test_batches` may leave some out.
        tested = sum(int(count) for count in self.trainer.num_test_batches) * self.data.batch_size
        return Summary(
            name=mask_text(cfg.name),
            choices=choices,
            overrides=mask_texts(HydraConfig.get().overrides.task),
            seed=cfg.seed,
            epochs=self.trainer.current_epoch,
            parameters=sum(parameter.numel() for parameter in self.model.net.parameters()),
            train_images=len(self.data.split("train")),
            test_images=min(len(self.data.split("test")), tested),
            val_accuracy=self.test_accuracy.val_accuracy,
            test={name.removeprefix("test_"): value for name, value in metrics.items()},
            test_accuracy_by_epoch=self.test_accuracy.summary(),
            epoch_seconds=self.timer.typical(),
            total_seconds=seconds,
        )


def build_components(cfg: DictConfig, *, kept_steps: int = 0) -> RunComponents:
    """Instantiate all parts of the composed config `conf/train.yaml`.

    Args:
        cfg: The config, without missing values.
        kept_steps: Optimizer steps of the checkpoint that the run is resumed from.

    Raises:
        MissingDataError: If the data set is not there and cannot be downloaded.
        ValueError: If settings do not fit together, or are given to a part that is switched off.
    """
    data: ImageDataModule = instantiate(cfg.data)
    # Before the Trainer would: the network is built for the classes, which may be named in the files.
    data.prepare_data()
    model = build_classifier(cfg, data)
    mix = build_optional(cfg, "mix")
    run_dir = Path(cfg.paths.run_dir)
    timer, test_accuracy, stop = EpochTimer(mix), TestAccuracyTracker(), GracefulStop(run_dir / LAST_CHECKPOINT)
    best_checkpoint = build_best_checkpoint(run_dir)
    callbacks: list[pl.Callback] = [
        *([] if cfg.clean_stop_epoch is None else [CleanLossStop(mix, cfg.clean_stop_epoch)]),
        # Before the others, for which its seconds are complete and its batch is mixed.
        *([] if mix is None else [mix]),
        *(timer, test_accuracy, EpochLine(), RunRecord(comparable_settings(cfg))),
        *(best_checkpoint, build_last_checkpoint(run_dir), *progress_callbacks(timer), stop),
    ]
    loggers = build_loggers(cfg, kept_steps=kept_steps)
    plugins = [*instantiate(cfg.trainer.get("plugins") or []), AtomicCheckpointIO()]
    trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers or False, plugins=plugins)
    return RunComponents(data, model, mix, timer, test_accuracy, best_checkpoint, stop, trainer)


def build_classifier(cfg: DictConfig, data: ImageDataModule) -> Classifier:
    """The network for this data set, with loss, optimizer, scheduler and metrics.

    Raises:
        UserError: If torch refuses the settings of optimizer or scheduler.
    """
    net = instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels)
    cfg = cfg.copy()
    if cfg.base_batch_size is not None:
        # Here, so that a scheduler which refers to the rate is scaled too.
        cfg.optimizer.lr *= data.batch_size / cfg.base_batch_size
    classifier = Classifier(
        net,
        num_classes=data.num_classes,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        scheduler=build_optional(cfg, "scheduler", off="constant"),
        decay_norm=cfg.decay_norm,
        loss=cfg.loss,
        class_names=data.class_names,
    )
    try:
        # Tried here, before a run begins; the steps are not known yet.
        classifier.build_optimizer(total_steps=lambda: 100)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer or scheduler: {error}") from error
    return classifier


def build_loggers(cfg: DictConfig, *, kept_steps: int = 0) -> list[Logger]:
    """The chosen logger, and always metrics.csv beside it; none at all with logger=none."""
    csv = cfg.logger.get("_target_") == "experiments.loggers.build_csv_logger"
    chosen = build_optional(cfg, "logger", **({"kept_steps": kept_steps} if csv else {}))
    return [] if chosen is None else [chosen, *([] if csv else [build_csv_logger(cfg.paths.run_dir, kept_steps)])]


def build_optional(cfg: DictConfig, group: str, off: str = "none", **arguments: Any) -> Any:
    """Instantiate a group that may be switched off, by the option `off`; None if it is.

    Raises:
        ValueError: If it is off but has settings, which would be ignored in silence.
    """
    node = cfg[group]
    if node.get("_target_") is not None:
        return instantiate(node, _convert_="all", **arguments)
    settings = sorted(set(node) - {"_target_"})
    if settings:
        raise ValueError(f"{group}={off} takes no settings, got {OmegaConf.to_container(node)}; drop {settings}")
    return None
