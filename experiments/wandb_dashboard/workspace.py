"""The workspace of the study's W&B project: sections of panels over all runs, grouped by method."""

from typing import Any

import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from experiments.wandb_dashboard import keys
from experiments.wandb_dashboard.panels import (
    MOST_SHOWN,
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
)

COLUMNS = 3


def build_workspace(*, entity: str, project: str, name: str, data: str | None = None) -> ws.Workspace:
    """Lay out the workspace; nothing is saved, and nothing asked of the network.

    Runs are grouped by data set, network and way of mixing; lines and bars are means over a group's seeds, with one standard
    deviation.

    Args:
        entity: User or team that the project belongs to.
        project: The W&B project of the runs.
        name: Of the view, as shown in the list of views.
        data: Shows runs of this data set alone, an option of the group `data`; None: all.
    """
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            _section("Accuracy", [*learning_curves(), *accuracy_bars()], rows=3, is_open=True),
            _section("Calibration", [*calibration_curves(), *calibration_bars()]),
            _section("Mixing", [retained_saliency(), *mixing_curves(), *cost_curves(), mix_pictures()], rows=3),
            _section("Test in detail", [*detail_charts(), *detail_tables()], columns=2),
            _section("Robustness", [*robustness_bars(), *robustness_charts()]),
        ],
        settings=ws.WorkspaceSettings(x_axis=keys.EPOCH, max_runs=MOST_SHOWN),
        runset_settings=ws.RunsetSettings(
            filters="" if data is None else expr.And(of_data(data)),
            groupby=[expr.Config(key) for key in keys.GROUP],
            pinned_columns=[
                f"summary:{metric}"
                for metric in (keys.TEST_ACCURACY, keys.TEST_ACCURACY_MEDIAN, keys.TEST_CALIBRATION_ERROR)
            ],
        ),
    )


def of_data(data: str) -> expr.FilterExpr:
    """Select the runs of a data set."""
    group, option = keys.CHOSEN_DATA.split(".")
    # W&B stores a setting's value under "value", and filters, other than groups, want it spelt out.
    return expr.Config(f"{group}.value.{option}") == data


def _section(
    name: str, panels: list[Any], *, columns: int = COLUMNS, rows: int = 2, is_open: bool = False
) -> ws.Section:
    return ws.Section(
        name=name,
        panels=arrange(panels, columns=columns),
        is_open=is_open,
        layout_settings=ws.SectionLayoutSettings(columns=columns, rows=rows),
    )
