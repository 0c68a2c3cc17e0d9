"""One HTML page about all runs in and below some folders."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image as PILImage

from experiments.common import UserError, leads_out, short, with_progress, write_text
from experiments.html_report import curves
from experiments.html_report.run_folder import Contents, read_file, read_run
from experiments.sweep_results import (
    STYLE,
    Cells,
    FinishedRun,
    compare_pairs,
    compare_runs,
    find_runs,
    plot_comparison,
    plot_differences,
)
from experiments.test_results import plot_calibration, plot_confusion, plot_per_class

REPORT = "report.html"
# More are only in the folder, or in the tables: the page must open on a phone.
MAX_IMAGES, MAX_DETAILED = 40, 60
IMAGE_WIDTH, WEBP_QUALITY = 1100, 85
# Text of plots stays text, which the reader's fonts show. The same plot gives the same file.
PAGE_STYLE = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": "report", "font.sans-serif": ["DejaVu Sans"]}


class Image(NamedTuple):
    """A data URI, and the width in CSS pixels."""

    source: str
    caption: str
    width: int


def write_report(folders: Sequence[Path], output: Path | None = None, title: str | None = None) -> Path:
    """Write a page about all runs in and below the folders, which refers to no other file; return its path.

    By default it is `report.html` in the first folder, and its title is the name of the run, or of that folder.

    Raises:
        UserError: If there is no run, or a file in a run folder is not what a run writes. The message names the file.
    """
    path = output or folders[0] / REPORT
    if output is None and leads_out(path):
        raise UserError(f"{path} is a link to {path.resolve()}, which would be written over; give --output FILE")
    if path.is_dir():
        raise UserError(f"--output must be a file, got {path}: that is a folder; give {path / REPORT}")
    finished, unfinished = find_runs(folders)
    runs = [*map(read_run, finished), *map(read_run, unfinished)]
    with mpl.rc_context(PAGE_STYLE):
        shown = _describe_run(runs[0]) if len(runs) == 1 else _describe_sweep(finished, runs)
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["anchor"] = lambda title: re.sub(r"\W+", "-", title.lower()).strip("-")
    environment.filters["short"] = short
    content = {"title": title, "name": folders[0].resolve().name, "total": len(runs), "run": None, **shown}
    write_text(path, environment.get_template("page.html.j2").render(content, cells=Cells))
    return path


def _embed_figures(plots: Iterable[tuple[Figure, str]]) -> list[Image]:
    """Plots as SVG, which have ids of their own within `img`."""
    images = []
    for figure, caption in plots:
        file = io.BytesIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata=metadata)
        images.append(_embed(file, "svg+xml", caption, round(96 * figure.get_figwidth())))
    return images


def _embed_files(paths: Iterable[Path], caption: str = "") -> list[Image]:
    """Image files as WebP, wide ones smaller; without a caption their names are captions."""
    return [read_file(path, partial(_embed_file, caption=caption)) for path in paths]


def _embed_file(path: Path, caption: str) -> Image:
    file = io.BytesIO()
    name = re.sub(r"_step_0*(\d+)$", r", a training batch after \1 optimizer steps", path.stem)
    with PILImage.open(path) as image:
        image.thumbnail((IMAGE_WIDTH, image.height))
        image.convert("RGB").save(file, "WEBP", quality=WEBP_QUALITY)
        return _embed(file, "webp", caption or name, image.width)


def _embed(file: io.BytesIO, kind: str, caption: str, width: int) -> Image:
    return Image(f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}", caption, width)


def _describe_run(run: Contents) -> Contents:
    """What the page about a single run shows."""
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
        "test_plots": _embed_figures((plot(test), caption) for caption, plot in plots.items() if test),
        "evaluations": [{**each, "plots": _embed_files(each["plots"])} for each in run["evaluations"]],
    }
    return {"run": shown}


def _describe_sweep(finished: Sequence[FinishedRun], runs: Sequence[Contents]) -> Contents:
    """What the page about several runs shows."""
    detailed = [run for run in runs if run["summary"]][:MAX_DETAILED]
    unfinished = [run for run in runs if run["unfinished"]]
    few = {axis: curves.LEARNING[axis] for axis in ("accuracy", "loss")}
    for run in with_progress([*detailed, *unfinished], "report"):
        run["curves"] = _embed_figures(curves.plot_metrics(run["metrics"], few))
        run["images"] = _embed_files([*run["images"], *run["mixes"]][-1:], f"Training images of {run['path'].name}")
    content = {"finished": len(finished), "comparison": None, "detailed": detailed, "unfinished": unfinished}
    if finished:
        comparison = compare_runs(finished)
        differences = compare_pairs(comparison)
        plots = [(plot_comparison(comparison, "accuracy", ""), "Mean and standard deviation of each group")]
        if differences:
            plots.append((plot_differences(differences, ""), "Paired differences with their confidence intervals"))
        metrics = {run["path"]: run["metrics"] for run in runs}
        groups = {group.label: [metrics[run.folder] for run in group.runs] for group in comparison.groups}
        content["comparison"] = {
            "names": comparison.names,
            "tables": [Cells.of_groups(each) for each in (comparison, differences) if each],
            "runs": Cells.of_runs(comparison, finished, "Every finished run"),
            "plots": _embed_figures(plots),
            "curves": _embed_figures(curves.plot_groups(groups)),
        }
    return content
