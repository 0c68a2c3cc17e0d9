"""Runs of the same setting as one group, with mean and standard deviation; methods compared by pairs of runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy import stats

from experiments.common import UserError, key_of
from experiments.sweep_results.runs import FinishedRun

CONFIDENCE = 0.95
Values = tuple[Any, ...]
FGSM = "fgsm_"
# Groups whose options and settings make a method.
METHOD = ("mix", "ablation")
PAIRS = "pairs of runs\nwith the same seed and the same settings but for the mixing"


class Metric(NamedTuple):
    """How a score is shown: heading, factor from the unit of `summary.json`, digits."""

    title: str
    factor: float = 100.0
    digits: int = 2

    def format(self, score: float | None, sign: str = "") -> str:
        """A score in the unit shown; with the sign "+" also of what is positive."""
        return "-" if score is None else f"{self.factor * score:{sign}.{self.digits}f}"


# Line breaks keep the columns narrow.
METRICS = {
    "accuracy": Metric("accuracy %"), "median_last_10": Metric("median of\nlast 10 %"), "best": Metric("best\nepoch %"),
    "top5": Metric("top-5 %"), "calibration_error": Metric("calibration\nerror %"), "nll": Metric("nll", 1.0, 3),
    "epoch_seconds": Metric("seconds\nan epoch", 1.0, 1), "val_accuracy": Metric("validation\naccuracy %"),
}  # fmt: skip


def metric_of(name: str) -> Metric:
    """How a score is shown: one of METRICS, or the accuracy of an evaluation, "fgsm_4" or "fgsm_4_last"."""
    eps, _, checkpoint = name.removeprefix(FGSM).partition("_")
    return METRICS.get(name) or Metric(f"FGSM {eps}/255\n{checkpoint} %".replace("\n ", " "))


class Statistics(NamedTuple):
    """Of some values: standard deviation with n-1, and confidence interval by Student's t; None: there are too few."""

    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistics":
        """Of any number of values."""
        if len(values) < 2:
            return cls(len(values), *values)
        mean, sd = fmean(values), stdev(values)
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * sd / len(values) ** 0.5
        return cls(len(values), mean, sd, mean - half, mean + half)

    def show(self, metric: Metric, *, signed: bool) -> str:
        """Mean and standard deviation; with signs and the interval if it is of differences."""
        mean, low, high = (metric.format(value, "+" if signed else "") for value in (self.mean, self.low, self.high))
        if not signed:
            return f"{mean} ± {metric.format(self.sd)}" if self.n else "-"
        interval = f" ± {metric.format(self.sd)}\n[{low}, {high}] from" if self.n > 1 else "\nno interval from"
        return f"{mean}{interval} {self.n}"


class Group(NamedTuple):
    """Runs that agree in the values of the keys, and a row of a table."""

    values: Values
    label: str  # tells the group from the others
    runs: Sequence[FinishedRun]
    notes: Mapping[str, Any]  # cells between those of the keys and those of the metrics, by heading
    scores: Mapping[str, Statistics]  # by metric, in the units of `summary.json`


class Comparison(NamedTuple):
    """Runs in groups, which differ in the keys: Hydra groups and dotted settings."""

    title: str
    keys: Sequence[str]
    names: Sequence[str]  # the keys in short
    groups: Sequence[Group]  # numbers in ascending order, then names
    metrics: Sequence[str]  # that at least one run has
    reference: str | None = None  # scores are paired differences to this method


def compare_runs(runs: Sequence[FinishedRun], by: Sequence[str] = ()) -> Comparison:
    """Group runs, at least one, `by` Hydra groups and settings; by default by all that differ, except the seed."""
    keys = [_find_key(runs, name) for name in by] or _differing_keys(runs)
    ends = [key.split(".")[-1] for key in keys]
    names = [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]
    known = {name for run in runs for name in run.scores}
    metrics = [*filter(known.__contains__, METRICS), *sorted(name for name in known if name.startswith(FGSM))]
    groups = []
    for values, members in _gather(runs, keys):
        seeds = " ".join(map(str, sorted({run.summary.seed for run in members})))
        scores = {name: Statistics.of([run.scores[name] for run in members if name in run.scores]) for name in metrics}
        label = label_of(names, values) or "all runs"
        groups.append(Group(values, label, members, {"seeds": seeds, "runs": len(members)}, scores))
    return Comparison(f"{len(runs)} runs, mean ± standard deviation", keys, names, groups, metrics)


