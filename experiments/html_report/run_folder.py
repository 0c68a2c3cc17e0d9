"""Reading everything that a run folder holds; the files may be somebody else's, and are read as plain data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from experiments.common import (
    UserError,
    key_of,
    leads_out,
    mask_settings,
    mask_texts,
    read_plain_yaml,
    training_command,
)
from experiments.html_report.curves import read_metrics
from experiments.robustness import EvaluationResults
from experiments.runs import CONFIG, SUMMARY, UNREADABLE, summary_table
from experiments.sweep_results import Cells, FinishedRun, UnfinishedRun
from experiments.test_results import TEST_RESULTS, TestResults

Contents = dict[str, Any]


def read_run(run: FinishedRun | UnfinishedRun) -> Contents:
    """The contents of a run folder by name; None or empty: the folder does not hold it.

    Raises:
        UserError: If a file in it is not what a run writes; the message names the file.
    """
    path, hydra = run.folder, run.folder / ".hydra"
    summary = run.summary if isinstance(run, FinishedRun) else None
    # A run that failed early has only the config of Hydra.
    config = read_file(path / CONFIG, _load_settings) or read_file(hydra / "config.yaml", _load_settings) or {}
    start = OmegaConf.create(read_file(hydra / "hydra.yaml", _load_settings) or {})
    overrides = summary.overrides if summary else read_file(hydra / "overrides.yaml", read_plain_yaml) or []
    kept = [each for each in mask_texts(overrides) if key_of(each) != "resume"]
    # The option of a sweep would start all of its runs.
    alone = ["hydra.mode=RUN"] if "sweep" in map(key_of, kept) else []
    # Interpolations are not resolved.
    plain = {key: value for key, value in config.items() if "${" not in str(value)}
    return {
        "path": path,
        "summary": summary,
        "results": cells_of(summary_table(summary))._replace(title="Results") if summary else None,
        "unfinished": None if summary else run,
        "unreadable_summary": not summary and (path / SUMMARY).exists(),
        "name": plain.get("name", path.name),
        "seed": plain.get("seed"),
        "epochs": plain.get("epochs"),
        "choices": summary.choices if summary else OmegaConf.select(start, "hydra.runtime.choices") or {},
        "overrides": mask_texts(overrides),
        "command": training_command([*kept, *alone]),
        "config": OmegaConf.to_yaml(OmegaConf.create(config)) if config else "",
        "versions": read_file(path / "versions.json", lambda file: dict(json.loads(file.read_text()).items())) or {},
        "metrics": read_file(path / "logs" / "metrics.csv", read_metrics) or {},
        "test": read_file(path / TEST_RESULTS, TestResults.load),
        "images": list(filter(_is_own, [path / "images.png"])),
        "mixes": sorted(filter(_is_own, path.glob("logs/images/*.png"))),
        "evaluations": [read_file(file, _load_evaluation) for file in sorted(path.glob("*/evaluation.json"))],
    }


def read_file(path: Path, load: Callable[[Path], Any]) -> Any:
    """What `load` makes of a file; None if there is none.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return load(path) if path.is_file() else None
    except (*UNREADABLE, LookupError, SyntaxError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"{path} cannot be read ({reason}); move it away for a report without it, or run again"
        raise UserError(message) from error


def _is_own(path: Path) -> bool:
    """Whether the file is there and no link out of the run folder, so that a page holds no images of other folders."""
    return path.is_file() and not leads_out(path)


def _load_settings(path: Path) -> Contents:
    # Folders of earlier versions may hold secrets.
    return {str(key): value for key, value in mask_settings(read_plain_yaml(path)).items()}


def _load_evaluation(path: Path) -> Contents:
    results = EvaluationResults.load(path)
    return {
        "name": path.parent.name,
        "complete": results.complete,
        "source": f"{results.facts.get('checkpoint') or 'unknown'}, after {results.facts.get('epoch', '?')} epochs",
        "tables": [cells_of(table) for table in results.tables(path.parent.name) if table.row_count],
        "plots": list(filter(_is_own, [path.with_name("evaluation.png")])),
    }


def cells_of(table: Table) -> Cells:
    """The cells of a table that was made for the terminal."""
    heads = [str(column.header) for column in table.columns] if table.show_header else []
    return Cells(str(table.title), heads, list(zip(*(map(str, column.cells) for column in table.columns), strict=True)))
