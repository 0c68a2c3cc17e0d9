"""What a run resumes from, and what it may then do otherwise."""

import json
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from experiments.common import RunFolderError, flatten, mask_settings, read_plain_yaml
from experiments.runs.run_folder import AUTO, BEST_CHECKPOINT, CONFIG, LAST_CHECKPOINT, SUMMARY, UNREADABLE
from experiments.runs.summary import Summary

# Where a run goes, its name and its loggers do not change what it computes, nor does how the machine is used; the others are
# told by `epochs` or the run folder. Some have keys of their own.
NOT_COMPARED = (
    "resume", "paths", "name", "logger", "data.num_workers", "data.download", "trainer.max_epochs",
    "trainer.default_root_dir", "trainer.log_every_n_steps", "trainer.enable_model_summary", "trainer.enable_progress_bar",
)  # fmt: skip
# Settings of the Trainer that change the weights.
DECIDING = (
    "limit_train_batches", "overfit_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
)  # fmt: skip
MAY_CHANGE = "epochs, the machine (trainer.*, data.num_workers), where the data lie, name, logger and paths"
ANOTHER_FOLDER = "name another folder (hydra.run.dir=... for a run, hydra.sweep.dir=... for a sweep), or remove it"


@dataclass(frozen=True)
class Start:
    """Where a run begins: at a checkpoint, after so many optimizer steps and whole epochs, or anew (None)."""

    checkpoint: Path | None = None
    steps: int = 0
    epochs: int = 0
    settings: Mapping[str, Any] | None = None  # Those of `comparable_settings` in that training; None: not known.


def find_start(resume: str | None, run_dir: Path) -> Start:
    """What the setting `resume` names: null, "auto" (a checkpoint in `run_dir`, if there is one), a checkpoint or a run folder.

    Of a folder it is the last checkpoint, or the best one where a run was killed before it had a last one. A RunFolderError if
    there is no such checkpoint, or not all of it is whole.
    """
    path = run_dir if resume in (None, AUTO) else Path(str(resume)).expanduser()
    candidates = [path / LAST_CHECKPOINT, path / BEST_CHECKPOINT] if resume == AUTO or path.is_dir() else [path]
    file = next((each for each in candidates if each.is_file()), candidates[0])
    if resume is None or (resume == AUTO and not file.is_file()):
        return Start()
    try:
        # Torch does not compare the checksums.
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        # mmap: only the counters are wanted, not the weights.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        settings = content["callbacks"].get(RunRecord.__name__, {}).get("settings")
        start = Start(file, int(content["global_step"]), epochs, settings)
    # Damaged files raise errors of many kinds.
    except Exception as error:
        damaged = type(error).__name__
    if damaged is not None:
        raise RunFolderError(
            f"{file} is missing, damaged, or nothing that a training can resume from ({damaged}): name another checkpoint by "
            "resume=PATH, such as best.ckpt beside it, or remove it"
        )
    return start


def check_start(cfg: DictConfig, start: Start) -> list[str]:
    """Warnings about settings that differ from those of the checkpoint; a RunFolderError if the result would be of neither."""
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
    """The settings by dotted key, without those that do not matter to the result."""
    content = mask_settings(OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg)
    # A value that names the run folder changes when that is moved.
    run_dir, ignored = str(content["paths"]["run_dir"]), tuple(f"{key}." for key in NOT_COMPARED)
    settings = flatten(content)
    return {key: value for key, value in settings if not f"{key}.".startswith(ignored) and run_dir not in str(value)}


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """In words, by key, the settings that differ."""

    def shown(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    pairs = {key: (shown(before.get(key)), shown(now.get(key))) for key in sorted({*before, *now})}
    return {key: f"{key}={new} (trained with {old})" for key, (old, new) in pairs.items() if old != new}


def is_done(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether `run_dir` holds this very run, finished; a RunFolderError if it holds another one, finished."""
    if cfg.resume != AUTO:
        return False
    now = comparable_settings(cfg)
    try:
        Summary.load(run_dir / SUMMARY)
        stored = read_plain_yaml(run_dir / CONFIG)
        changes = find_changes(comparable_settings({key: stored[key] for key in cfg}), now)
    # Without them, or where they are cut off, it is resumed, which here means that it is tested again.
    except UNREADABLE:
        return False
    if changes:
        listed = ", ".join(changes.values())
        raise RunFolderError(f"{run_dir} holds a finished run with other settings: {listed}; {ANOTHER_FOLDER}")
    return True


def check_folder(cfg: DictConfig, folder: Path) -> None:
    """Check that a run may go into a folder: a RunFolderError if it holds another run, finished or not."""
    if is_done(cfg, folder) or cfg.resume == AUTO:
        return
    inside = cfg.resume is not None and Path(cfg.resume).expanduser().resolve().is_relative_to(folder.resolve())
    found = [str(name) for name in (SUMMARY, LAST_CHECKPOINT, BEST_CHECKPOINT) if (folder / name).exists()]
    if found and not inside:
        raise RunFolderError(
            f"{folder} holds another run ({', '.join(found)}): resume it by resume=auto, {ANOTHER_FOLDER}"
        )


class RunRecord(pl.Callback):
    """Puts the settings of a run and what its training images are into its checkpoints, and compares the latter on resume."""

    def __init__(self, settings: Mapping[str, Any], data: Any) -> None:
        self.settings, self.data = dict(settings), data

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        images, names = len(self.data.split("train")), list(self.data.class_names)
        return {"settings": self.settings, "train_images": images, "class_names": names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those of the checkpoint, as their folder may have changed; a RunFolderError if they differ."""
        here = self.state_dict()
        for key in ("class_names", "train_images"):
            if here[key] != state_dict[key]:
                before, now = (textwrap.shorten(str(state[key]), 80) for state in (state_dict, here))
                raise RunFolderError(
                    f"The checkpoint is of a run with {key}={before}; data has {now}. Give the data that it was trained on, "
                    "or start anew with resume=null"
                )
