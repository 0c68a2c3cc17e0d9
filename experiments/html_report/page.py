"""One HTML page about all runs in and below some folders."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from experiments.common import UserError, leads_out, short, with_progress, write_text
from experiments.html_report.images import PLOT_STYLE, Image, ImageFiles, embed_figure
from experiments.html_report.metrics import Curve, Metrics
from experiments.html_report.plots import ACCURACY, EPOCH_METRICS, LEARNING, LOSS, MIXING, plot_groups, plot_metrics
from experiments.html_report.run_folder import Contents, plain_table, read_run, step_of
from experiments.runs import summary_table
from experiments.sweep_results import FinishedRun, compare_runs, load_runs, plot_comparison, run_cells, table_cells
from experiments.test_results import TestResults, plot_calibration, plot_confusion, plot_per_class

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
# Bytes of all image files on a page.
IMAGE_BUDGET = 6_000_000
# More runs are only in the tables: the page must open on a phone.
MAX_DETAILED = 60
MAX_EPOCH_ROWS, MAX_PAIRS = 60, 15


def write_report(folders: Sequence[Path], output: Path | None = None, title: str | None = None) -> Path:
    """Write a page about all runs in and below the folders; it refers to no other file.

    Args:
        folders: At least one; run folders, or folders above them.
        output: The file to write; None: `report.html` in the first folder.
        title: Title of the page; None: the name of the run, or of the first folder.

    Returns:
        The file.

    Raises:
        UserError: If there is no run, or a file in a run folder is not what a run writes. The message names the file.
    """
    path = output or folders[0] / REPORT
    if output is None and leads_out(path):
        raise UserError(f"{path} is a link to {path.resolve()}, which would be written over; give --output FILE")
    if path.is_dir():
        raise UserError(f"--output must be a file, got {path}: that is a folder; give {path / REPORT}")
    finished, unfinished = load_runs(folders)
    runs = [*map(read_run, finished), *map(read_run, unfinished)]
    files = ImageFiles(IMAGE_BUDGET)
    content: Contents = {"title": title, "name": folders[0].resolve().name, "total": len(runs), "run": None}
    with mpl.rc_context(PLOT_STYLE):
        content |= {"run": _describe_run(runs[0], files)} if len(runs) == 1 else _describe_sweep(finished, runs, files)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = lambda title: re.sub(r"\W+", "-", title.lower()).strip("-")
    environment.filters["short"] = short
    write_text(path, environment.get_template("page.html.j2").render(content))
    return path


def _describe(run: Contents, plots: Sequence[Any]) -> Contents:
    """What every page shows of a run."""
    confused = run["test"].most_confused(MAX_PAIRS) if run["test"] else []
    return {
        **run,
        "results": plain_table(summary_table(run["summary"]))[2] if run["summary"] else [],
        "curves": _embed(plot_metrics(run["metrics"].by_epoch, plots)),
        "pairs": [(pair.true, pair.predicted, str(pair.count), f"{100 * pair.share:.1f}") for pair in confused],
    }


def _embed(plots: Iterable[tuple[Figure, str]]) -> list[Image]:
    return [embed_figure(figure, caption) for figure, caption in plots]


def _describe_run(run: Contents, files: ImageFiles) -> Contents:
    """What the page about a single run shows."""
    how = "not mixed" if run["choices"].get("mix") in (None, "none") else "mixed by the trained model"
    images = [(run["image"], f"Training images, {how}")] if run["image"] else []
    mixes = [(path, _mix_caption(path)) for path in run["mix_images"]]
    chosen = {0, len(mixes) // 2, len(mixes) - 1}
    images += [each for index, each in enumerate(mixes) if index in chosen]
    plots = [[(each["plot"], f"{each['name']}: accuracies")] if each["plot"] else [] for each in run["evaluations"]]
    steps = {name: curves for name, curves in run["metrics"].by_step.items() if "ratio" in curves}
    return {
        **_describe(run, LEARNING),
        "epoch_table": _epoch_table(run["metrics"].by_epoch),
        "mixing": {name: _embed(plot_metrics(curves, MIXING, by_step=True)) for name, curves in steps.items()},
        "images": files.embed(images),
        "more_images": files.embed([each for index, each in enumerate(mixes) if index not in chosen]),
        **_describe_test(run["test"]),
        "evaluation_plots": [files.embed(each) for each in plots],
    }


def _mix_caption(image: Path) -> str:
    name, step = image.stem.partition("_step_")[0], step_of(image)
    return f"{name}, a training batch" + (f" after {step} optimizer steps" if step >= 0 else "")


def _epoch_table(curves: Mapping[str, Curve]) -> Contents:
    """The metrics of the epochs; of many epochs every nth, counted from the last one."""
    metrics = [name for name in EPOCH_METRICS if name in curves]
    values = [dict(zip(curves[name].x, EPOCH_METRICS[name][1] * curves[name].y, strict=True)) for name in metrics]
    epochs = sorted({epoch for each in values for epoch in each})
    shown = epochs[:: -max(1, math.ceil(len(epochs) / MAX_EPOCH_ROWS))][::-1]
    rows = [[f"{epoch:.0f}", *(f"{each[epoch]:.5g}" if epoch in each else "-" for each in values)] for epoch in shown]
    return {"heads": ["epoch", *(EPOCH_METRICS[name][0] for name in metrics)], "rows": rows, "total": len(epochs)}


def _describe_test(test: TestResults | None) -> Contents:
    if test is None:
        return {"test_plots": [], "classes": []}
    plots = [
        (plot_confusion(test), f"Confusion matrix of {len(test.class_names)} classes."),
        (plot_per_class(test), "Accuracy of each class, lowest first."),
        (plot_calibration(test), "Reliability diagram: accuracy over confidence."),
    ]
    classes = zip(test.class_names, test.per_class_accuracy(), test.per_class_count(), strict=True)
    rows = [(name, f"{100 * accuracy:.2f}" if count else "-", str(count)) for name, accuracy, count in classes]
    return {"test_plots": _embed(plots), "classes": rows}


def _describe_sweep(finished: Sequence[FinishedRun], runs: Sequence[Contents], files: ImageFiles) -> Contents:
    """What the page about several runs shows."""
    detailed = []
    for run in with_progress([run for run in runs if run["summary"]][:MAX_DETAILED], "report"):
        images = [path for path in (run["image"], *run["mix_images"]) if path][-1:]
        embedded = files.embed([(path, f"Training images of {run['path'].name}") for path in images], shrink=True)
        detailed.append({**_describe(run, (ACCURACY, LOSS)), "images": embedded})
    return {
        "finished": len(finished),
        "comparison": _compare(finished, {run["path"]: run["metrics"] for run in runs}) if finished else None,
        "detailed": detailed,
        "unfinished": [_describe(run, (ACCURACY, LOSS)) for run in runs if run["unfinished"]],
    }


def _compare(finished: Sequence[FinishedRun], metrics: Mapping[Path, Metrics]) -> Contents:
    comparison = compare_runs(finished)
    groups = {group.label: [metrics[run.folder] for run in group.runs] for group in comparison.groups}
    metric = comparison.metrics[0]
    return {
        "names": comparison.names,
        "groups": table_cells(comparison, metric),
        "runs": run_cells(comparison),
        "plot": embed_figure(plot_comparison(comparison, metric, ""), "Mean and standard deviation of each group."),
        "curves": _embed(plot_groups(groups)),
    }
