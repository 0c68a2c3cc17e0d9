"""From the composed config to objects: one function each, in the order in which they need each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

from experiments.classifier import Classifier
from experiments.data import ImageDataModule
from experiments.history import TestHistory
from experiments.loggers import build_csv_logger
from experiments.progress import progress_callbacks
from experiments.runs import LAST_CHECKPOINT
from experiments.stopping import GracefulStop
from experiments.timing import EpochTimer


@dataclass(frozen=True)
class Study:
    """Everything that a run consists of."""

    data: ImageDataModule
    model: Classifier
    mix: Any
    timer: EpochTimer
    history: TestHistory
    checkpoint: ModelCheckpoint
    stop: GracefulStop
    trainer: pl.Trainer


def build_study(cfg: DictConfig, *, kept_steps: int = 0) -> Study:
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
    history = TestHistory()
    checkpoint = build_checkpoint(Path(cfg.paths.run_dir))
    stop = GracefulStop(Path(cfg.paths.run_dir) / LAST_CHECKPOINT)
    callbacks: list[pl.Callback] = [timer, history, checkpoint, *progress_callbacks(timer), stop]
    if mix is not None:
        # First, so that its seconds are complete and its batch is mixed when the others are called.
        callbacks.insert(0, mix)
    if cfg.clean_until is not None:
        # Imported late: runs with mix=none do not need the plugin.
        from experiments.clean_phase import CleanUntil

        callbacks.insert(0, CleanUntil(mix, cfg.clean_until))
    loggers = build_loggers(cfg, kept_steps=kept_steps)
    trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers or False)
    return Study(data, model, mix, timer, history, checkpoint, stop, trainer)


def build_classifier(cfg: DictConfig, data: ImageDataModule) -> Classifier:
    """The network for this data set, wrapped with loss, optimizer and metrics."""
    net = instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels)
    optimizer = instantiate(cfg.optimizer).scaled_to(data.batch_size)
    return Classifier(
        net, num_classes=data.num_classes, optimizer=optimizer, loss=cfg.loss, class_names=data.class_names
    )


def build_checkpoint(run_dir: Path) -> ModelCheckpoint:
    """Keeps `best.ckpt` (validation accuracy) and `last.ckpt`; written every epoch, so a dead run can be resumed."""
    return ModelCheckpoint(
        dirpath=run_dir / "checkpoints",
        filename="best",
        monitor="val_accuracy",
        mode="max",
        save_last=True,
        enable_version_counter=False,
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
