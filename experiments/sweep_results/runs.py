"""Reading run folders: the results of finished runs, and what is known of the others."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from experiments.common import UserError, mask_text, mask_texts, read_plain_yaml, resume_command, short
from experiments.runs import CONFIG, SUMMARY, UNREADABLE, Summary, comparable_settings

# The traceback of a failed job, and its last line in short; the log of a run.
ERROR, LOG = "error.txt", "train.log"
LOG_PREFIX = re.compile(r"^\d{4}-\d{2}-\d{2} [\d:,]+ [A-Z]+ ")


class FinishedRun(NamedTuple):
    """A run with its results."""

    folder: Path
    summary: Summary
    settings: Mapping[str, Any]  # options of Hydra groups, and `comparable_settings`, without the seed
    scores: Mapping[str, float]  # those that the run has: shares in [0,1], nats, seconds

    def value(self, key: str) -> Any:
        """The option of a Hydra group, or the value of a setting; "default" for one that is left to the code."""
        return self.settings.get(key, "default")


class UnfinishedRun(NamedTuple):
    """A run without results: it is running, was stopped, or failed."""

    folder: Path
    command: str  # that resumes this run, or starts it again
    last_message: str  # its error if there is one, else the last line of its log; may be empty


def find_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[UnfinishedRun]]:
    """All runs in and below the folders, each once, in the order of their paths; a UserError if there are none."""
    finished, unfinished = [], []
    for folder in sorted({path for top in folders for path in _run_folders(top)}):
        try:
            finished.append(_read_finished(folder))
        except UNREADABLE:
            unfinished += _read_unfinished(folder)
    if not finished and not unfinished:
        places = f"{', '.join(map(str, folders))} and below"
        raise UserError(f"No runs found in {places}: neither {SUMMARY} with {CONFIG} nor .hydra/ of an unfinished run")
    return finished, unfinished


def _run_folders(top: Path) -> Iterator[Path]:
    if not top.is_dir():
        raise UserError(f"DIR must be a folder, got {top}: there is no such folder")
    for path, names, files in os.walk(top.resolve()):
        if SUMMARY in files or ".hydra" in names:
            yield Path(path)
        # There are no runs below these, and possibly many files.
        names[:] = [name for name in names if name not in {".hydra", ".submitit", "checkpoints", "logs", "wandb"}]


def _read_finished(folder: Path) -> FinishedRun:
    summary = Summary.load(folder / SUMMARY)
    scores = {**summary.test, "val_accuracy": summary.val_accuracy, "epoch_seconds": summary.epoch_seconds.total}
    if by_epoch := summary.test_accuracy_by_epoch:
        scores |= {"best": by_epoch.best, "median_last_10": by_epoch.median_last_10}
    known = {name: value for name, value in (scores | _fgsm_accuracies(folder)).items() if value is not None}
    choices = {group: option for group, option in summary.choices.items() if group != "logger"}
    settings = {
        key: json.dumps(value) if isinstance(value, list) else value
        for key, value in {**comparable_settings(read_plain_yaml(folder / CONFIG)), **choices}.items()
        if not (key.split(".")[-1] == "seed" and value == summary.seed)
    }
    return FinishedRun(folder, summary, settings, known)


def _fgsm_accuracies(folder: Path) -> dict[str, float]:
    """Accuracy under FGSM on all test images by its size and checkpoint: "fgsm_4" of the best, "fgsm_4_last"."""
    found = {}
    for path in sorted(folder.glob("evaluation*/evaluation.json")):
        with suppress(*UNREADABLE):
            content = json.loads(path.read_bytes())
            for attack in content["attacks"].values():
                if attack["kind"] == "fgsm" and attack["images"] == content["test_images"]:
                    checkpoint = path.parent.name.removeprefix("evaluation")
                    found[f"fgsm_{255 * attack['eps']:.3g}{checkpoint}"] = attack["accuracy"]
    return found


def _read_unfinished(folder: Path) -> list[UnfinishedRun]:
    """The run as the only element; none if the folder is not of a training run."""
    hydra, overrides, message = OmegaConf.create(), [], _last_message(folder)
    # A file that was cut off does not hide the run.
    with suppress(*UNREADABLE):
        hydra = OmegaConf.create(read_plain_yaml(folder / ".hydra" / "hydra.yaml")).hydra
    if not (folder / ".hydra").is_dir() or OmegaConf.select(hydra, "job.name") not in ("train", None):
        return []
    try:
        overrides = mask_texts(read_plain_yaml(folder / ".hydra" / "overrides.yaml"))
    except UNREADABLE:
        message += " (.hydra/overrides.yaml cannot be read: add the settings of this run to the command)"
    return [UnfinishedRun(folder, resume_command(overrides, short(folder), hydra=hydra), message.strip())]


def _last_message(folder: Path) -> str:
    for file in (folder / ERROR, folder / LOG):
        with suppress(OSError):
            text = file.read_text("utf-8", "replace").strip()
            if text:
                return mask_text(LOG_PREFIX.sub("", text.split("\n")[-1]).strip())
    return ""