def compare_pairs(comparison: Comparison, reference: str | None = None) -> Comparison | None:
    """Differences of all other methods to the reference, over pairs of runs with the same seed and settings outside `mix`.

    A method is the values of `mix` and its settings among the keys. The reference is named by its label or one of its values;
    by default it is "none" if there is such a method, else the first. None: there is one method only, and no name given.
    """
    mixing = [index for index, key in enumerate(comparison.keys) if key.split(".")[0] in METHOD]
    names, methods = [comparison.names[index] for index in mixing], defaultdict(list)
    for group in comparison.groups:
        methods[tuple(group.values[index] for index in mixing)].append(group)
    if len(methods) < 2:
        if reference is None:
            return None
        raise UserError(f"--reference {reference} has nothing to be compared with: the groups do not differ in mix")
    labels = {method: label_of(names, method) for method in methods}
    found = [each for each, label in labels.items() if (reference or "none") in (label, *map(format_value, each))]
    if reference is not None and len(found) != 1:
        known = "; ".join(labels.values())
        raise UserError(f"--reference {reference} is {len(found)} of the methods; give one of {known}")
    chosen = [*found, *labels][0]
    base = [run for group in methods.pop(chosen) for run in group.runs]
    metrics = [name for name in comparison.metrics if name.startswith(("accuracy", "calibration_error", FGSM))]
    groups = []
    for group in chain.from_iterable(methods.values()):
        scores = {}
        for name in metrics:
            own, other = _means_by_pair(group.runs, name), _means_by_pair(base, name)
            scores[name] = Statistics.of([own[pair] - other[pair] for pair in own if pair in other])
        groups.append(group._replace(notes={"reference": labels[chosen]}, scores=scores))
    title = f"Difference to {labels[chosen]}: mean ± standard deviation, [{CONFIDENCE:.0%} confidence interval] from n {PAIRS}"
    return comparison._replace(title=title, groups=groups, metrics=metrics, reference=labels[chosen])


def _means_by_pair(runs: Sequence[FinishedRun], metric: str) -> dict[Values, float]:
    """Scores by seed and all settings outside `mix`, the mean of a run that was repeated; an experiment is its settings."""
    found: dict[Values, list[float]] = {}
    for run in runs:
        equal = {key: value for key, value in run.settings.items() if key.split(".")[0] not in (*METHOD, "experiment")}
        pair = (run.summary.seed, *sorted(map(str, equal.items())))
        found.setdefault(pair, []).extend([run.scores[metric]] if metric in run.scores else [])
    return {pair: fmean(scores) for pair, scores in found.items() if scores}


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
    given = {key for run in runs for key in [*run.summary.choices, *map(key_of, run.summary.overrides)]}
    differing = [key for key in _all_keys(runs) if len(_gather(runs, [key])) > 1]
    keys = [key for key in differing if key in given]
    for _, members in _gather(runs, keys):
        keys += [key for key in differing if key not in keys and len(_gather(members, [key])) > 1]
    return keys


def _find_key(runs: Sequence[FinishedRun], name: str) -> str:
    """The key that ends with the name: "mix.config.beta" for "beta"."""
    known = _all_keys(runs)
    fitting = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    if len(fitting) != 1:
        found = ", ".join(fitting) or "no group or setting of these runs"
        differing = ", ".join(_differing_keys(runs)) or "nothing but the seed"
        raise UserError(f"--by {name} is {found}; the runs differ in {differing}")
    return fitting[0]


def _all_keys(runs: Sequence[FinishedRun]) -> list[str]:
    keys = {key for run in runs for key in run.settings}
    groups = dict.fromkeys(group for run in runs for group in run.summary.choices if group in keys)
    return [*groups, *sorted(keys - set(groups))]


def _gather(runs: Sequence[FinishedRun], keys: Sequence[str]) -> list[tuple[Values, list[FinishedRun]]]:
    """Runs by the values of the keys: numbers in ascending order, then names."""
    members: dict[Values, list[FinishedRun]] = {}
    for run in runs:
        members.setdefault(tuple(run.value(key) for key in keys), []).append(run)
    return sorted(members.items(), key=lambda item: [(0, v, "") if is_number(v) else (1, 0, str(v)) for v in item[0]])
