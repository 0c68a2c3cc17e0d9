"""The chapters of several runs: the comparison, then each run in short."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.common.console import short
from experiments.html_report.curves import learning_panels
from experiments.html_report.embedding import Embedder
from experiments.html_report.group_curves import group_panels
from experiments.html_report.metrics import Metrics
from experiments.html_report.panels import ACCURACY, LOSS
from experiments.html_report.parts import Code, Drawing, Drawings, Folded, Link, Part, Section, Table, Text, from_rich
from experiments.html_report.run_contents import RunFolder
from experiments.html_report.run_sections import embed_panels, unfinished_notice
from experiments.runs.summary import summary_table
from experiments.sweep_results.plot import draw
from experiments.sweep_results.runs import FinishedRun
from experiments.sweep_results.table import (
    METRICS,
    NOT_TABULATED,
    Group,
    cells,
    differing_keys,
    group_label,
    group_runs,
    present_metrics,
    short_names,
    shown,
    value_of,
)

# More runs than that are only in the tables: the page must open on a phone.
DETAILED = 60
PAIRS = 5


@dataclass(frozen=True)
class Sweep:
    """Several runs.

    Args:
        name: What they are called together.
        finished: The finished ones, as the summary of sweeps knows them.
        runs: All of them, by folder.
    """

    name: str
    finished: Sequence[FinishedRun]
    runs: Sequence[RunFolder]

    @property
    def finished_folders(self) -> list[RunFolder]:
        """Those with an outcome."""
        return [run for run in self.runs if run.unfinished is None]

    @property
    def unfinished(self) -> list[RunFolder]:
        """Those without an outcome."""
        return [run for run in self.runs if run.unfinished is not None]


def sweep_lead(sweep: Sweep) -> list[Part]:
    """How many runs there are, and in what they differ."""
    keys = differing_keys(sweep.finished)
    differ = f" They differ in {', '.join([*short_names(keys), 'seed'])}." if keys else ""
    parts: list[Part] = [Text(f"{len(sweep.runs)} runs, {len(sweep.finished)} of them finished.{differ}")]
    if sweep.unfinished:
        # Few may be read here; of many the place is named.
        names = ", ".join(run.path.name for run in sweep.unfinished[:5])
        more = f" and {len(sweep.unfinished) - 5} more" if len(sweep.unfinished) > 5 else ""
        parts.append(Text(f"{len(sweep.unfinished)} runs are not finished: {names}{more}. See below.", True))
    return parts


def sweep_sections(sweep: Sweep, embed: Embedder, advance: Callable[[], None]) -> list[Section]:
    """All chapters; `advance` is called once for each run that is shown in short."""
    detailed = sweep.finished_folders[:DETAILED]
    anchors = {run.path: f"run-{index}" for index, run in enumerate([*detailed, *sweep.unfinished], start=1)}
    keys = differing_keys(sweep.finished)
    sections = []
    if sweep.finished:
        groups = group_runs(sweep.finished, keys)
        sections.append(Section("Comparison", _comparison(sweep.name, groups, keys, embed)))
        drawings = [
            Drawing(embed.svg(figure, f"{caption} Over epochs, by group."), caption)
            for caption, figure in group_panels(_metrics_by_group(sweep, groups, keys))
        ]
        if drawings:
            note = "Lines: mean over the runs of a group; bands: one standard deviation on either side."
            sections.append(Section("Learning curves", [Text(note), Drawings(drawings)]))
        sections.append(Section("Runs", [_run_table(sweep.finished, keys, anchors)]))
    details: list[Part] = []
    for run in detailed:
        details.append(Folded(_title(run), _essentials(run, embed), anchors[run.path]))
        advance()
    if len(sweep.finished) > DETAILED:
        details.append(Text(f"Details of the first {DETAILED} runs; make a report of the folder of another one."))
    if details:
        sections.append(Section("Run by run", details))
    if sweep.unfinished:
        parts = [
            Folded(_title(run), [*unfinished_notice(run), *_curves(run, embed)], anchors[run.path])
            for run in sweep.unfinished
        ]
        sections.append(Section("Unfinished runs", parts))
    return sections


def _comparison(name: str, groups: Sequence[Group], keys: Sequence[str], embed: Embedder) -> list[Part]:
    present = present_metrics(groups)
    metric = "accuracy" if "accuracy" in present else present[0]
    heads, rows = cells(groups, keys, metric)
    flat = [" ".join(head.split()) for head in heads]
    figure = draw(groups, keys, metric, name)
    label = f"{METRICS[metric].label} of each group, mean and standard deviation"
    return [
        Table("Mean ± standard deviation over the runs of a group", flat, rows, numeric=len(keys), sortable=True),
        Drawings([Drawing(embed.svg(figure, label), f"{label}.")]),
    ]


def _metrics_by_group(sweep: Sweep, groups: Sequence[Group], keys: Sequence[str]) -> Mapping[str, list[Metrics]]:
    logged = {run.path: run.metrics for run in sweep.runs if run.metrics is not None}
    names = short_names(keys)
    return {
        group_label(names, group.values) or "all runs": [
            logged[run.folder] for run in group.runs if run.folder in logged
        ]
        for group in groups
    }


def _run_table(runs: Sequence[FinishedRun], keys: Sequence[str], anchors: Mapping[Path, str]) -> Table:
    metrics = [name for name in present_metrics(group_runs(runs, [])) if name not in NOT_TABULATED]
    heads = ["run", *short_names(keys), "seed", *(" ".join(METRICS[name].title.split()) for name in metrics)]
    rows: list[list[str | Link]] = []
    for run in runs:
        values = [
            f"{METRICS[name].factor * run.scores[name]:.{METRICS[name].digits}f}" if name in run.scores else "-"
            for name in metrics
        ]
        settings = [shown(value_of(run, key)) for key in keys]
        name = run.folder.name
        named = Link(name, anchors[run.folder]) if run.folder in anchors else name
        rows.append([named, *settings, str(run.seed), *values])
    return Table("Every finished run", heads, rows, numeric=1 + len(keys), sortable=True)


def _title(run: RunFolder) -> str:
    if run.summary is None:
        return run.path.name
    return f"{run.path.name}: test accuracy {run.summary.test['accuracy']:.2%}"


def _essentials(run: RunFolder, embed: Embedder) -> list[Part]:
    """TestResults, two curves, one picture, the worst confusions and the command."""
    parts: list[Part] = []
    if run.summary is not None:
        parts.append(from_rich(summary_table(run.summary)))
    parts += _curves(run, embed)
    picture = run.pictures[-1] if run.pictures else run.images
    if picture is not None:
        caption = f"Training images of {run.path.name}"
        markup = embed.picture(picture, caption, shrink=True)
        note = f"This page has no room for {short(picture)}."
        parts.append(Text(note) if markup is None else Drawings([Drawing(markup, caption)], wide=True))
    if run.outcome is not None and (pairs := run.outcome.most_confused(PAIRS)):
        rows = [[pair.true, pair.predicted, str(pair.count), f"{100 * pair.share:.1f}"] for pair in pairs]
        parts.append(
            Table("Most confused pairs", ["true class", "taken for", "images", "% of the class"], rows, numeric=2)
        )
    if run.evaluations:
        names = ", ".join(each.folder for each in run.evaluations)
        parts.append(Text(f"Its robustness was measured ({names}); it is in the report of this run alone."))
    return [*parts, Code("To run it again, in a new folder", run.command), Text(f"Folder: {short(run.path)}")]


def _curves(run: RunFolder, embed: Embedder) -> list[Part]:
    drawings = [] if run.metrics is None else embed_panels(embed, learning_panels(run.metrics, (ACCURACY, LOSS)))
    return [Drawings(drawings)] if drawings else []
