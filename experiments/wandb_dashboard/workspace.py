"""The workspace of the study's W&B project: sections of panels over all runs, in groups that differ in the seed alone."""

import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from experiments.wandb_dashboard.panels import EPOCH, GROUP, MAX_RUNS, arrange, of_data, result_panels, training_panels

# Subjects of each section, its columns and its rows.
SECTIONS = {
    "Accuracy": (("learning", "accuracy"), 3, 3),
    "Calibration": (("calibration curves", "calibration"), 3, 2),
    "Mixing": (("retained saliency", "mixing", "cost", "images"), 3, 3),
    "Test in detail": (("test", "tables"), 2, 2),
    "Robustness": (("robustness", "robustness by run"), 3, 2),
}
PINNED = ("test_accuracy", "test_accuracy_median_last_10", "test_calibration_error")


def build_workspace(*, entity: str, project: str, name: str, data: str | None = None) -> ws.Workspace:
    """Build a view called `name` of a project, of the runs on the data set `data` (None: all)."""
    panels = training_panels() | result_panels()
    sections = [
        ws.Section(
            name=section,
            panels=arrange([panel for subject in subjects for panel in panels[subject]], columns=columns),
            is_open=section == "Accuracy",
            layout_settings=ws.SectionLayoutSettings(columns=columns, rows=rows),
        )
        for section, (subjects, columns, rows) in SECTIONS.items()
    ]
    runs = ws.RunsetSettings(
        filters="" if data is None else expr.And(of_data(data)),
        groupby=[expr.Config(key) for key in GROUP],
        pinned_columns=[f"summary:{metric}" for metric in PINNED],
    )
    settings = ws.WorkspaceSettings(x_axis=EPOCH, max_runs=MAX_RUNS)
    return ws.Workspace(
        entity=entity, project=project, name=name, sections=sections, settings=settings, runset_settings=runs
    )
