"""Reading run folders: the results of finished runs, and what is known of the others."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.common import UserError, key_of, mask_text, mask_texts, read_plain_yaml, resume_command, short
from experiments.runs import CHECKPOINTS, CONFIG, SUMMARY, UNREADABLE

# These differ between runs of the same setting.
NOT_COMPARED = ("paths", "resume", "name", "logger")
# The traceback of a failed job, and its last line in short; the log of a run.
ERROR, LOG = "error.txt", "train.log"
LOG_PREFIX = re.compile(r"^\d{4}-\d{2}-\d{2} [\d:,]+ [A-Z]+ ")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run with its results."""

    folder: Path
    seed: int
    choices: Mapping[str, str | None]  # the option of each Hydra group
    given: Sequence[str]  # keys that the command line or the sweep set
    settings: Mapping[str, Any]  # the resolved config by dotted key, without what differs between runs of one setting
    scores: Mapping[str, float]  # those of `summary.json` that the run has: shares in [0,1], nats, seconds


@dataclass(frozen=True, kw_only=True)
class UnfinishedRun:
    """A run without results: it is running, was stopped, or failed."""

    folder: Path
    command: str  # that resumes this run, or starts it again
    last_message: str  # its error if there is one, else the last line of its log; may be empty


def load_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[UnfinishedRun]]:
    """`find_runs`, for folders that a user named.

    Raises:
        UserError: If one of them is no folder, or there is no run.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"DIR must be a folder, got {folder}: there is no such folder")
    finished, unfinished = find_runs(folders)
    if not finished and not unfinished:
        raise UserError(
            f"No runs found in {', '.join(map(str, folders))}: neither {SUMMARY} with {CONFIG} of a finished run nor "
            ".hydra/ of an unfinished one, in any folder below"
        )
    return finished, unfinished


def find_runs(folders: Iterable[Path]) -> tuple[list[FinishedRun], list[UnfinishedRun]]:
    """All runs in and below the folders, each once, in the order of their paths."""
    finished, unfinished = [], []
    for folder in sorted({path for top in folders for path in _run_folders(top)}):
        try:
            finished.append(read_finished(folder))
        except UserError:
            unfinished += _read_unfinished(folder)
    return finished, unfinished


def _run_folders(top: Path) -> Iterator[Path]:
    for path, names, files in os.walk(top.resolve()):
        if SUMMARY in files or ".hydra" in names:
            yield Path(path)
        # There are no runs below these, and possibly many files.
        names[:] = [name for name in names if name not in {".hydra", ".submitit", "checkpoints", "logs", "wandb"}]


def read_finished(folder: Path) -> FinishedRun:
    """Read `summary.json` and `config.yaml` of a run folder.

    Raises:
        UserError: If one of them is missing, cut off, or of another program.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        by_epoch = summary.get("test_accuracy_by_epoch") or {}
        scores = {
            **summary["test"],
            "best": by_epoch.get("best"),
            "median_last_10": by_epoch.get("median_last_10"),
            "val_accuracy": summary.get("val_accuracy"),
            "epoch_seconds": summary["epoch_seconds"]["total"],
        }
        return FinishedRun(
            folder=folder,
            seed=summary["seed"],
            choices=summary["choices"],
            given=sorted({key_of(override) for override in summary["overrides"]}),
            settings=_comparable(read_plain_yaml(folder / CONFIG), summary["seed"]),
            scores={name: float(value) for name, value in scores.items() if value is not None},
        )
    except (KeyError, *UNREADABLE) as error:
        raise UserError(f"{folder}: {error}") from error


def _comparable(config: Any, seed: int) -> dict[str, Any]:
    """The config's values by dotted key, without those that differ between runs of the same setting."""
    run_dir = config["paths"]["run_dir"]
    return {
        key: value
        for key, value in _flatten({key: value for key, value in config.items() if key not in NOT_COMPARED})
        if not (key.split(".")[-1] == "seed" and value == seed) and not (isinstance(value, str) and run_dir in value)
    }


def _flatten(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            # Lists as text, which can be compared, hashed and shown.
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list | dict) else value


def _read_unfinished(folder: Path) -> list[UnfinishedRun]:
    """The run as the only element; none if the folder is not of a training run."""
    try:
        hydra = OmegaConf.select(OmegaConf.create(read_plain_yaml(folder / ".hydra" / "hydra.yaml")), "hydra")
        is_training = hydra.job.name == "train"
    except UNREADABLE:
        # The file is cut off; other files tell whose folder it is.
        hydra, is_training = OmegaConf.create({}), any((folder / name).exists() for name in (CONFIG, CHECKPOINTS))
    if not is_training:
        return []
    message = _last_message(folder)
    try:
        overrides = read_plain_yaml(folder / ".hydra" / "overrides.yaml")
        overrides = mask_texts(overrides) if isinstance(overrides, list) else None
    except UNREADABLE:
        overrides = None
    if overrides is None:
        message = (
            f"{message} (.hydra/overrides.yaml cannot be read: add the settings of this run to the command)".strip()
        )
    command = resume_command(overrides or [], short(folder), hydra=hydra)
    return [UnfinishedRun(folder=folder, command=command, last_message=message)]


def _last_message(folder: Path) -> str:
    """The error of the run, or else the last line of its log."""
    for file in (folder / ERROR, folder / LOG):
        with suppress(OSError):
            text = file.read_text(errors="replace").strip()
            if text:
                return mask_text(LOG_PREFIX.sub("", text.split("\n")[-1]).strip())
    return ""
