"""What a run resumes from, and what it may then do otherwise."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.common import RunFolderError, flatten, mask_settings, read_plain_yaml
from experiments.runs.lock import find_owner
from experiments.runs.run_folder import (
    AUTO,
    BEST_CHECKPOINT,
    CHECKPOINTS,
    CONFIG,
    LAST_CHECKPOINT,
    METRICS,
    SUMMARY,
    UNREADABLE,
    comparable_overrides,
)
from experiments.runs.summary import Summary

# Where a run goes, its name and its loggers do not change what it computes; `logger` may hold keys.
NOT_COMPARED = ("resume", "paths", "name", "logger")
# How the machine is used; and what is told by `epochs` or the run folder.
NOT_COMPARED_KEYS = (
    "data.num_workers", "data.download", "trainer.max_epochs", "trainer.default_root_dir", "trainer.log_every_n_steps",
    "trainer.enable_model_summary", "trainer.enable_progress_bar",
)  # fmt: skip
# Settings of the Trainer that change the weights.
DECIDING = (
    "limit_train_batches", "overfit_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
)  # fmt: skip
MAY_CHANGE = "epochs, the machine (trainer.*, data.num_workers), where the data lie, name, logger and paths"


@dataclass(frozen=True)
class Start:
    """Where a run begins: at a checkpoint, after so many optimizer steps and whole epochs, or anew (None).

    `settings` are those that it was trained with, see `comparable_settings`; None: not known. `note` tells what is lost.
    """

    checkpoint: Path | None = None
    steps: int = 0
    epochs: int = 0
    settings: Mapping[str, Any] | None = None
    note: str = ""


class BrokenCheckpointError(RunFolderError):
    """A checkpoint is missing, cut off or damaged, or nothing that a training can resume from."""


def find_start(resume: str | None, run_dir: Path) -> Start:
    """What the setting `resume` names: null, "auto" (the last checkpoint in `run_dir`), a checkpoint or a run folder.

    Of a folder whose last checkpoint is missing or not whole it is the best one, if that is. Without any, "auto" begins anew.

    Raises:
        RunFolderError: If there is no such checkpoint, it is not whole, or its run is still running.
    """
    if resume is None:
        return Start()
    if resume == AUTO:
        return _start_in(run_dir)
    path = Path(resume).expanduser()
    owner = find_owner(path if path.is_dir() else path.absolute().parent.parent)
    if owner is not None:
        raise RunFolderError(
            f"resume={resume} is of a run that is still running ({owner}): wait for it or stop it first"
        )
    if path.is_dir():
        start = _start_in(path)
    else:
        try:
            start = _read_start(path)
        except BrokenCheckpointError as error:
            start = Start(note=f"{error}. Name another checkpoint, or the run folder, whose best one is then taken")
    if start.checkpoint is None:
        reason = start.note or f"{path / LAST_CHECKPOINT} is missing"
        raise RunFolderError(f"resume={resume} is no checkpoint or run folder that can be resumed: {reason}")
    return start


def _start_in(folder: Path) -> Start:
    """The last checkpoint of a run folder, or else the best one, or else none, with a note on what that means."""
    errors = []
    for path in (folder / LAST_CHECKPOINT, folder / BEST_CHECKPOINT):
        try:
            start = _read_start(path)
        except BrokenCheckpointError as error:
            errors.append(str(error))
            continue
        lost = f"what was trained after its epoch {start.epochs} (step {start.steps}) is lost and trained again"
        return replace(start, note=f"{errors[0]}: resuming from {path}; {lost}") if errors else start
    if any(path.exists() for path in (folder / CHECKPOINTS, folder / METRICS)):
        return Start(note=f"{'; '.join(errors)}: what was trained is lost, and training starts from the beginning")
    return Start()


def _read_start(path: Path) -> Start:
    """Read the counters and settings of a checkpoint, once all of it has been found to be whole."""
    if not path.is_file():
        raise BrokenCheckpointError(f"{path} is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        raise BrokenCheckpointError(f"{path} is not whole") from error
    if damaged is not None:
        raise BrokenCheckpointError(f"{path} is damaged ({damaged} in it)")
    try:
        # mmap: only the counters are wanted, not the weights.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        _ = content["optimizer_states"]
        settings = content["callbacks"].get(RunRecord.__name__, {}).get("settings")
        return Start(path, int(content["global_step"]), epochs, settings)
    # Torch and pickle raise errors of many kinds.
    except Exception as error:
        raise BrokenCheckpointError(f"{path} is no checkpoint that a training can resume from") from error


def check_start(cfg: DictConfig, start: Start) -> list[str]:
    """Warnings about settings that differ from those of the checkpoint.

    Raises:
        RunFolderError: If the result would be that of neither; the message names the settings.
    """
    if start.checkpoint is None:
        return []
    if cfg.epochs < start.epochs:
        raise RunFolderError(
            f"epochs={cfg.epochs} is less than the {start.epochs} epochs that {start.checkpoint} has been trained for; "
            f"give at least epochs={start.epochs}, or start anew with resume=null in another folder"
        )
    if start.settings is None:
        return [f"{start.checkpoint} does not record its settings; they are assumed to be the same"]
    changes = find_changes(start.settings, comparable_settings(cfg))
    refused = [change for key, change in changes.items() if not _may_change(key)]
    if refused:
        raise RunFolderError(
            f"{start.checkpoint} is of a run with other settings: {', '.join(refused)}. A resumed run keeps its settings, "
            f"but for {MAY_CHANGE}: give those that it was started with, or start anew with resume=null in another folder"
        )
    return [f"resumed with other settings: {', '.join(changes.values())}"] if changes else []


def _may_change(key: str) -> bool:
    """Whether the result is still that of the settings now."""
    group, name = key.split(".")[0], key.rpartition(".")[2]
    return key == "epochs" or (group == "data" and name == "root") or (group == "trainer" and name not in DECIDING)


def comparable_settings(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted key, lists as JSON, without those that do not matter to the result."""
    content = mask_settings(OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg)
    # A value that names the run folder changes when that is moved.
    run_dir = str(content["paths"]["run_dir"])
    return {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in flatten(content)
        if key.split(".")[0] not in NOT_COMPARED and key not in NOT_COMPARED_KEYS and run_dir not in str(value)
    }


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """In words, by key, the settings that differ; without those that only repeat the seed."""
    differing = {key: (before.get(key), now.get(key)) for key in sorted({*before, *now})}
    differing = {key: pair for key, pair in differing.items() if pair[0] != pair[1]}
    repeats = [key for key, pair in differing.items() if key.endswith(".seed") and pair == differing.get("seed")]
    return {
        key: f"{key}={_shown(after)} (trained with {_shown(earlier)})"
        for key, (earlier, after) in differing.items()
        if key not in repeats
    }


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def is_done(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether `run_dir` holds this very run, finished.

    Raises:
        RunFolderError: If it holds another one, finished.
    """
    if cfg.resume != AUTO:
        return False
    try:
        summary = Summary.load(run_dir / SUMMARY)
    # A run whose summary is cut off is not finished: it is resumed, which here means that it is tested again.
    except UNREADABLE:
        return False
    try:
        stored = read_plain_yaml(run_dir / CONFIG)
        # Cut off at the end of a line it is still YAML.
        differing = list(
            find_changes(comparable_settings({key: stored[key] for key in cfg}), comparable_settings(cfg)).values()
        )
    except UNREADABLE:
        now = comparable_overrides(HydraConfig.get().overrides.task)
        differing = sorted({*comparable_overrides(summary.overrides)} ^ {*now})
    if differing:
        raise RunFolderError(
            f"{run_dir} holds a finished run with other settings: {', '.join(differing[:8])}; name another folder "
            "(hydra.run.dir=... for a run, hydra.sweep.dir=... for a sweep), or remove it"
        )
    return True


class RunRecord(pl.Callback):
    """Puts the settings of a run and what its training images are into its checkpoints, and compares the latter on resume.

    Args:
        settings: See `comparable_settings`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self._data: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember the data."""
        self._data = trainer.datamodule  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        images, names = len(self._data.split("train")), list(self._data.class_names)
        return {"settings": self.settings, "train_images": images, "class_names": names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those of the checkpoint: the folder may be another one or have been changed.

        Raises:
            RunFolderError: If they differ.
        """
        here, there = self.state_dict(), state_dict
        if here["class_names"] != there["class_names"]:
            difference = f"other classes: {_few(there['class_names'])}; data has {_few(here['class_names'])}"
        elif here["train_images"] != there["train_images"]:
            difference = f"{there['train_images']} training images; data has {here['train_images']}"
        else:
            return
        raise RunFolderError(
            f"The checkpoint is of a run with {difference}. Give the data that it was trained on, or start anew with "
            "resume=null"
        )


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''} ({len(names)})"
