"""Run folders: which one a run goes into, what it goes on from, and whether it is done already."""

import json
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.common.commands import key_of
from experiments.common.errors import UserError
from experiments.common.masking import mask_settings, mask_texts
from experiments.common.plain_yaml import read_plain_yaml
from experiments.runs.errors import RunFolderError
from experiments.runs.lock import LOCK, find_owner
from experiments.runs.record import check_changes, comparable_settings, find_changes, recorded_settings
from experiments.runs.summary import Summary

AUTO = "auto"
SUMMARY, CONFIG = "summary.json", "config.yaml"
CHECKPOINTS = Path("checkpoints")
LAST_CHECKPOINT, BEST_CHECKPOINT = CHECKPOINTS / "last.ckpt", CHECKPOINTS / "best.ckpt"
# Where a run goes and what it goes on from say nothing about what it computes.
NOT_COMPARED = ("resume", "paths")
# What reading a YAML file that is cut off, damaged or foreign may raise.
UNREADABLE = (OSError, ValueError, TypeError, AttributeError, YAMLError, OmegaConfBaseException)
# What a run writes to while it trains, and Hydra at its start.
TRACES = (
    LAST_CHECKPOINT, BEST_CHECKPOINT, Path("logs") / "metrics.csv", Path("train.log"), Path(LOCK),
    Path(".hydra") / "overrides.yaml",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Args:
        checkpoint: What it goes on from; None: it begins anew.
        steps: Optimizer steps that had been made by then.
        epochs: Epochs that were over by then.
        settings: Those that it was trained with, see `comparable_settings`; None: not known.
        note: A sentence on what is lost; empty: nothing is.
    """

    checkpoint: Path | None = None
    steps: int = 0
    epochs: int = 0
    settings: Mapping[str, Any] | None = None
    note: str = ""


class BrokenCheckpointError(UserError):
    """A checkpoint is cut off or damaged, or nothing that a training can go on from."""


def choose_run_dir(parent: str, resume: str | None, stamp: str) -> str:
    """The folder of a run: below `parent` a new one named `stamp`, or with resume="auto" the one to go on with.

    That is the one that was active last of those whose run was started by the same overrides, is not finished, and is not
    running.
    """
    if resume == AUTO:
        for folder in find_unfinished(Path(parent), HydraConfig.get().overrides.task):
            if find_owner(folder) is None:
                return str(folder)
    return str(Path(parent) / stamp)


def find_unfinished(parent: Path, overrides: Iterable[Any]) -> list[Path]:
    """Folders below `parent` of runs that were started by these overrides and have no outcome; the last active one first."""
    wanted = comparable_overrides(overrides)
    try:
        folders = [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []
    found = [path for path in folders if _started_by(path) == wanted and not _has_summary(path)]
    return sorted(found, key=lambda path: (last_active(path), path.name), reverse=True)


def _started_by(folder: Path) -> list[str] | None:
    """The overrides that a folder's run was started by; None: it cannot be told, or it is no run."""
    try:
        overrides = read_plain_yaml(folder / ".hydra" / "overrides.yaml")
    except UNREADABLE:
        return None
    return comparable_overrides(overrides) if isinstance(overrides, list) else None


def _has_summary(folder: Path) -> bool:
    try:
        return isinstance(json.loads((folder / SUMMARY).read_text(encoding="utf-8")), dict)
    # What is cut off is not finished.
    except (OSError, ValueError):
        return False


def last_active(folder: Path) -> float:
    """When the run in a folder last wrote something, in seconds since 1970; 0.0: nothing can be read there."""
    return max((_changed(folder / name) for name in TRACES), default=0.0)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def comparable_overrides(overrides: Iterable[Any]) -> list[str]:
    """Overrides in a fixed order, without those that say where a run goes or what it goes on from."""
    return sorted(each for each in mask_texts(overrides) if key_of(each).split(".")[0] not in NOT_COMPARED)


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
    folder = path if path.is_dir() else path.absolute().parent.parent
    owner = find_owner(folder)
    if owner is not None:
        raise RunFolderError(
            f"resume={resume} is of a run that is still running ({owner}): wait for it or stop it first"
        )
    if path.is_dir():
        start = _start_in(path)
        if start.checkpoint is not None:
            return start
        if (path / LAST_CHECKPOINT).is_file():
            raise RunFolderError(f"resume={resume} cannot be gone on with: {start.note}")
        path /= LAST_CHECKPOINT
    if not path.is_file():
        raise RunFolderError(
            f"resume must be null, auto, a checkpoint (.ckpt) or a run folder with {LAST_CHECKPOINT}, got {resume}: "
            f"there is no {path.absolute()}"
        )
    try:
        return _read_start(path)
    except BrokenCheckpointError as error:
        raise RunFolderError(
            f"resume={resume} cannot be gone on with: {error}. Name another checkpoint, or the run folder, whose best "
            "checkpoint is then taken"
        ) from error


def _start_in(folder: Path) -> Start:
    """The last checkpoint of a run folder, or else the best one, or else none, with a note on what that means."""
    complaints = []
    for path in (folder / LAST_CHECKPOINT, folder / BEST_CHECKPOINT):
        try:
            start = _read_start(path)
        except BrokenCheckpointError as error:
            complaints.append(str(error))
            continue
        if complaints:
            lost = f"what was trained after its epoch {start.epochs} (step {start.steps}) is lost and trained again"
            return replace(start, note=f"{complaints[0]}: going on from {path}; {lost}")
        return start
    if any(path.exists() for path in (folder / CHECKPOINTS, folder / "logs" / "metrics.csv")):
        return Start(note=f"{'; '.join(complaints)}: what was trained is lost, and training starts from the beginning")
    return Start()


def _read_start(path: Path) -> Start:
    """Read the counters and settings of a checkpoint, once all of it has been found to be whole."""
    if not path.is_file():
        raise BrokenCheckpointError(f"{path} is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError) as error:
        raise BrokenCheckpointError(f"{path} is not whole ({_size(path)})") from error
    if damaged is not None:
        raise BrokenCheckpointError(f"{path} is damaged ({damaged} in it)")
    try:
        # mmap: only the counters are wanted, not the weights.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
        _ = content["optimizer_states"]
        return Start(path, int(content["global_step"]), epochs, recorded_settings(content))
    # Whatever torch and pickle make of it.
    except Exception as error:
        raise BrokenCheckpointError(f"{path} is no checkpoint that a training can go on from") from error


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size} bytes"
    except OSError:
        return "unreadable"


def check_start(cfg: DictConfig, start: Start) -> list[str]:
    """What is worth saying about settings that differ from those of the checkpoint.

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
        return [
            f"{start.checkpoint} does not say what it was trained with: that the settings are the same is taken for granted"
        ]
    changes = check_changes(find_changes(start.settings, comparable_settings(cfg)), start.checkpoint)
    return [f"resumed with other settings: {', '.join(map(str, changes))}"] if changes else []


def _find_differing(cfg: DictConfig, summary: Summary, config: Path) -> list[str]:
    """Settings that differ from those of a finished run; if its config cannot be read, overrides that do."""
    try:
        stored = mask_settings(read_plain_yaml(config))
    except UNREADABLE:
        stored = None
    # Cut off at the end of a line it is still YAML.
    if not isinstance(stored, Mapping) or not set(map(str, cfg)) <= set(stored):
        now = comparable_overrides(mask_texts(HydraConfig.get().overrides.task))
        return sorted({*comparable_overrides(summary.overrides)} ^ {*now})
    # The path of the run folder says nothing either: it may have been moved.
    place = str(cfg.paths.run_dir)
    return [
        key
        for key in sorted(_differences(stored, mask_settings(OmegaConf.to_container(cfg, resolve=True))))
        if key.split(".")[0] not in NOT_COMPARED and place not in str(OmegaConf.select(cfg, key))
    ]


def is_done(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether `run_dir` holds this very run, finished.

    Raises:
        RunFolderError: If it holds another one, finished.
    """
    if cfg.resume != AUTO:
        return False
    try:
        summary = Summary.load(run_dir / SUMMARY)
    # A run whose summary is cut off is not finished: it goes on, which here means that it is tested again.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    differing = _find_differing(cfg, summary, run_dir / CONFIG)
    if differing:
        raise RunFolderError(
            f"{run_dir} holds a finished run with other settings ({', '.join(differing[:8])}); name another folder "
            "(hydra.run.dir=... for a run, hydra.sweep.dir=... for a sweep), or remove it"
        )
    return True


def _differences(one: Any, other: Any, prefix: str = "") -> Iterable[str]:
    """Dotted keys at which two nested settings differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {*one, *other}:
            yield from _differences(one.get(key), other.get(key), f"{prefix}{key}.")
    elif one != other:
        yield prefix.rstrip(".")


def make_command_repeatable() -> None:
    """Inside a sweep, make the process's command line that of the running job alone.

    Lightning starts the other processes of a DDP run by repeating the command line, which here would be the whole sweep.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return
    # With references to secrets in the environment, which those processes have as well.
    sys.argv[1:] = [*OmegaConf.to_container(hydra.overrides.task), "hydra.mode=RUN"]
    with read_write(hydra), open_dict(hydra):
        hydra.run.dir = hydra.runtime.output_dir
