"""One HTML page about all runs in and below some folders, whose files may be somebody else's: they are read as plain data."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image as PILImage
from rich.table import Table

from experiments import common, sweep_results
from experiments.common import UserError, leads_out
from experiments.html_report import curves
from experiments.robustness import EvaluationResults
from experiments.runs import CONFIG, SUMMARY, UNREADABLE, summary_table
from experiments.sweep_results import Cells, FinishedRun, UnfinishedRun
from experiments.test_results import TEST_RESULTS, TestResults, plot_calibration, plot_confusion, plot_per_class

Contents = dict[str, Any]
REPORT = "report.html"
# More are only in the folder, or in the tables: the page must open on a phone.
MAX_IMAGES, MAX_DETAILED = 40, 60
IMAGE_WIDTH, WEBP_QUALITY = 1100, 85
# Text of plots stays text, which the reader's fonts show, and is no formula. The same plot gives the same file.
SVG = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.sans-serif": ["DejaVu Sans"], "text.parse_math": False}


def write_report(folders: Sequence[Path], output: Path | None = None, title: str | None = None) -> Path:
    """Write a page about all runs in and below the folders, which refers to no other file; return its path.

    By default it is `report.html` in the first folder, and its title is the name of the run, or of that folder. Raises a
    UserError if there is no run, or if a file in a run folder is not what a run writes.
    """
    path = output or folders[0] / REPORT
    if output is None and leads_out(path):
        raise UserError(f"{path} is a link to {path.resolve()}, which would be written over; give --output FILE")
    if path.is_dir():
        raise UserError(f"--output must be a file, got {path}: that is a folder; give {path / REPORT}")
    finished, unfinished = sweep_results.find_runs(folders)
    runs = [*map(read_run, finished), *map(read_run, unfinished)]
    with mpl.rc_context(SVG):
        shown = _describe_run(runs[0]) if len(runs) == 1 else _describe_sweep(finished, runs)
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), **options)
    environment.filters["anchor"] = lambda title: re.sub(r"\W+", "-", title.lower()).strip("-")
    environment.filters["short"] = common.short
    content = {"title": title, "name": folders[0].resolve().name, "total": len(runs), "run": None, **shown}
    common.write_text(path, environment.get_template("page.html.j2").render(content, cells=Cells))
    return path


def read_run(run: FinishedRun | UnfinishedRun) -> Contents:
    """The contents of a run folder by name; None or empty: the folder does not hold it."""
    path, hydra = run.folder, run.folder / ".hydra"
    summary = run.summary if isinstance(run, FinishedRun) else None
    # A run that failed early has only the config of Hydra.
    config = _read_file(path / CONFIG, _load_settings) or _read_file(hydra / "config.yaml", _load_settings) or {}
    start = OmegaConf.create(_read_file(hydra / "hydra.yaml", _load_settings) or {})
    overrides = summary.overrides if summary else _read_file(hydra / "overrides.yaml", common.read_plain_yaml) or []
    kept = [each for each in common.mask_texts(overrides) if common.key_of(each) != "resume"]
    # The option of a sweep would start all of its runs.
    alone = ["hydra.mode=RUN"] if "sweep" in map(common.key_of, kept) else []
    resolved = {key: value for key, value in config.items() if "${" not in str(value)}
    return {
        "path": path,
        "summary": summary,
        "results": _cells_of(summary_table(summary))._replace(title="Results") if summary else None,
        "unfinished": None if summary else run,
        "unreadable_summary": not summary and (path / SUMMARY).exists(),
        "name": resolved.get("name", path.name),
        "seed": resolved.get("seed"),
        "epochs": resolved.get("epochs"),
        "choices": summary.choices if summary else OmegaConf.select(start, "hydra.runtime.choices") or {},
        "overrides": common.mask_texts(overrides),
        "command": common.training_command([*kept, *alone]),
        "config": OmegaConf.to_yaml(OmegaConf.create(config)) if config else "",
        "versions": _read_file(path / "versions.json", lambda file: dict(json.loads(file.read_bytes()).items())) or {},
        "metrics": _read_file(path / "logs" / "metrics.csv", curves.read_metrics) or {},
        "test": _read_file(path / TEST_RESULTS, TestResults.load),
        "images": list(filter(_is_own, [path / "images.png"])),
        "mixes": sorted(filter(_is_own, path.glob("logs/images/*.png"))),
        "evaluations": [_read_file(file, _load_evaluation) for file in sorted(path.glob("*/evaluation.json"))],
    }


def _read_file(path: Path, load: Callable[[Path], Any]) -> Any:
    """What `load` makes of a file; None if there is none, a UserError if it cannot be read."""
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
    return {str(key): value for key, value in common.mask_settings(common.read_plain_yaml(path)).items()}


def _load_evaluation(path: Path) -> Contents:
    results = EvaluationResults.load(path)
    return {
        "name": path.parent.name,
        "complete": results.complete,
        "source": f"{results.facts.get('checkpoint') or 'unknown'}, after {results.facts.get('epoch', '?')} epochs",
        "tables": [_cells_of(table) for table in results.tables(path.parent.name) if table.row_count],
        "plots": list(filter(_is_own, [path.with_name("evaluation.png")])),
    }


def _cells_of(table: Table) -> Cells:
    heads = [str(column.header) for column in table.columns] if table.show_header else []
    return Cells(str(table.title), heads, list(zip(*(map(str, column.cells) for column in table.columns), strict=True)))


def _embed_figures(plots: Iterable[tuple[str, Figure]]) -> list[Contents]:
    """Plots as SVG, which have ids of their own within `img`."""
    images = []
    for caption, figure in plots:
        file = io.BytesIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata=metadata)
        images.append(_embed(file, "svg+xml", caption, round(96 * figure.get_figwidth())))
    return images


def _embed_files(paths: Iterable[Path], caption: str = "") -> list[Contents]:
    """Image files as WebP, wide ones smaller; without a caption their names are captions."""

    def embed(path: Path) -> Contents:
        file, name = io.BytesIO(), re.sub(r"_step_0*(\d+)$", r", a training batch after \1 optimizer steps", path.stem)
        with PILImage.open(path) as image:
            image.thumbnail((IMAGE_WIDTH, image.height))
            image.convert("RGB").save(file, "WEBP", quality=WEBP_QUALITY)
            return _embed(file, "webp", caption or name, image.width)

    return [_read_file(path, embed) for path in paths]


def _embed(file: io.BytesIO, kind: str, caption: str, width: int) -> Contents:
    source = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"source": source, "caption": caption, "width": width}


def _describe_run(run: Contents) -> Contents:
    metrics, test, mixes = run["metrics"], run["test"], run["mixes"]
    columns = {label: curves.values_by_epoch(metrics, name) for name, label in curves.EPOCH_METRICS.items()}
    mixed = "not mixed" if run["choices"].get("mix") in (None, "none") else "mixed by the trained model"
    first = dict.fromkeys(mixes[index] for index in (0, len(mixes) // 2, -1) if mixes)
    more = [path for path in mixes if path not in first]
    callbacks = dict.fromkeys(name.rpartition("/")[0] for name in metrics if name.endswith("/ratio"))
    plots = {"Confusion matrix": plot_confusion, "Accuracy of each class, lowest first": plot_per_class,
             "Reliability diagram: accuracy over confidence": plot_calibration}  # fmt: skip
    shown = {
        **run,
        "curves": _embed_figures(curves.plot_metrics(metrics, curves.LEARNING)),
        "by_epoch": {label: column for label, column in columns.items() if column},
        "mixing": {name: _embed_figures(curves.plot_metrics(metrics, curves.MIXING, name)) for name in callbacks},
        "images": [*_embed_files(run["images"], f"Training images, {mixed}"), *_embed_files(first)],
        "more_images": _embed_files(more[:MAX_IMAGES]),
        "left_out": len(more[MAX_IMAGES:]),
        "test_plots": _embed_figures((caption, plot(test)) for caption, plot in plots.items() if test),
        "evaluations": [{**each, "plots": _embed_files(each["plots"])} for each in run["evaluations"]],
    }
    return {"run": shown}


def _describe_sweep(finished: Sequence[FinishedRun], runs: Sequence[Contents]) -> Contents:
    detailed = [run for run in runs if run["summary"]][:MAX_DETAILED]
    unfinished = [run for run in runs if run["unfinished"]]
    few = {axis: curves.LEARNING[axis] for axis in ("accuracy", "loss")}
    for run in common.with_progress([*detailed, *unfinished], "report"):
        run["curves"] = _embed_figures(curves.plot_metrics(run["metrics"], few))
        run["images"] = _embed_files([*run["images"], *run["mixes"]][-1:], f"Training images of {run['path'].name}")
    content = {"finished": len(finished), "comparison": None, "detailed": detailed, "unfinished": unfinished}
    if finished:
        comparison = sweep_results.compare_runs(finished)
        plots = {"Mean and standard deviation of each group": sweep_results.plot_comparison(comparison, "accuracy", "")}
        if differences := sweep_results.compare_pairs(comparison):
            intervals = sweep_results.plot_differences(differences, "")
            plots["Paired differences with their confidence intervals"] = intervals
        metrics = {run["path"]: run["metrics"] for run in runs}
        groups = {group.label: [metrics[run.folder] for run in group.runs] for group in comparison.groups}
        content["comparison"] = {
            "names": comparison.names,
            "tables": [Cells.of_groups(each) for each in (comparison, differences) if each],
            "runs": Cells.of_runs(comparison, finished, "Every finished run"),
            "plots": _embed_figures(plots.items()),
            "curves": _embed_figures(curves.plot_groups(groups)),
        }
    return content
