"""Runs of the same setting as one line: mean and standard deviation over seeds, as a table, CSV and Markdown."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.table import Table

from experiments.common.atomic_files import replacing, write_text
from experiments.common.errors import UserError
from experiments.sweep_results.runs import NOT_COMPARED, FinishedRun

UNSET = "default"
NAME_WIDTH = 16


@dataclass(frozen=True)
class Metric:
    """How a score is shown.

    Args:
        title: Heading in the table, with line breaks that keep the column narrow.
        label: What it is, for the axis of a plot.
        factor: From the unit in `summary.json` to the unit shown.
        digits: Digits after the point.
    """

    title: str
    label: str
    factor: float = 100.0
    digits: int = 2


METRICS = {
    "accuracy": Metric("accuracy %", "test accuracy of the last epoch in %"),
    "median_last_10": Metric("median of\nlast 10 %", "test accuracy, median of the last 10 epochs, in %"),
    "best": Metric("best\nepoch %", "test accuracy of the best epoch in %, chosen on these images"),
    "top5": Metric("top-5 %", "top-5 test accuracy in %"),
    "calibration_error": Metric("calibration\nerror %", "calibration error on the test images in %"),
    "nll": Metric("nll", "negative log-likelihood on the test images, nats", factor=1.0, digits=3),
    "epoch_seconds": Metric("seconds\nan epoch", "seconds an epoch", factor=1.0, digits=1),
    "val_accuracy": Metric("validation\naccuracy %", "validation accuracy of the last epoch in %"),
}
# For choosing settings, not for comparing them: in the table when asked for.
NOT_TABULATED = ("val_accuracy",)


@dataclass(frozen=True)
class Group:
    """Runs that agree in the values of the grouping keys."""

    values: tuple[Any, ...]
    runs: tuple[FinishedRun, ...]

    def scores(self, metric: str) -> list[float]:
        """The metric of each run that has it, in the unit shown."""
        return [METRICS[metric].factor * run.scores[metric] for run in self.runs if metric in run.scores]

    @property
    def seeds(self) -> list[int]:
        """The seeds, each once."""
        return sorted({run.seed for run in self.runs})


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation with n-1; None for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def value_of(run: FinishedRun, key: str) -> Any:
    """The option of a group, or the value of a setting; "default" for one that is left to the code."""
    if key in run.choices:
        return run.choices[key]
    return run.settings.get(key, UNSET)


def differing_keys(runs: Sequence[FinishedRun]) -> list[str]:
    """What tells the runs apart besides the seed: groups first, then settings.

    Options and settings that the command line gave come first. Where they do not explain all differences between configs, the
    other keys that differ are added; what merely follows from another option is not.
    """
    keys = [group for group in _groups(runs) if _differ(runs, group)]
    given = sorted({key for run in runs for key in run.given} - set(_groups(runs)))
    # A key that is in no config sets what is not compared.
    keys += [key for key in given if _differ(runs, key) and any(key in run.settings for run in runs)]
    for group in group_runs(runs, keys):
        settings = sorted({key for run in group.runs for key in run.settings})
        keys += [key for key in settings if key not in keys and _differ(group.runs, key)]
    return keys


def _groups(runs: Sequence[FinishedRun]) -> list[str]:
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    return [group for group in groups if group not in NOT_COMPARED]


def _differ(runs: Sequence[FinishedRun], key: str) -> bool:
    return len({value_of(run, key) for run in runs}) > 1


def find_keys(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[str]:
    """Full keys for names of groups and settings, of which the end is enough: "beta" for "mix.config.beta".

    Raises:
        UserError: If a name fits no key, or several.
    """
    known = [*_groups(runs), *sorted({key for run in runs for key in run.settings})]
    keys = []
    for name in names:
        fitting = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
        if len(fitting) != 1:
            found = f"is one of {', '.join(fitting)}" if fitting else "is no group or setting of these runs"
            differing = ", ".join(differing_keys(runs)) or "nothing but the seed"
            raise UserError(f"--by {name} {found}; the runs differ in {differing}")
        keys += fitting
    return keys


def group_runs(runs: Iterable[FinishedRun], keys: Sequence[str]) -> list[Group]:
    """Runs with the same values of the keys together; numbers in ascending order, then names."""
    gathered: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in runs:
        gathered.setdefault(tuple(value_of(run, key) for key in keys), []).append(run)
    return [Group(values, tuple(gathered[values])) for values in sorted(gathered, key=_order)]


def _order(values: tuple[Any, ...]) -> list[tuple[bool, float, str]]:
    return [(not is_number(value), value if is_number(value) else 0.0, str(value)) for value in values]


def is_number(value: Any) -> bool:
    """Whether a setting's value can be put on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or all of it where two would be the same."""
    last = [key.split(".")[-1] for key in keys]
    return [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]


