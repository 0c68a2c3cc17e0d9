"""From the composed config to objects: one function each, in the order in which they need each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

from experiments.data import ImageDataModule
from experiments.loggers.builders import build_csv_logger
from experiments.runs.checkpoints import AtomicCheckpointIO, build_best_checkpoint, build_last_checkpoint
from experiments.runs.metrics_file import EpochLine
from experiments.runs.resume import RunRecord, comparable_settings
from experiments.runs.run_folder import LAST_CHECKPOINT
from experiments.runs.stopping import GracefulStop
from experiments.training.epoch_timer import EpochTimer
from experiments.training.module import Classifier
from experiments.training.progress import progress_callbacks
from experiments.training.test_accuracy import TestAccuracyTracker


@dataclass(frozen=True)
class RunComponents:
    """Everything that a run consists of."""

    data: ImageDataModule
    model: Classifier
    mix: Any
    timer: EpochTimer
    history: TestAccuracyTracker
    checkpoint: ModelCheckpoint
    stop: GracefulStop
    trainer: pl.Trainer


def build_components(cfg: DictConfig, *, kept_steps: int = 0) -> RunComponents:
    """Instantiate all parts of the composed config `conf/train.yaml`.

    Args:
        cfg: The config, without missing values.
        kept_steps: Optimizer steps of the checkpoint that the run goes on from.

    Raises:
        MissingDataError: If the data set is not there and cannot be downloaded.
        ValueError: If settings are given to a part that is switched off.
    """
    data: ImageDataModule = instantiate(cfg.data)
    # Before the Trainer would: the network is built for the classes, which may be named in the files.
    data.prepare_data()
    model = build_classifier(cfg, data)
    mix = build_optional(cfg, "mix")
    timer = EpochTimer(mix)
    history = TestAccuracyTracker()
    run_dir = Path(cfg.paths.run_dir)
    checkpoint = build_best_checkpoint(run_dir)
    stop = GracefulStop(run_dir / LAST_CHECKPOINT)
    record = RunRecord(comparable_settings(cfg))
    saving = [checkpoint, build_last_checkpoint(run_dir)]
    callbacks: list[pl.Callback] = [timer, history, EpochLine(), record, *saving, *progress_callbacks(timer), stop]
    if mix is not None:
        # First, so that its seconds are complete and its batch is mixed when the others are called.
        callbacks.insert(0, mix)
    if cfg.clean_stop_epoch is not None:
        # Imported late: runs with mix=none do not need the plugin.
        from experiments.training.clean_phase import CleanUntil

        callbacks.insert(0, CleanUntil(mix, cfg.clean_stop_epoch))
    loggers = build_loggers(cfg, kept_steps=kept_steps)
    plugins = [*instantiate(cfg.trainer.get("plugins") or []), AtomicCheckpointIO()]
    trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers or False, plugins=plugins)
    return RunComponents(data, model, mix, timer, history, checkpoint, stop, trainer)


def build_classifier(cfg: DictConfig, data: ImageDataModule) -> Classifier:
    """The network for this data set, wrapped with loss, optimizer and metrics."""
    net = instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels)
    optimizer = instantiate(cfg.optimizer).scaled_to(data.batch_size)
    return Classifier(
        net, num_classes=data.num_classes, optimizer=optimizer, loss=cfg.loss, class_names=data.class_names
    )


def build_loggers(cfg: DictConfig, *, kept_steps: int = 0) -> list[Logger]:
    """The chosen logger, and always metrics.csv beside it; none at all with logger=none."""
    if cfg.logger.get("_target_") == f"{build_csv_logger.__module__}.{build_csv_logger.__name__}":
        return [instantiate(cfg.logger, kept_steps=kept_steps)]
    chosen = build_optional(cfg, "logger")
    return [] if chosen is None else [chosen, build_csv_logger(cfg.paths.run_dir, kept_steps=kept_steps)]


def build_optional(cfg: DictConfig, group: str) -> Any:
    """Instantiate a group that may be switched off with `group=none`; None if it is.

    Raises:
        ValueError: If it is off but has settings, which would be ignored in silence.
    """
    node = cfg[group]
    if node.get("_target_") is not None:
        return instantiate(node)
    settings = sorted(set(node) - {"_target_"})
    if settings:
        raise ValueError(f"{group}=none takes no settings, got {OmegaConf.to_container(node)}; drop {settings}")
    return None
