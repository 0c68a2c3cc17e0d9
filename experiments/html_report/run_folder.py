"""Reading everything that a run folder holds; the files may be somebody else's, and are read as plain data."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table
from yaml import YAMLError

from experiments.common import (
    UserError,
    key_of,
    leads_out,
    mask_settings,
    mask_texts,
    read_plain_yaml,
    training_command,
)
from experiments.html_report.metrics import read_metrics
from experiments.robustness import EvaluationResults
from experiments.runs import CONFIG, SUMMARY, Summary
from experiments.sweep_results import FinishedRun, UnfinishedRun
from experiments.test_results import TEST_RESULTS, TestResults

Contents = dict[str, Any]


def read_run(run: FinishedRun | UnfinishedRun) -> Contents:
    """The contents of a run folder by name; None or empty: the folder does not hold it.

    Raises:
        UserError: If a file in it is not what a run writes; the message names the file.
    """
    path, hydra = run.folder, run.folder / ".hydra"
    unfinished = run if isinstance(run, UnfinishedRun) else None
    summary = None if unfinished else _read(path / SUMMARY, Summary.load)
    # A run that failed early has only the config of Hydra.
    config = _read(path / CONFIG, _load_settings) or _read(hydra / "config.yaml", _load_settings) or {}
    if summary:
        choices, overrides = summary.choices, mask_texts(summary.overrides)
    else:
        settings = OmegaConf.create(_read(hydra / "hydra.yaml", _load_settings) or {})
        choices = OmegaConf.select(settings, "hydra.runtime.choices") or {}
        overrides = _read(hydra / "overrides.yaml", lambda file: mask_texts(read_plain_yaml(file))) or []
    # Interpolations are not resolved.
    plain = {key: value for key, value in config.items() if "${" not in str(value)}
    return {
        "path": path,
        "summary": summary,
        "unfinished": unfinished,
        "unreadable_summary": bool(unfinished) and (path / SUMMARY).exists(),
        "name": plain.get("name", path.name),
        "seed": plain.get("seed"),
        "epochs": plain.get("epochs"),
        "choices": choices,
        "overrides": overrides,
        "command": _command(overrides),
        "config": OmegaConf.to_yaml(OmegaConf.create(config)) if config else "",
        "versions": _read(path / "versions.json", _load_json) or {},
        "metrics": read_metrics(path / "logs" / "metrics.csv"),
        "test": _read(path / TEST_RESULTS, TestResults.load),
        "image": _own(path / "images.png"),
        "mix_images": sorted(filter(_own, path.glob("logs/images/*.png")), key=step_of),
        "evaluations": list(
            filter(None, (_read(file, _load_evaluation) for file in sorted(path.glob("*/evaluation.json"))))
        ),
    }


def step_of(image: Path) -> int:
    """The optimizer step at the end of the name of an image of mixes; -1: there is none."""
    found = re.search(r"_step_(\d+)$", image.stem)
    return int(found[1]) if found else -1


def _command(overrides: Sequence[str]) -> str:
    """The command that repeats the run in a new folder."""
    kept = [each for each in overrides if key_of(each) != "resume"]
    # The option of a sweep would start all of its runs.
    alone = ["hydra.mode=RUN"] if any(key_of(each) == "sweep" for each in kept) else []
    return training_command([*kept, *alone])


def _own(path: Path) -> Path | None:
    """The file, if it is there and no link out of the run folder, so that a page holds no images of other folders."""
    return path if path.is_file() and not leads_out(path) else None


def _read(path: Path, load: Callable[[Path], Any]) -> Any:
    """What `load` makes of the file; None: there is none."""
    if not path.is_file():
        return None
    try:
        return load(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"{path} cannot be read ({reason}); move it away for a report without it, or run again"
        raise UserError(message) from error


def _load_json(path: Path) -> Contents:
    return dict(json.loads(path.read_text()).items())


def _load_settings(path: Path) -> Contents:
    # Folders of earlier versions may hold secrets.
    return {str(key): value for key, value in mask_settings(read_plain_yaml(path)).items()}


def _load_evaluation(path: Path) -> Contents:
    results = EvaluationResults.load(path)
    return {
        "name": path.parent.name,
        "complete": results.complete,
        "source": f"{results.facts.get('checkpoint') or 'unknown'}, after {results.facts.get('epoch', '?')} epochs",
        "tables": [plain_table(table) for table in results.tables(path.parent.name) if table.row_count],
        "plot": _own(path.with_name("evaluation.png")),
    }


def plain_table(table: Table) -> tuple[str, list[str], list[tuple[str, ...]]]:
    """Title, headings and rows of a table that was made for the terminal."""
    heads = [str(column.header) for column in table.columns] if table.show_header else []
    return str(table.title), heads, list(zip(*(map(str, column.cells) for column in table.columns), strict=True))
