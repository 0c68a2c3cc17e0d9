"""Reading `logs/metrics.csv`: one value an epoch for some figures, one a logging step for others."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.common.errors import UserError

METRICS = Path("logs") / "metrics.csv"

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Values over time.

    Args:
        x: (n,) epochs that were over by then, ascending; 1.5 is the middle of the second epoch.
        y: (n,) values in the logged unit; NaN where NaN was logged.
    """

    x: Values
    y: Values


@dataclass(frozen=True)
class Metrics:
    """What a run has logged.

    Args:
        epochs: Training epochs that are over.
        by_epoch: Figures of the epochs, by name; one that was only measured by the test at the end is a single point there.
        by_step: Figures of the logging steps, which a mixing callback names `<callback>/<figure>`.
    """

    epochs: int
    by_epoch: Mapping[str, Curve]
    by_step: Mapping[str, Curve]


def read_metrics(path: Path) -> Metrics | None:
    """Read the file that Lightning's CSVLogger writes; None: there is none yet, or no line in it.

    Raises:
        UserError: If it is not such a file.
    """
    if not path.is_file():
        return None
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        # A running training may be about to write the last line.
        if rows and None in rows[-1].values():
            rows.pop()
        columns = {
            key: np.array([float(row[key]) if row[key] else np.nan for row in rows])
            for key in (rows[0] if rows else ())
        }
        given = {key: np.array([bool(row[key]) for row in rows]) for key in columns}
        return _arrange(columns, given) if rows else None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}); move it away for a report without curves"
        ) from error


def _arrange(columns: Mapping[str, Values], given: Mapping[str, npt.NDArray[np.bool_]]) -> Metrics:
    epoch, step = columns["epoch"], columns["step"]
    trained = given.get("train_loss", np.zeros(len(epoch), dtype=bool))
    # Optimizer steps that were made by the end of each finished epoch.
    ends = {int(each): last + 1 for each, last in zip(epoch[trained], step[trained], strict=True)}
    epochs = 1 + max(ends, default=-1)
    names = [name for name in columns if name not in ("epoch", "step")]
    by_epoch, by_step = {}, {}
    for name in names:
        x, y = epoch[given[name]], columns[name][given[name]]
        if "/" in name:
            by_step[name] = Curve(_moments(x, step[given[name]] + 1, ends), y)
        else:
            by_epoch[name] = _epoch_curve(x, y, epochs)
    return Metrics(
        epochs,
        {name: curve for name, curve in by_epoch.items() if len(curve.x)},
        {name: curve for name, curve in by_step.items() if len(curve.x)},
    )


def _epoch_curve(epoch: Values, y: Values, epochs: int) -> Curve:
    # The test at the end counts as an epoch of its own, which repeats the last where that was tested too.
    kept = epoch < epochs
    if not kept.any():
        epoch, kept = np.full_like(epoch, max(epochs - 1, 0)), np.ones_like(kept)
    # Of an epoch that was written twice the last line counts.
    last = dict(zip(epoch[kept], y[kept], strict=True))
    order = sorted(last)
    return Curve(np.array(order) + 1, np.array([last[each] for each in order]))


def _moments(epoch: Values, steps: Values, ends: Mapping[int, float]) -> Values:
    """Epochs that are over when so many steps are made; the unfinished last epoch is taken to be as long as the others."""
    known = sorted(ends)
    if not known:
        # No epoch is over: all that is known is the order.
        return epoch + steps / (steps.max() + 1)
    at, over = [0.0, *(ends[each] for each in known)], [float(known[0]), *(each + 1.0 for each in known)]
    length = (at[-1] - at[0]) / (over[-1] - over[0]) if over[-1] > over[0] else 1.0
    moments = np.interp(steps, at, over)
    beyond = steps > at[-1]
    moments[beyond] = over[-1] + (steps[beyond] - at[-1]) / max(length, 1.0)
    return moments
