"""Reading run folders: the outcome of finished runs, and what is known of the others."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.common.commands import resume_command
from experiments.common.console import short
from experiments.common.errors import UserError
from experiments.common.masking import mask_text, mask_texts
from experiments.common.overrides import key_of
from experiments.common.plain_yaml import read_plain_yaml
from experiments.runs.run_folder import CHECKPOINTS, CONFIG, SUMMARY, UNREADABLE

# Where a run goes, what it is called and what it reports to say nothing about its result.
NOT_COMPARED = ("paths", "resume", "name", "logger")
# The traceback of a job that died, and its last line in short; the log of a run.
ERROR, LOG = "error.txt", "train.log"
LOG_PREFIX = re.compile(r"^\d{4}-\d{2}-\d{2} [\d:,]+ [A-Z]+ ")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run with its outcome.

    Args:
        folder: The run folder.
        seed: Seed of the run.
        choices: The option chosen in each Hydra group.
        given: Keys that the command line or the sweep set.
        settings: The resolved config by dotted key, without the seed and without what says where the run goes.
        scores: Outcome by name, as in `summary.json`: shares in [0,1], nll in nats, epoch_seconds in seconds. Scores that the
            run does not have are left out.
    """

    folder: Path
    seed: int
    choices: Mapping[str, str | None]
    given: Sequence[str]
    settings: Mapping[str, Any]
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class UnfinishedRun:
    """A run without an outcome: it is running, was stopped, or died.

    Args:
        folder: The run folder.
        command: What runs just this one again, or goes on with it.
        last_words: What it died of, where that is known; else the last line of its log; empty if there is none.
    """

    folder: Path
    command: str
    last_words: str


def find_runs(folders: Iterable[Path]) -> tuple[list[FinishedRun], list[UnfinishedRun]]:
    """All runs in and below the folders, each once, in the order of their paths."""
    finished, unfinished = [], []
    for folder in sorted({path for top in folders for path in _run_folders(top)}):
        try:
            finished.append(read_finished(folder))
        except UserError:
            unfinished += _read_unfinished(folder)
    return finished, unfinished


def _run_folders(top: Path) -> Iterable[Path]:
    for path, names, files in os.walk(top.resolve()):
        if SUMMARY in files or ".hydra" in names:
            yield Path(path)
        # Nothing below these is a run, and there may be much of it.
        names[:] = [name for name in names if name not in {".hydra", ".submitit", "checkpoints", "logs", "wandb"}]


def read_finished(folder: Path) -> FinishedRun:
    """Read `summary.json` and `config.yaml` of one run folder.

    Raises:
        UserError: If one of them is missing, cut off, or of another program.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        config = read_plain_yaml(folder / CONFIG)
        return FinishedRun(
            folder=folder,
            seed=summary["seed"],
            choices=summary["choices"],
            given=sorted({key_of(override) for override in summary["overrides"]}),
            settings=_comparable(config, summary["seed"]),
            scores=_scores(summary),
        )
    except (KeyError, *UNREADABLE) as error:
        raise UserError(f"{folder}: {error}") from error


def _scores(summary: Mapping[str, Any]) -> dict[str, float]:
    by_epoch = summary.get("test_accuracy_by_epoch") or {}
    scores = {
        **summary["test"],
        "best": by_epoch.get("best"),
        "median_last_10": by_epoch.get("median_last_10"),
        "val_accuracy": summary.get("val_accuracy"),
        "epoch_seconds": summary["epoch_seconds"]["total"],
    }
    return {name: float(value) for name, value in scores.items() if value is not None}


def _comparable(config: Any, seed: int) -> dict[str, Any]:
    """The config's values by dotted key, without those that differ between runs of the same setting."""
    run_dir = config["paths"]["run_dir"]
    kept = {}
    for key, value in _flatten(config):
        names = key.split(".")
        repeats_seed = names[-1] == "seed" and value == seed
        names_folder = isinstance(value, str) and run_dir in value
        if names[0] not in NOT_COMPARED and not repeats_seed and not names_folder:
            kept[key] = value
    return kept


def _flatten(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping) and (node or not prefix):
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        # Lists as text, so that values can be compared, hashed and shown.
        yield prefix, json.dumps(node) if isinstance(node, list | dict) else node


def _read_unfinished(folder: Path) -> list[UnfinishedRun]:
    """The run as the only element; none if the folder is not of a training run."""
    try:
        hydra = OmegaConf.select(OmegaConf.create(read_plain_yaml(folder / ".hydra" / "hydra.yaml")), "hydra")
        job = None if hydra is None else hydra.job.name
    except UNREADABLE:
        hydra = job = None
    if job is None and any((folder / name).exists() for name in (CONFIG, CHECKPOINTS)):
        # Cut off, but what else is there tells whose it is.
        job = "train"
    if job != "train":
        return []
    last_words, overrides = _last_words(folder), _read_overrides(folder)
    if overrides is None:
        last_words = (
            f"{last_words} (.hydra/overrides.yaml cannot be read: add to the command what set the run apart)".strip()
        )
    command = resume_command(overrides or [], short(folder), hydra=OmegaConf.create({}) if hydra is None else hydra)
    return [UnfinishedRun(folder=folder, command=command, last_words=last_words)]


def _read_overrides(folder: Path) -> list[str] | None:
    """What the run was started with; None: it cannot be read."""
    try:
        overrides = read_plain_yaml(folder / ".hydra" / "overrides.yaml")
    except UNREADABLE:
        return None
    return mask_texts(overrides) if isinstance(overrides, list) else None


def _last_words(folder: Path) -> str:
    """The error that the run died of, or else the last line of its log."""
    for file in (folder / ERROR, folder / LOG):
        try:
            lines = file.read_text(errors="replace").split("\n")
        except OSError:
            continue
        lines = [line for line in lines if line.strip()]
        if lines:
            return mask_text(LOG_PREFIX.sub("", lines[-1]).strip())
    return ""
