"""The W&B report of the study: methods compared over seeds, with the words that tell how to read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from experiments.wandb_dashboard import keys
from experiments.wandb_dashboard.panels import (
    TALL,
    TALLER,
    accuracy_bars,
    arrange,
    calibration_bars,
    calibration_curves,
    cost_curves,
    detail_charts,
    detail_tables,
    learning_curves,
    mix_pictures,
    mixing_curves,
    retained_saliency,
    robustness_bars,
    robustness_charts,
    run_comparer,
    sweep_panels,
)
from experiments.wandb_dashboard.workspace import of_data

TITLE = "Puzzle Mix: ways of mixing compared"
DESCRIPTION = "Accuracy, calibration and robustness of the ways of mixing, as mean and standard deviation over seeds."


def build_report(*, entity: str, project: str, data: str | None = None) -> wr.Report:
    """Lay out the report; nothing is saved, and nothing asked of the network.

    Args:
        entity: User or team that the project belongs to.
        project: The W&B project of the runs; the report's run sets are those of this project.
        data: Compares runs of this data set alone, an option of the group `data`; None: all.
    """
    runs = _Runs(data)
    return wr.Report(
        entity=entity,
        project=project,
        title=TITLE if data is None else f"{TITLE}, {data}",
        description=DESCRIPTION,
        width="fluid",
        blocks=[
            wr.TableOfContents(),
            *_introduction(),
            *_accuracy(runs),
            *_calibration(runs),
            *_mixing(runs),
            *_detail(runs),
            *_sweeps(runs),
        ],
    )


@dataclass(frozen=True)
class _Runs:
    """Sets of runs of the report's own project: named, it would have to be looked up at W&B."""

    data: str | None

    def finished(self) -> wr.Runset:
        return self._select("Methods, finished runs", expr.Metric("State") == "finished", grouped=True)

    def methods(self) -> wr.Runset:
        return self._select("Methods", grouped=True)

    def single(self) -> wr.Runset:
        return self._select("Single runs", grouped=False)

    def _select(self, name: str, *filters: expr.FilterExpr, grouped: bool) -> wr.Runset:
        # A new one each time: it has an id, and belongs to one grid.
        wanted = filters if self.data is None else (of_data(self.data), *filters)
        groupby = [f"config.{key}" for key in keys.GROUP] if grouped else []
        return wr.Runset(name=name, filters=expr.And(*wanted) if wanted else "", groupby=groupby)


def _grid(runset: wr.Runset, panels: Sequence[Any], *, columns: int, **layout: int) -> wr.PanelGrid:
    return wr.PanelGrid(runsets=[runset], panels=arrange(panels, columns=columns, **layout))


def _introduction() -> list[Any]:
    return [
        wr.H2("What is compared"),
        wr.P(
            "Image classifiers that were trained in the same way except for how their training images are mixed: not at all, "
            "by input mixup, CutMix, manifold mixup or Puzzle Mix. A line or a bar is a group of runs: one data set, one "
            "network, one way of mixing. The runs of a group differ in their seed."
        ),
        wr.H2("How to read it"),
        wr.UnorderedList(
            items=[
                "Lines and bars are means over the seeds. The band, or the mark on a bar, is one standard deviation. A group "
                "of one run has none.",
                [
                    wr.InlineCode(keys.TEST_ACCURACY),
                    " is that of the last epoch: nothing was chosen on the test images. ",
                    wr.InlineCode(keys.TEST_ACCURACY_MEDIAN),
                    " is the median of the last ten epochs, the figure of the paper's authors. The accuracy of the best "
                    "epoch is not shown: it was chosen on the test images, so new images would be classified less well.",
                ],
                "Bars show finished runs alone, curves also those that are running.",
                [
                    "A group takes in all of its runs, also those with other settings, such as those of a sweep over ",
                    wr.InlineCode("mix.config.beta"),
                    ". Where there are some, filter them out in the run set below the panels.",
                ],
                "The calibration error is the mean distance of confidence and accuracy: 0 is a model that knows how "
                "often it is right.",
            ]
        ),
    ]


def _accuracy(runs: _Runs) -> list[Any]:
    return [
        wr.H2("Test accuracy"),
        _grid(runs.finished(), accuracy_bars(), columns=3),
        wr.H2("Learning curves"),
        wr.P(
            "Mixed images are harder than those of the test, so the training accuracy of a run that mixes is lower, and its "
            "training loss higher, than without mixing."
        ),
        _grid(runs.methods(), learning_curves(), columns=3),
    ]


def _calibration(runs: _Runs) -> list[Any]:
    return [
        wr.H2("Calibration"),
        _grid(runs.finished(), calibration_bars(), columns=2),
        _grid(runs.methods(), calibration_curves(), columns=2),
    ]


def _mixing(runs: _Runs) -> list[Any]:
    return [
        wr.H2("What the mixing does"),
        wr.P(
            "Puzzle Mix chooses mask and moves so that the salient parts of both images stay visible. How well that works is "
            "the distance of the two lines: the share of the images' saliency that stays visible, and what a random CutMix "
            "box of the same area would keep on average."
        ),
        _grid(runs.methods(), [retained_saliency()], columns=1, height=TALL),
        _grid(runs.methods(), mixing_curves(), columns=3),
        _grid(runs.methods(), [mix_pictures()], columns=1, height=TALLER),
        wr.H2("What it costs"),
        _grid(runs.methods(), cost_curves(), columns=3),
    ]


def _detail(runs: _Runs) -> list[Any]:
    return [
        wr.H2("The test in detail"),
        wr.P("Run by run. Hide runs in the run set to compare a few."),
        _grid(runs.single(), detail_charts(), columns=2, height=TALL),
        _grid(runs.single(), detail_tables(), columns=1, height=TALL),
        wr.H2("Robustness"),
        wr.P(["Of runs that ", wr.InlineCode("python -m experiments.evaluate"), " has been run for."]),
        _grid(runs.finished(), robustness_bars(), columns=3),
        _grid(runs.single(), robustness_charts(), columns=3, height=TALL),
    ]


def _sweeps(runs: _Runs) -> list[Any]:
    return [
        wr.H2("Hyperparameters"),
        wr.P(
            "Every run is a point. A plot shows the runs that were given its setting: a default is not in a run's config. The "
            "validation accuracy counts, so that settings are not chosen on the test images; where a data set has no "
            "validation images, the test images take their place, and the choice is theirs."
        ),
        _grid(runs.single(), sweep_panels(), columns=3),
        wr.H2("Runs side by side"),
        _grid(runs.single(), [run_comparer()], columns=1, height=TALLER),
    ]
