"""The comparison as a table: on the terminal, as CSV and as Markdown."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from experiments.common import replacing, write_text
from experiments.sweep_results.comparison import (
    METRICS,
    NOT_TABULATED,
    Comparison,
    Group,
    format_value,
    mean_and_sd,
    value_of,
)

NAME_WIDTH = 16
Rows = Sequence[Sequence[str]]


def table_cells(comparison: Comparison, metric: str) -> tuple[list[str], Rows]:
    """Headings and rows of the table; `metric` is always in it."""
    metrics = [name for name in comparison.metrics if name not in NOT_TABULATED or name == metric]
    # Only of interest where a seed was run more than once.
    runs = ["runs"] if any(len(group.runs) != len(group.seeds) for group in comparison.groups) else []
    heads = [*comparison.names, "seeds", *runs, *(METRICS[name].title for name in metrics)]
    rows = []
    for group in comparison.groups:
        counts = [str(len(group.seeds)), *(str(len(group.runs)) for _ in runs)]
        rows.append([*map(format_value, group.values), *counts, *(_cell(group, name) for name in metrics)])
    return heads, rows


def run_cells(comparison: Comparison) -> tuple[list[str], Rows]:
    """Headings and rows of a table of the single runs."""
    metrics = {name: METRICS[name] for name in comparison.metrics if name not in NOT_TABULATED}
    heads = ["run", *comparison.names, "seed", *(metric.title for metric in metrics.values())]
    rows = []
    for run in comparison.runs:
        settings = [format_value(value_of(run, key)) for key in comparison.keys]
        scores = [metric.format(run.scores.get(name)) for name, metric in metrics.items()]
        rows.append([run.folder.name, *settings, str(run.seed), *scores])
    return heads, rows


def _cell(group: Group, metric: str) -> str:
    scores = group.scores(metric)
    return " ± ".join(map(METRICS[metric].format, mean_and_sd(scores))) if scores else "-"


def rich_table(heads: Sequence[str], rows: Rows, *, names: int, title: str) -> Table:
    """The table for a terminal; the first `names` columns name the setting."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, (head, *cells) in enumerate(zip(heads, *rows, strict=True)):
        # In a narrow terminal numbers are broken at their ± before names are broken anywhere.
        width = min(NAME_WIDTH, max(map(len, [head, *cells]))) if index < names else None
        table.add_column(head, min_width=width, justify="left" if index < names else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def write_markdown(path: Path, heads: Sequence[str], rows: Rows, *, names: int) -> None:
    """The same table for a README."""
    rule = ["---" if index < names else "---:" for index in range(len(heads))]
    lines = [[head.replace("\n", " ") for head in heads], rule]
    lines += [[cell.replace("|", r"\|") for cell in row] for row in rows]
    write_text(path, "".join(f"| {' | '.join(line)} |\n" for line in lines))


def write_csv(path: Path, comparison: Comparison) -> None:
    """One line a group, numbers in full and in the units of `summary.json`; an empty cell where there is none."""
    heads = [f"{name}_{part}" for name in comparison.metrics for part in ("mean", "sd")]
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*comparison.keys, "seeds", "runs", *heads])
        for group in comparison.groups:
            found = map(group.scores, comparison.metrics)
            values = [value for scores in found for value in (mean_and_sd(scores) if scores else (None, None))]
            writer.writerow([*group.values, " ".join(map(str, group.seeds)), len(group.runs), *values])
