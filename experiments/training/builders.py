"""From the composed config to the objects of a run, in the order in which they need each other."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich import get_console

from experiments import runs
from experiments.common import UserError, mask_text, mask_texts
from experiments.data import ImageDataModule
from experiments.training.callbacks import EpochRecord, stop_clean_loss
from experiments.training.module import Classifier
from lightning_puzzlemix import ManifoldMixCallback

PLUGIN = Path(__file__).resolve().parents[2] / "lightning_puzzlemix"
# Warnings that no user can act on: Lightning calls an old name of torch's, a run is resumed, the digits are in memory.
IGNORED = ("LeafSpec.* is deprecated", "Checkpoint directory .* exists and is not empty", "does not have many workers")
GROUPS = ("data", "model", "optimizer", "scheduler", "mix", "trainer", "strategy", "logger", "ablation", "experiment")


@dataclass(frozen=True)
class RunComponents:
    """Everything that a run consists of."""

    data: ImageDataModule
    model: Classifier
    mix: Any
    epochs: EpochRecord
    stop: runs.GracefulStop
    trainer: pl.Trainer

    def fit(self, checkpoint: Path | None) -> None:
        """Train, from a checkpoint or from the start; raises RunStopped if a signal has stopped it."""
        try:
            self.trainer.fit(self.model, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)
        except SIGTERMException:
            # In processes that were not signaled themselves Lightning's exits with 0, as it should.
            if self.stop.signum is None:
                raise
        # Also when signaled after the last batch, when there was nothing left to stop.
        if self.stop.signum is not None:
            raise runs.RunStopped(self.stop.signum)

    def summarize(self, cfg: DictConfig, metrics: Mapping[str, float], *, seconds: float) -> runs.Summary:
        """Gather the results of a finished run; `metrics` are those of the test."""
        # Each process has as many batches, of its share of the batch; `trainer.limit_test_batches` may leave some out.
        tested = int(sum(self.trainer.num_test_batches)) * self.data.batch_size
        accuracies = self.epochs.test_accuracies
        return runs.Summary(
            name=mask_text(cfg.name),
            choices=choices(),
            overrides=mask_texts(HydraConfig.get().overrides.task),
            seed=cfg.seed,
            epochs=self.trainer.current_epoch,
            parameters=sum(parameter.numel() for parameter in self.model.net.parameters()),
            train_images=len(self.data.split("train")),
            test_images=min(len(self.data.split("test")), tested),
            val_accuracy=self.epochs.val_accuracy,
            test={name.removeprefix("test_"): value for name, value in metrics.items()},
            test_accuracy_by_epoch=runs.AccuracyByEpoch.of(accuracies) if accuracies else None,
            epoch_seconds=self.epochs.typical_seconds(),
            total_seconds=seconds,
        )


def choices() -> dict[str, str | None]:
    """The option chosen in each group; None: the group is optional and was left out."""
    return {group: HydraConfig.get().runtime.choices.get(group) for group in GROUPS}


def build_components(cfg: DictConfig, *, kept_steps: int = 0) -> RunComponents:
    """Instantiate all parts of a config; `kept_steps`: optimizer steps of the checkpoint that the run is resumed from."""
    quiet_lightning()
    data: ImageDataModule = instantiate(cfg.data)
    # Before the Trainer would: the network is built for the classes, which may be named in the files.
    data.prepare_data()
    model = build_classifier(cfg, data)
    mix = build_optional(cfg, "mix")
    if data.views and any(isinstance(each, ManifoldMixCallback) for each in getattr(mix, "callbacks", [mix])):
        raise UserError(
            "mix=manifold mixes layers, which all views of a consistency loss pass too: set data.views=null"
        )
    run_dir = Path(cfg.paths.run_dir)
    epochs, stop = EpochRecord(mix), runs.GracefulStop(run_dir / runs.LAST_CHECKPOINT)
    callbacks = [
        *([] if cfg.clean_stop_epoch is None else [stop_clean_loss(mix, cfg.clean_stop_epoch)]),
        # Before the others, for which its seconds are complete and its batch is mixed.
        *([] if mix is None else [mix]),
        *(epochs, runs.EpochLine(), runs.RunRecord(runs.comparable_settings(cfg), data), stop),
        *runs.build_checkpoints(run_dir),
    ]
    loggers = build_loggers(cfg, kept_steps=kept_steps)
    plugins = [*instantiate(cfg.trainer.get("plugins") or []), runs.AtomicCheckpointIO()]
    has_bar = cfg.trainer.get("enable_progress_bar", True) and get_console().is_terminal
    parts = {"callbacks": callbacks, "logger": loggers or False, "plugins": plugins, "enable_progress_bar": has_bar}
    trainer: pl.Trainer = instantiate(cfg.trainer, **parts)
    return RunComponents(data, model, mix, epochs, stop, trainer)


def quiet_lightning() -> None:
    """From here on only the plugin's own messages come through Lightning's logger, and real warnings."""
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=f".*{message}")
    # Where both packages of Lightning are imported, both use the later one's logger.
    for package in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(f"{package}.utilities.rank_zero").filters = [
            lambda record: record.levelno >= logging.WARNING or PLUGIN in Path(record.pathname).parents
        ]


def build_classifier(cfg: DictConfig, data: ImageDataModule) -> Classifier:
    """The network for this data set, with loss, optimizer, scheduler and metrics."""
    if (data.views is not None) != (cfg.consistency_weight > 0):
        raise UserError(
            f"consistency_weight={cfg.consistency_weight} and data.views={data.views} must be set together: AugMix has "
            "consistency_weight=12 data.views=clean"
        )
    cfg = cfg.copy()
    if cfg.base_batch_size is not None:
        # Here, so that a scheduler which refers to the rate is scaled too.
        cfg.optimizer.lr *= data.batch_size / cfg.base_batch_size
    return Classifier(
        instantiate(cfg.model, num_classes=data.num_classes, in_channels=data.in_channels),
        num_classes=data.num_classes,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        scheduler=build_optional(cfg, "scheduler", off="constant"),
        decay_norm=cfg.decay_norm,
        loss=cfg.loss,
        consistency_weight=cfg.consistency_weight,
        class_names=data.class_names,
    )


def build_loggers(cfg: DictConfig, *, kept_steps: int = 0) -> list[Logger]:
    """The chosen logger, and always metrics.csv beside it; none at all with logger=none."""
    if cfg.logger.get("_target_") == "experiments.runs.build_metrics_logger":
        return [build_optional(cfg, "logger", kept_steps=kept_steps)]
    chosen = build_optional(cfg, "logger")
    return [] if chosen is None else [chosen, runs.build_metrics_logger(cfg.paths.run_dir, kept_steps)]


def build_optional(cfg: DictConfig, group: str, off: str = "none", **arguments: Any) -> Any:
    """Instantiate a group that may be switched off, by the option `off`: then None, and a ValueError if it has settings."""
    node = cfg[group]
    if node.get("_target_") is not None:
        return instantiate(node, _convert_="all", **arguments)
    settings = sorted(set(node) - {"_target_"})
    if settings:
        raise ValueError(f"{group}={off} takes no settings, got {OmegaConf.to_container(node)}; drop {settings}")
    return None
