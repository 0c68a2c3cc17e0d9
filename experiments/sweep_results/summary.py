"""Finished runs as tables and plots, printed and as files; unfinished ones with their last message."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.common import UserError, as_typed_here, print_plain, replacing, save_figure, short, write_text
from experiments.sweep_results.comparison import (
    Comparison,
    Statistics,
    compare_pairs,
    compare_runs,
    format_value,
    metric_of,
)
from experiments.sweep_results.plot import plot_comparison, plot_differences
from experiments.sweep_results.runs import FinishedRun, UnfinishedRun, find_runs

TABLE_CSV, TABLE_MD, PLOT = "summary_table.csv", "summary_table.md", "summary_plot.png"
DIFFERENCES_CSV, DIFFERENCES_PLOT = "summary_differences.csv", "summary_differences.png"
DPI = 150
NAME_WIDTH = 16


class Cells(NamedTuple):
    """A table as text; the first `names` columns name the setting, the others hold numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    @classmethod
    def of_groups(cls, comparison: Comparison) -> "Cells":
        """A row for each group."""
        titles = [metric_of(name).title for name in comparison.metrics]
        heads, rows = [*comparison.names, *comparison.groups[0].notes, *titles], []
        signed = comparison.reference is not None
        for group in comparison.groups:
            scores = [group.scores[name].show(metric_of(name), signed=signed) for name in comparison.metrics]
            rows.append([*map(format_value, group.values), *map(str, group.notes.values()), *scores])
        return cls(comparison.title, heads, rows, len(comparison.names))

    @classmethod
    def of_runs(cls, comparison: Comparison, runs: Sequence[FinishedRun], title: str) -> "Cells":
        """A row for each run."""
        heads = ["run", *comparison.names, "seed", *(metric_of(name).title for name in comparison.metrics)]
        rows = []
        for run in runs:
            settings = [format_value(run.value(key)) for key in comparison.keys]
            scores = [metric_of(name).format(run.scores.get(name)) for name in comparison.metrics]
            rows.append([run.folder.name, *settings, str(run.summary.seed), *scores])
        return cls(title, heads, rows, 1 + len(comparison.names))

    def print(self, console: Console) -> None:
        """Print the table; a log file has no width: there it takes what it needs instead of 80 columns."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, (head, *cells) in enumerate(zip(self.heads, *self.rows, strict=True)):
            # In a narrow terminal numbers are broken at their ± before names are broken anywhere.
            width = min(NAME_WIDTH, max(map(len, [head, *cells]))) if index < self.names else None
            table.add_column(head, min_width=width, justify="right" if width is None else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        wide = Console(width=1000).measure(table).maximum
        (console if console.is_terminal else Console(file=console.file, width=wide)).print(table)

    def as_markdown(self) -> str:
        """The same table for a README."""
        rule = ["---" if index < self.names else "---:" for index in range(len(self.heads))]
        lines = (" | ".join(cell.replace("|", r"\|") for cell in row) for row in (self.heads, rule, *self.rows))
        return "".join(f"| {' '.join(line.split())} |\n" for line in lines)


def summarize_runs(
    console: Console, folders: Sequence[Path], *, by: Sequence[str] = (), metric: str = "accuracy",
    reference: str | None = None,
) -> Sequence[UnfinishedRun]:  # fmt: skip
    """Print tables, files and unfinished runs; write CSV, Markdown and plots into the first folder.

    `by` is for `compare_runs`, `reference` for `compare_pairs`; `metric` is plotted. Returns the unfinished runs. Raises a
    UserError if there is no run, no run has the metric, or `by` or `reference` names nothing that there is.
    """
    finished, unfinished = find_runs(folders)
    if finished:
        _write_summary(console, compare_runs(finished, by), folders[0], metric, reference)
    if unfinished:
        total = len(finished) + len(unfinished)
        print_plain(f"\n{len(unfinished)} of {total} runs are not finished: running, stopped, or failed.", console)
    for run in unfinished:
        message = run.last_message or "(its log is empty)"
        print_plain(f"\n{short(run.folder)}\n  {message}\n  {as_typed_here(run.command)}", console)
    return unfinished


def _write_summary(console: Console, comparison: Comparison, folder: Path, metric: str, reference: str | None) -> None:
    if metric not in comparison.metrics:
        raise UserError(f"--metric {metric} is in none of the runs; they have {', '.join(comparison.metrics)}")
    name, differences = folder.resolve().name, compare_pairs(comparison, reference)
    files = {"table": TABLE_CSV, "for a README": TABLE_MD, f"plot of {metric}": PLOT}
    tables = {TABLE_CSV: comparison}
    save_figure(plot_comparison(comparison, metric, name), folder / PLOT, dpi=DPI)
    if differences:
        files |= {"differences": DIFFERENCES_CSV, "their plot": DIFFERENCES_PLOT}
        tables[DIFFERENCES_CSV] = differences
        save_figure(plot_differences(differences, name), folder / DIFFERENCES_PLOT, dpi=DPI)
    for file, table in tables.items():
        _write_csv(folder / file, table)
        Cells.of_groups(table._replace(title=f"{name}: {table.title}")).print(console)
    write_text(folder / TABLE_MD, "\n".join(Cells.of_groups(table).as_markdown() for table in tables.values()))
    for label, file in files.items():
        print_plain(f"{label:<{len(metric) + 10}}{short((folder / file).resolve())}", console)


def _write_csv(path: Path, table: Comparison) -> None:
    """A line for each group, numbers in full and in the units of `summary.json`; an empty cell where there is none."""
    parts = ("mean", "sd") if table.reference is None else Statistics._fields
    heads = [f"{name}_{part}" for name in table.metrics for part in parts]
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*table.keys, *table.groups[0].notes, *heads])
        for group in table.groups:
            scores = [getattr(group.scores[name], part) for name in table.metrics for part in parts]
            writer.writerow([*group.values, *group.notes.values(), *scores])
