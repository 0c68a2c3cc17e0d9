"""Reading `logs/metrics.csv`, which Lightning's CSVLogger writes."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.common import UserError

Values = npt.NDArray[np.float64]
# Epoch, optimizer step, value.
Point = tuple[float, float, float]


class Curve(NamedTuple):
    """Values `y` (n,) after `x` (n,) epochs, ascending; 1.5 is the middle of the second epoch."""

    x: Values
    y: Values


class Metrics(NamedTuple):
    """Number of finished training epochs; metrics of epochs by name, metrics of steps by callback and name."""

    epochs: int
    by_epoch: Mapping[str, Curve]
    by_step: Mapping[str, Mapping[str, Curve]]


def read_metrics(path: Path) -> Metrics:
    """Read the file; without one, or without a line in it, there are no metrics.

    Raises:
        UserError: If it is not such a file.
    """
    points: dict[str, list[Point]] = {}
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        # The last line of a running training may be incomplete.
        if rows and None in rows[-1].values():
            rows.pop()
        for row in rows:
            epoch, step = float(row.pop("epoch")), float(row.pop("step"))
            for name in filter(row.get, row):
                points.setdefault(name, []).append((epoch, step, float(row[name])))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} cannot be read ({reason}); move it away for a report without curves") from error
    return _arrange(points)


def _arrange(points: Mapping[str, Sequence[Point]]) -> Metrics:
    # Optimizer steps by the end of each finished epoch.
    ends = {epoch + 1: step + 1 for epoch, step, _ in points.get("train_loss", ())}
    epochs = int(max(ends, default=0))
    by_epoch: dict[str, Curve] = {}
    by_step: dict[str, dict[str, Curve]] = {}
    for name, values in points.items():
        callback, _, metric = name.rpartition("/")
        if callback:
            steps = np.array([step + 1 for _, step, _ in values])
            by_step.setdefault(callback, {})[metric] = Curve(_epochs_at(steps, ends), np.array([y for *_, y in values]))
        else:
            # The test at the end is logged as an epoch of its own. Of an epoch that was logged twice the last line counts.
            last = {epoch + 1: y for epoch, _, y in values if epoch < epochs} or {max(epochs, 1): values[-1][2]}
            by_epoch[name] = Curve(*np.array(sorted(last.items()), dtype=float).T)
    return Metrics(epochs, by_epoch, by_step)


def _epochs_at(steps: Values, ends: Mapping[float, float]) -> Values:
    """Epochs that are over after each number of steps; the unfinished epoch is assumed to be as long as the others."""
    epochs, known = np.array([(0, 0), *sorted(ends.items() or {1: steps.max() + 1}.items())], dtype=float).T
    return np.interp(steps, known, epochs) + np.maximum(steps - known[-1], 0) * epochs[-1] / known[-1]
