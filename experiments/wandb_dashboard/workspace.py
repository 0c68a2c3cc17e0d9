"""The workspace of the study's W&B project: sections of panels over all runs, in groups that differ in the seed alone."""

from typing import Any

import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from experiments.wandb_dashboard.panels import (
    DATA,
    EPOCH,
    GROUP,
    MOST_SHOWN,
    arrange,
    result_panels,
    training_panels,
)

# Names of panels in each section, its columns and its rows.
SECTIONS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "Accuracy": (("learning", "accuracy"), 3, 3),
    "Calibration": (("calibration curves", "calibration"), 3, 2),
    "Mixing": (("retained saliency", "mixing", "cost", "images"), 3, 3),
    "Test in detail": (("test", "tables"), 2, 2),
    "Robustness": (("robustness", "robustness by run"), 3, 2),
}


def build_workspace(*, entity: str, project: str, name: str, data: str | None = None) -> ws.Workspace:
    """Build a view of a project.

    Args:
        entity: User or team that the project belongs to.
        project: The W&B project of the runs.
        name: Of the view.
        data: Show runs of this data set alone; None: all.
    """
    panels: dict[str, list[Any]] = {**training_panels(), **result_panels()}
    sections = [
        ws.Section(
            name=section,
            panels=arrange([panel for subject in subjects for panel in panels[subject]], columns=columns),
            is_open=section == "Accuracy",
            layout_settings=ws.SectionLayoutSettings(columns=columns, rows=rows),
        )
        for section, (subjects, columns, rows) in SECTIONS.items()
    ]
    pinned = ("test_accuracy", "test_accuracy_median_last_10", "test_calibration_error")
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=EPOCH, max_runs=MOST_SHOWN),
        runset_settings=ws.RunsetSettings(
            filters="" if data is None else expr.And(of_data(data)),
            groupby=[expr.Config(key) for key in GROUP],
            pinned_columns=[f"summary:{metric}" for metric in pinned],
        ),
    )


def of_data(data: str) -> expr.FilterExpr:
    """Select the runs of a data set."""
    group, option = DATA.split(".")
    # W&B stores a setting under "value"; unlike groups, filters must name it.
    return expr.Config(f"{group}.value.{option}") == data
