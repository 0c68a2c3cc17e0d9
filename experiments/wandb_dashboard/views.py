"""The workspace and the report of the study's W&B project: methods compared over seeds, as panels and with explanations."""

from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from experiments.wandb_dashboard.panels import EPOCH, GROUP, MAX_RUNS, PANELS, arrange

TITLE = "Puzzle Mix: mixing methods compared"
DESCRIPTION = "Accuracy, calibration and robustness of mixing methods, as mean and standard deviation over seeds."
GROUPED, FINISHED, SINGLE = "Methods", "Methods, finished runs", "Single runs"
COMPARED = (
    "Image classifiers that differ only in how their training images are mixed: not at all, by input mixup, CutMix, manifold "
    "mixup or Puzzle Mix. A line or a bar is the mean of a group of runs with the same data set, network and mixing method, "
    "which differ in their seed, with one standard deviation as a band or a mark."
)
READING = [
    "test_accuracy is that of the last epoch: nothing was chosen on the test images. test_accuracy_median_last_10 is the "
    "median of the last ten epochs, the metric of the paper's authors. The accuracy of the best epoch is not shown: it was "
    "chosen on the test images, and new images would be classified less well.",
    "Bars show finished runs only, curves also those that are running.",
    "A group contains all of its runs, also those with other settings, for example of a sweep over mix.config.beta. Filter "
    "them out in the run set below the panels.",
    "The calibration error is the mean distance between confidence and accuracy.",
]
LEARNING = (
    "Mixed images are harder: with mixing the training accuracy is lower, and the training loss higher, than without."
)
RETAINED = (
    "Puzzle Mix chooses mask and transport so that the salient parts of both images stay visible: the fraction of the saliency "
    "that does, and what a random CutMix box of the same area would retain on average."
)
SWEEPS = (
    "Every point is a run that was given the setting: a default is not in a run's config. The accuracy is that on validation "
    "images or, where a data set has none, on the test images, and the choice then depends on them."
)
# Subjects of each section, its columns and its rows.
SECTIONS = {
    "Accuracy": (("learning", "accuracy"), 3, 3),
    "Calibration": (("calibration curves", "calibration"), 3, 2),
    "Mixing": (("retained saliency", "mixing", "cost", "images"), 3, 3),
    "Test in detail": (("test", "tables"), 2, 2),
    "Robustness": (("robustness", "robustness by run"), 3, 2),
}
PINNED = ("test_accuracy", "test_accuracy_median_last_10", "test_calibration_error")


def _select(data: str | None, *others: expr.FilterExpr) -> Any:
    """The filter of the runs on a data set (None: of all), for which the others hold too."""
    # W&B stores a setting under "value"; unlike groups, filters must name it.
    filters = [*([] if data is None else [expr.Config("choices.value.data") == data]), *others]
    return expr.And(*filters) if filters else ""


def build_report(*, entity: str, project: str, data: str | None = None) -> wr.Report:
    """Build a report on the runs of a project, of those on the data set `data` (None: all)."""

    def grid(runs: str, subject: str, columns: int, height: int = 8) -> wr.PanelGrid:
        # A run set has an id and belongs to one grid. It names no project: that would be looked up at W&B.
        filters = _select(data, *([expr.Metric("State") == "finished"] if runs == FINISHED else []))
        groupby = [] if runs == SINGLE else [f"config.{key}" for key in GROUP]
        runset = wr.Runset(name=runs, filters=filters, groupby=groupby)
        return wr.PanelGrid(runsets=[runset], panels=arrange(PANELS[subject], columns=columns, height=height))

    blocks = [
        wr.TableOfContents(),
        *(wr.H2("Compared methods"), wr.P(COMPARED), wr.UnorderedList(items=READING)),
        *(wr.H2("Test accuracy"), grid(FINISHED, "accuracy", 3)),
        *(wr.H2("Learning curves"), wr.P(LEARNING), grid(GROUPED, "learning", 3)),
        *(wr.H2("Calibration"), grid(FINISHED, "calibration", 2), grid(GROUPED, "calibration curves", 2)),
        *(wr.H2("Mixing"), wr.P(RETAINED), grid(GROUPED, "retained saliency", 1, 12), grid(GROUPED, "mixing", 3)),
        grid(GROUPED, "images", 1, 18),
        *(wr.H2("Cost"), grid(GROUPED, "cost", 3)),
        *(wr.H2("Test in detail"), wr.P("Run by run. Hide runs in the run set to compare a few.")),
        *(grid(SINGLE, "test", 2, 12), grid(SINGLE, "tables", 1, 12)),
        *(wr.H2("Robustness"), wr.P(["Of runs evaluated by ", wr.InlineCode("python -m experiments.evaluate"), "."])),
        *(grid(FINISHED, "robustness", 3), grid(SINGLE, "robustness by run", 3, 12)),
        *(wr.H2("Hyperparameters"), wr.P(SWEEPS), grid(SINGLE, "sweeps", 3)),
        *(wr.H2("Comparison of runs"), grid(SINGLE, "comparison", 1, 18)),
    ]
    title = TITLE if data is None else f"{TITLE}, {data}"
    return wr.Report(entity=entity, project=project, title=title, description=DESCRIPTION, width="fluid", blocks=blocks)


def build_workspace(*, entity: str, project: str, name: str, data: str | None = None) -> ws.Workspace:
    """Build a view called `name` of a project, of the runs on the data set `data` (None: all)."""
    sections = [
        ws.Section(
            name=section,
            panels=arrange([panel for subject in subjects for panel in PANELS[subject]], columns=columns),
            is_open=section == "Accuracy",
            layout_settings=ws.SectionLayoutSettings(columns=columns, rows=rows),
        )
        for section, (subjects, columns, rows) in SECTIONS.items()
    ]
    runs = ws.RunsetSettings(
        filters=_select(data),
        groupby=[expr.Config(key) for key in GROUP],
        pinned_columns=[f"summary:{metric}" for metric in PINNED],
    )
    settings = ws.WorkspaceSettings(x_axis=EPOCH, max_runs=MAX_RUNS)
    return ws.Workspace(
        entity=entity, project=project, name=name, sections=sections, settings=settings, runset_settings=runs
    )
