"""The W&B report of the study: methods compared over seeds, with explanations."""

from typing import Any

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from experiments.wandb_dashboard.panels import GROUP, arrange, result_panels, training_panels
from experiments.wandb_dashboard.workspace import of_data

TITLE = "Puzzle Mix: mixing methods compared"
DESCRIPTION = "Accuracy, calibration and robustness of mixing methods, as mean and standard deviation over seeds."
GROUPED, FINISHED, SINGLE = "Methods", "Methods, finished runs", "Single runs"
COMPARED = (
    "Image classifiers that differ only in how their training images are mixed: not at all, by input mixup, CutMix, manifold "
    "mixup or Puzzle Mix. A line or a bar is a group of runs with the same data set, network and mixing method. The runs of a "
    "group differ in their seed."
)
READING = [
    "Lines and bars are means over the seeds. The band, or the mark on a bar, is one standard deviation. A group of one run "
    "has none.",
    [
        wr.InlineCode("test_accuracy"),
        " is that of the last epoch: nothing was chosen on the test images. ",
        wr.InlineCode("test_accuracy_median_last_10"),
        " is the median of the last ten epochs, the metric of the paper's authors. The accuracy of the best epoch is not "
        "shown: it was chosen on the test images, and new images would be classified less well.",
    ],
    "Bars show finished runs only, curves also those that are running.",
    [
        "A group contains all of its runs, also those with other settings, for example of a sweep over ",
        wr.InlineCode("mix.config.beta"),
        ". Filter them out in the run set below the panels.",
    ],
    "The calibration error is the mean distance between confidence and accuracy.",
]
LEARNING = (
    "Mixed images are harder than test images: the training accuracy of a run that mixes is lower, and its training loss "
    "higher, than without mixing."
)
RETAINED = (
    "Puzzle Mix chooses mask and transport so that the salient parts of both images stay visible. The two lines show the "
    "fraction of the saliency that stays visible, and what a random CutMix box of the same area would retain on average."
)
SWEEPS = (
    "Every point is a run. A plot shows the runs that were given its setting: a default is not in a run's config. The accuracy "
    "is that on validation images, so that settings are not chosen on the test images; where a data set has no validation "
    "images, it is that on the test images, and the choice depends on them."
)


def build_report(*, entity: str, project: str, data: str | None = None) -> wr.Report:
    """Build a report on the runs of a project.

    Args:
        entity: User or team that the project belongs to.
        project: The W&B project of the runs.
        data: Compare runs of this data set alone; None: all.
    """
    panels: dict[str, list[Any]] = {**training_panels(), **result_panels()}

    def grid(runs: str, subject: str, columns: int, height: int = 8) -> wr.PanelGrid:
        # A run set has an id and belongs to one grid. It names no project: that would be looked up at W&B.
        filters = [] if data is None else [of_data(data)]
        filters += [expr.Metric("State") == "finished"] if runs == FINISHED else []
        groupby = [] if runs == SINGLE else [f"config.{key}" for key in GROUP]
        runset = wr.Runset(name=runs, filters=expr.And(*filters) if filters else "", groupby=groupby)
        return wr.PanelGrid(runsets=[runset], panels=arrange(panels[subject], columns=columns, height=height))

    blocks = [
        wr.TableOfContents(),
        *(wr.H2("Compared methods"), wr.P(COMPARED), wr.H2("How to read it"), wr.UnorderedList(items=READING)),
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
