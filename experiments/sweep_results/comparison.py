"""Runs of the same setting as one group, with mean and standard deviation over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from experiments.common import UserError
from experiments.sweep_results.runs import NOT_COMPARED, FinishedRun

Values = tuple[Any, ...]


class Metric(NamedTuple):
    """How a score is shown: heading in tables, label in plots, factor from the unit of `summary.json`, digits."""

    title: str
    label: str
    factor: float = 100.0
    digits: int = 2

    def format(self, score: float | None) -> str:
        """A score in the unit shown."""
        return "-" if score is None else f"{self.factor * score:.{self.digits}f}"


# Line breaks keep the columns narrow.
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
# For choosing settings, not for comparing them: in the table only when asked for.
NOT_TABULATED = ("val_accuracy",)


class Group(NamedTuple):
    """Runs that agree in the values of the keys; `label` tells the group from the others."""

    values: Values
    label: str
    runs: Sequence[FinishedRun]

    @property
    def seeds(self) -> list[int]:
        """The seeds, each once."""
        return sorted({run.seed for run in self.runs})

    def scores(self, metric: str) -> list[float]:
        """The metric of each run that has it, in the unit of `summary.json`."""
        return [run.scores[metric] for run in self.runs if metric in run.scores]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs in groups, which differ in the keys: Hydra groups and dotted settings."""

    runs: Sequence[FinishedRun]
    keys: Sequence[str]
    names: Sequence[str]  # the keys in short
    groups: Sequence[Group]  # numbers in ascending order, then names
    metrics: Sequence[str]  # that at least one run has


def compare_runs(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> Comparison:
    """Group runs, at least one, `by` Hydra groups and settings; by default by all that differ, except the seed.

    Raises:
        UserError: If `by` names no key, or several.
    """
    keys = [_find_key(runs, name) for name in by] or _differing_keys(runs)
    ends = [key.split(".")[-1] for key in keys]
    names = [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]
    groups = [Group(values, label_of(names, values) or "all runs", members) for values, members in _gather(runs, keys)]
    metrics = [name for name in METRICS if any(name in run.scores for run in runs)]
    return Comparison(runs=runs, keys=keys, names=names, groups=groups, metrics=metrics)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation with n-1; None for a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def value_of(run: FinishedRun, key: str) -> Any:
    """The option of a Hydra group, or the value of a setting; "default" for one that is left to the code."""
    return run.choices[key] if key in run.choices else run.settings.get(key, "default")


def is_number(value: Any) -> bool:
    """Whether a setting's value has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def format_value(value: Any) -> str:
    """A setting's value as text."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def label_of(names: Sequence[str], values: Sequence[Any]) -> str:
    """Such as "cutmix" for a single text, "beta 0.4" for a number, "mix cutmix, beta 0.4" for several values."""
    if len(names) == 1 and isinstance(values[0], str):
        return values[0]
    return ", ".join(f"{name} {format_value(value)}" for name, value in zip(names, values, strict=True))


def _differing_keys(runs: Sequence[FinishedRun]) -> list[str]:
    """Hydra groups first, then settings of the command line.

    Other settings are added only where runs that agree in those still differ: what follows from an option is left out.
    """
    groups, settings = _all_keys(runs)
    given = {key for run in runs for key in run.given}
    keys = [key for key in [*groups, *settings] if _differ(runs, key) and (key in groups or key in given)]
    for _, members in _gather(runs, keys):
        keys += [key for key in settings if key not in keys and _differ(members, key)]
    return keys


def _find_key(runs: Sequence[FinishedRun], name: str) -> str:
    """The key that ends with the name: "mix.config.beta" for "beta"."""
    groups, settings = _all_keys(runs)
    known = [*groups, *settings]
    fitting = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    if len(fitting) != 1:
        found = f"is one of {', '.join(fitting)}" if fitting else "is no group or setting of these runs"
        differing = ", ".join(_differing_keys(runs)) or "nothing but the seed"
        raise UserError(f"--by {name} {found}; the runs differ in {differing}")
    return fitting[0]


def _all_keys(runs: Sequence[FinishedRun]) -> tuple[list[str], list[str]]:
    """Hydra groups in their order, and settings by name."""
    groups = [group for group in dict.fromkeys(key for run in runs for key in run.choices) if group not in NOT_COMPARED]
    return groups, sorted({key for run in runs for key in run.settings} - set(groups))


def _differ(runs: Sequence[FinishedRun], key: str) -> bool:
    return len({value_of(run, key) for run in runs}) > 1


def _gather(runs: Sequence[FinishedRun], keys: Sequence[str]) -> list[tuple[Values, list[FinishedRun]]]:
    """Runs by the values of the keys: numbers in ascending order, then names."""
    members: dict[Values, list[FinishedRun]] = {}
    for run in runs:
        members.setdefault(tuple(value_of(run, key) for key in keys), []).append(run)
    return sorted(members.items(), key=lambda item: list(map(_order, item[0])))


def _order(value: Any) -> tuple[bool, float, str]:
    return not is_number(value), value if is_number(value) else 0.0, str(value)
