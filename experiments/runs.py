"""Run folders: which one a run goes into, what it goes on from, and whether it is done already."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

# Also for those who look for the commands of a run folder here.
from experiments.commands import as_typed_here, continuing_command, key_of  # noqa: F401
from experiments.masking import mask_settings, mask_texts
from experiments.plain_yaml import read_plain_yaml

AUTO = "auto"
SUMMARY, CONFIG = "summary.json", "config.yaml"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
# Where a run goes and what it goes on from say nothing about what it computes.
NOT_COMPARED = ("resume", "paths")


class RunFolderError(ValueError):
    """A run cannot be resumed, or its folder is in use by another one; the message says what to do."""


@dataclass(frozen=True)
class Start:
    """Where a run begins: a checkpoint and the optimizer steps that had been made by then; None and 0: anew."""

    checkpoint: Path | None = None
    steps: int = 0


def choose_run_dir(parent: str, resume: str | None, stamp: str) -> str:
    """The folder of a run: below `parent` a new one named `stamp`, or with resume="auto" the one to go on with.

    That is the newest one whose run was started by the same overrides and has no `summary.json`.
    """
    new = Path(parent) / stamp
    if resume != AUTO or not Path(parent).is_dir():
        return str(new)
    wanted = comparable_overrides(HydraConfig.get().overrides.task)
    for folder in sorted(Path(parent).iterdir(), reverse=True):
        overrides = folder / ".hydra" / "overrides.yaml"
        if not overrides.is_file() or (folder / SUMMARY).exists():
            continue
        if comparable_overrides(read_plain_yaml(overrides)) == wanted:
            return str(folder)
    return str(new)


def comparable_overrides(overrides: Iterable[Any]) -> list[str]:
    """Overrides in a fixed order, without those that say where a run goes or what it goes on from."""
    return sorted(each for each in mask_texts(overrides) if key_of(each).split(".")[0] not in NOT_COMPARED)


def find_start(resume: str | None, run_dir: Path) -> Start:
    """What the setting `resume` names: null, "auto" (the last checkpoint in `run_dir`), a checkpoint or a run folder.

    Raises:
        RunFolderError: If there is no such checkpoint.
    """
    if resume is None:
        return Start()
    if resume == AUTO:
        path = run_dir / LAST_CHECKPOINT
        return _read_start(path) if path.is_file() else Start()
    path = Path(resume).expanduser()
    if path.is_dir():
        path /= LAST_CHECKPOINT
    if not path.is_file():
        raise RunFolderError(
            f"resume must be null, auto, a checkpoint (.ckpt) or a run folder with {LAST_CHECKPOINT}, got {resume}: "
            f"there is no {path.absolute()}"
        )
    return _read_start(path)


def _read_start(path: Path) -> Start:
    # mmap: only the counters are wanted, not the weights.
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return Start(path, int(content["global_step"]))


def is_done(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether `run_dir` holds this very run, finished.

    Raises:
        RunFolderError: If it holds another one, finished.
    """
    if cfg.resume != AUTO or not (run_dir / SUMMARY).is_file() or not (run_dir / CONFIG).is_file():
        return False
    stored = mask_settings(read_plain_yaml(run_dir / CONFIG))
    differing = sorted(_differences(stored, mask_settings(OmegaConf.to_container(cfg, resolve=True))))
    differing = [key for key in differing if key.split(".")[0] not in NOT_COMPARED]
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
