"""The workspace and the report of the study's W&B project: methods compared over seeds, as panels and with explanations."""

from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from experiments.wandb_dashboard.panels import EPOCH, GROUP, MAX_RUNS, PANELS, arrange

TITLE = "Puzzle Mix: mixing methods compared"
DESCRIPTION = "Accuracy, calibration and robustness of mixing methods, as mean and standard deviation over seeds."
GROUPED, FINISHED, SINGLE = "Methods", "Methods, finished runs", "Single runs"
# Grids of panels below the text of each section of `report.md`: runs, subject, columns, height.
GRIDS = {
    "Test accuracy": [(FINISHED, "accuracy", 3, 8)],
    "Learning curves": [(GROUPED, "learning", 3, 8)],
    "Calibration": [(FINISHED, "calibration", 2, 8), (GROUPED, "calibration curves", 2, 8)],
    "Mixing": [(GROUPED, "retained saliency", 1, 12), (GROUPED, "mixing", 3, 8), (GROUPED, "images", 1, 18)],
    "Cost": [(GROUPED, "cost", 3, 8)],
    "Test in detail": [(SINGLE, "test", 2, 12), (SINGLE, "tables", 1, 12)],
    "Robustness": [(FINISHED, "robustness", 3, 8), (SINGLE, "robustness by run", 3, 12)],
    "Hyperparameters": [(SINGLE, "sweeps", 3, 8)],
    "Comparison of runs": [(SINGLE, "comparison", 1, 18)],
}
# Subjects of each section of the workspace, its columns and its rows.
SECTIONS = {
    "Accuracy": (("learning", "accuracy"), 3, 3),
    "Calibration": (("calibration curves", "calibration"), 3, 2),
    "Mixing": (("retained saliency", "mixing", "cost", "images"), 3, 3),
    "Test in detail": (("test", "tables"), 2, 2),
    "Robustness": (("robustness", "robustness by run"), 3, 2),
}
PINNED = [f"summary:test_{metric}" for metric in ("accuracy", "accuracy_median_last_10", "calibration_error")]


def _select(data: str | None, *others: expr.FilterExpr) -> Any:
    """The filter of the runs on a data set (None: of all), for which the others hold too."""
    # W&B stores a setting under "value"; unlike groups, filters must name it.
    filters = [*([] if data is None else [expr.Config("choices.value.data") == data]), *others]
    return expr.And(*filters) if filters else ""


def build_report(*, entity: str, project: str, data: str | None = None) -> wr.Report:
    """Build a report on the runs of a project, of those on the data set `data` (None: all)."""

    def grid(runs: str, subject: str, columns: int, height: int) -> wr.PanelGrid:
        # A run set has an id and belongs to one grid. It names no project: that would be looked up at W&B.
        filters = _select(data, *([expr.Metric("State") == "finished"] if runs == FINISHED else []))
        groupby = [] if runs == SINGLE else [f"config.{key}" for key in GROUP]
        runset = wr.Runset(name=runs, filters=filters, groupby=groupby)
        return wr.PanelGrid(runsets=[runset], panels=arrange(PANELS[subject], columns=columns, height=height))

    blocks: list[Any] = [wr.TableOfContents()]
    for section in Path(__file__).with_name("report.md").read_text(encoding="utf-8").split("## ")[1:]:
        heading, _, text = section.partition("\n")
        blocks += [wr.H2(heading), *([wr.MarkdownBlock(text.strip())] if text.strip() else [])]
        blocks += [grid(*each) for each in GRIDS.get(heading, [])]
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
    groupby = [expr.Config(key) for key in GROUP]
    settings = {
        "settings": ws.WorkspaceSettings(x_axis=EPOCH, max_runs=MAX_RUNS),
        "runset_settings": ws.RunsetSettings(filters=_select(data), groupby=groupby, pinned_columns=PINNED),
    }
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections, **settings)