def shown(value: Any) -> str:
    """A setting's value for people."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def group_label(names: Sequence[str], values: Sequence[Any]) -> str:
    """What tells a group from the others; a name alone would do for `mix: cutmix`, a number needs its setting.

    Args:
        names: Short names of the keys.
        values: The group's value of each.

    Returns:
        The label; empty without keys.
    """
    pairs = zip(names, values, strict=True)
    return ", ".join(
        shown(value) if len(names) == 1 and isinstance(value, str) else f"{name} {shown(value)}"
        for name, value in pairs
    )


def present_metrics(groups: Iterable[Group]) -> list[str]:
    """The metrics that at least one run has, in a fixed order."""
    found = {name for group in groups for run in group.runs for name in run.scores}
    return [name for name in METRICS if name in found]


def cells(groups: Sequence[Group], keys: Sequence[str], metric: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table, as text; the metric asked for is always in it."""
    metrics = [name for name in present_metrics(groups) if name not in NOT_TABULATED or name == metric]
    # Only of interest where a seed was run more than once.
    has_repeats = any(len(group.runs) != len(group.seeds) for group in groups)
    heads = [*short_names(keys), "seeds", *["runs"] * has_repeats, *(METRICS[name].title for name in metrics)]
    rows = []
    for group in groups:
        counts = [str(len(group.seeds)), *[str(len(group.runs))] * has_repeats]
        rows.append([*map(shown, group.values), *counts, *(_cell(group, name) for name in metrics)])
    return heads, rows


def _cell(group: Group, metric: str) -> str:
    values, digits = group.scores(metric), METRICS[metric].digits
    if not values:
        return "-"
    mean, sd = mean_and_sd(values)
    return f"{mean:.{digits}f} ± " + ("-" if sd is None else f"{sd:.{digits}f}")


def rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int, title: str) -> Table:
    """The table for a terminal; the first `keys` columns name the setting."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads):
        if index < keys:
            # In a narrow terminal numbers are broken at their ± before names are broken anywhere.
            longest = max(len(row[index]) for row in rows)
            table.add_column(head, min_width=min(max(len(head), longest), NAME_WIDTH), overflow="fold")
        else:
            table.add_column(head, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def write_markdown(path: Path, heads: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int) -> None:
    """The same table for a README."""
    rule = ["---" if index < keys else "---:" for index in range(len(heads))]
    flat = [head.replace("\n", " ") for head in heads]
    lines = [flat, rule, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    write_text(path, "".join(f"| {' | '.join(line)} |\n" for line in lines))


def write_csv(path: Path, groups: Sequence[Group], keys: Sequence[str]) -> None:
    """One line a group, numbers in full and in the units of `summary.json`; an empty cell where there is none."""
    metrics = present_metrics(groups)
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, [*keys, "seeds", "runs", *(f"{name}_{part}" for name in metrics for part in ("mean", "sd"))]
        )
        writer.writeheader()
        for group in groups:
            counts = {"seeds": " ".join(map(str, group.seeds)), "runs": len(group.runs)}
            writer.writerow({**dict(zip(keys, group.values, strict=True)), **counts, **_statistics(group, metrics)})


def _statistics(group: Group, metrics: Iterable[str]) -> Mapping[str, float | None]:
    found: dict[str, float | None] = {}
    for name in metrics:
        values = [run.scores[name] for run in group.runs if name in run.scores]
        if values:
            found[f"{name}_mean"], found[f"{name}_sd"] = mean_and_sd(values)
    return found
