"""From the composed config to objects: one function each, in the order in which they need each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger

from experiments.classifier import Classifier
from experiments.data import ImageDataModule
from experiments.progress import progress_callbacks
from experiments.timing import EpochTimer


@dataclass(frozen=True)
class Study:
    """Everything that a run consists of."""

    data: ImageDataModule
    model: Classifier
    mix: Any
    timer: EpochTimer
    checkpoint: ModelCheckpoint
    trainer: pl.Trainer


def build_study(cfg: DictConfig) -> Study:
    """Instantiate all parts of the composed config `conf/train.yaml`.

    Raises:
        MissingDataError: If the number of classes must be read from a data set that is not there.
        ValueError: If settings are given to a part that is switched off.
    """
    data: ImageDataModule = instantiate(cfg.data)
    model = build_classifier(cfg, data)
    mix = build_optional(cfg, "mix")
    timer = EpochTimer(mix)
    checkpoint = build_checkpoint(Path(cfg.paths.run_dir))
    loggers = build_loggers(cfg)
    callbacks = [timer, checkpoint, *progress_callbacks(timer)]
    if mix is not None:
        # First, so that its seconds are complete and its batch is mixed when the others are called.
        callbacks.insert(0, mix)
    trainer: pl.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers or False)
    return Study(data, model, mix, timer, checkpoint, trainer)


def build_classifier(cfg: DictConfig, data: ImageDataModule) -> Classifier:
    """The network for this data set, wrapped with loss, optimizer and metrics."""
    net = instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels)
    return Classifier(net, num_classes=data.num_classes, optimizer=instantiate(cfg.optimizer), loss=cfg.loss)


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


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """The chosen logger, and always metrics.csv beside it; none at all with logger=none."""
    chosen = build_optional(cfg, "logger")
    if chosen is None:
        return []
    if isinstance(chosen, CSVLogger):
        return [chosen]
    return [chosen, build_csv_logger(cfg.paths.run_dir)]


def build_csv_logger(run_dir: str) -> CSVLogger:
    """Writes `logs/metrics.csv` in the run folder, line by line: a run that dies leaves what it measured."""
    return CSVLogger(run_dir, name="logs", version="", flush_logs_every_n_steps=1)


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
