"""Build the W&B dashboard of the study: a workspace and a report, from code: `python -m experiments.dashboard`."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from rich import get_console
from rich.console import Console
from rich.text import Text
from rich.tree import Tree
from wandb.errors import Error as WandbError
from wandb.errors import UsageError

from experiments.common.atomic_files import write_json
from experiments.common.console import exit_with_error, print_plain
from experiments.common.errors import UserError
from experiments.wandb_dashboard.report import build_report
from experiments.wandb_dashboard.workspace import build_workspace

LOG_WIDTH = 200
PARTS = ("workspace", "report")
OUTPUT = "dashboard_{part}.json"
DESCRIPTION = (
    "Builds a workspace and a report in the W&B project of the study, which compare ways of mixing over seeds."
)
EPILOG = """\
Runs are grouped by data set, network and way of mixing; lines and bars are means over seeds, with one standard deviation. The
runs are those of `python -m experiments.train logger=wandb`, which may come before or after. Every call makes a new view and a
new report, so that nothing that someone has changed is overwritten; delete old ones at W&B.

examples:
  python -m experiments.dashboard --dry-run
  python -m experiments.dashboard
  python -m experiments.dashboard --entity my-team --project puzzlemix --data cifar100 --only report
"""
DRY = "--dry-run, which needs no account"

Parts = dict[str, ws.Workspace | wr.Report]


def build_parts(*, entity: str, project: str, name: str, data: str | None, only: str | None) -> Parts:
    """Build what was asked for, the report first: saving it makes the project where there is none yet.

    Args:
        entity: User or team that the project belongs to.
        project: The W&B project of the runs.
        name: Of the workspace's view.
        data: Data set whose runs are shown alone; None: all.
        only: "workspace" or "report"; None: both.
    """
    parts: Parts = {}
    if only != "workspace":
        parts["report"] = build_report(entity=entity, project=project, data=data)
    if only != "report":
        parts["workspace"] = build_workspace(entity=entity, project=project, name=name, data=data)
    return parts


def write_specs(parts: Parts, output: Path | None) -> list[Path]:
    """Write what W&B would be sent, as JSON.

    Args:
        parts: Workspace and report under their names.
        output: One file for all parts, an object of them; None: a file for each in the working directory.

    Returns:
        The files written.
    """
    # What save() sends is made by these two calls; the package has no public name for it.
    specs = {
        name: json.loads(part._to_model().model_dump_json(by_alias=True, exclude_none=True))
        for name, part in parts.items()
    }
    contents = (
        {Path(OUTPUT.format(part=name)): spec for name, spec in specs.items()} if output is None else {output: specs}
    )
    for path, content in contents.items():
        write_json(path, content)
    return list(contents)


def outline(part: ws.Workspace | wr.Report) -> Tree:
    """Sections and panels of a workspace or a report, with what each panel shows."""
    if isinstance(part, ws.Workspace):
        tree = Tree(Text(f"workspace: {part.name}"))
        sections = [(section.name, section.panels) for section in part.sections]
    else:
        tree = Tree(Text(f"report: {part.title}"))
        sections = list(_report_sections(part))
    for name, panels in sections:
        branch = tree.add(Text(name))
        for panel in panels:
            branch.add(Text(_describe(panel)))
    return tree


def _report_sections(report: wr.Report) -> Iterator[tuple[str, list[Any]]]:
    """Headings, each with the panels of all grids below it."""
    name, panels = "", list[Any]()
    for block in [*report.blocks, wr.H2()]:
        if isinstance(block, wr.H2):
            if name:
                yield name, panels
            name, panels = str(block.text), []
        elif isinstance(block, wr.PanelGrid):
            panels.extend(block.panels)


def _describe(panel: Any) -> str:
    """Kind and title of a panel and, on a second line, the names of what it shows."""
    shown: Sequence[Any]
    match panel:
        case wr.LinePlot():
            shown, over = panel.y, panel.x
        case wr.BarPlot():
            shown, over = panel.metrics, None
        case wr.ScatterPlot():
            shown, over = [panel.y], panel.x
        case wr.MediaBrowser():
            shown, over = panel.media_keys, None
        case wr.ParallelCoordinatesPlot():
            shown, over = [column.metric for column in panel.columns], None
        case wr.ParameterImportancePlot():
            shown, over = [panel.with_respect_to], None
        case wr.CustomChart():
            shown, over = [panel.query["summaryTable"]["tableKey"]], None
        case wr.WeavePanelSummaryTable():
            shown, over = [panel.table_name], None
        case _:
            shown, over = [], None
    title = panel.chart_strings["title"] if isinstance(panel, wr.CustomChart) else getattr(panel, "title", None)
    names = ", ".join(_name(metric) for metric in shown) + (f" over {_name(over)}" if over else "")
    head = f"{type(panel).__name__}: {title}" if title else type(panel).__name__
    return f"{head}\n{names}" if names else head


def _name(metric: Any) -> str:
    return metric if isinstance(metric, str) else metric.name


def find_entity(*, required: bool) -> str:
    """The default entity of the account that is logged in; "" if it has none and `required` is false.

    Raises:
        UserError: If W&B is switched off, nobody is logged in, or W&B cannot be reached.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise UserError(f"WANDB_MODE={mode} keeps W&B off the network: unset it, or use {DRY}")
    try:
        entity = wandb.Api().default_entity
    except UsageError as error:
        raise UserError(f"Not logged in to W&B: run `wandb login` or set WANDB_API_KEY, or use {DRY}") from error
    except WandbError as error:
        advice = f"Check the network, try `wandb login --relogin`, or use {DRY}"
        raise UserError(f"No access to W&B: {error}\n{advice}") from error
    if not entity and required:
        raise UserError("Your W&B account has no default entity: give --entity, your user name or that of a team")
    return entity or ""


def save(part: ws.Workspace | wr.Report) -> str:
    """Save at W&B.

    Returns:
        The URL.

    Raises:
        UserError: If W&B refuses or cannot be reached.
    """
    try:
        return str(part.save().url)
    # What is raised depends on the version of wandb, and is no public class.
    except Exception as error:
        raise UserError(
            f"W&B did not save the {type(part).__name__.lower()} in {part.entity}/{part.project}: {error}\n"
            "Does the project exist, and may you write to it? Runs with logger=wandb make it."
        ) from error


def run(console: Console, given: argparse.Namespace) -> None:
    """Write the dashboard to files, or save it at W&B.

    Raises:
        UserError: If it cannot be saved.
    """
    # Asked even where an entity is given: this tells whether W&B can be reached.
    account = "" if given.dry_run else find_entity(required=given.entity is None)
    entity = given.entity or account
    parts = build_parts(entity=entity, project=given.project, name=given.name, data=given.data, only=given.only)
    if not given.dry_run:
        for name, part in parts.items():
            print_plain(f"{name:<10} {save(part)}", console)
        return
    # In a log lines are not cut to the 80 columns that are assumed there.
    target = console if console.is_terminal else Console(file=console.file, width=LOG_WIDTH)
    for part in parts.values():
        target.print(outline(part), highlight=False)
    for path in write_specs(parts, given.output):
        print_plain(f"written    {path}", console)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user can put right ends in a message and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.dashboard",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--entity", help="user or team that the project belongs to; default: the account's own")
    parser.add_argument("--project", default="puzzlemix", help="the W&B project of the runs; default: puzzlemix")
    parser.add_argument("--name", default="Puzzle Mix", help="of the workspace's view; default: Puzzle Mix")
    parser.add_argument("--data", help="show runs of this data set alone, such as cifar100; default: all")
    parser.add_argument("--only", choices=PARTS, help="leave the other out")
    parser.add_argument("--dry-run", action="store_true", help="save nothing; print an outline and write the JSON")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="of --dry-run: one file for both; default: dashboard_*.json, here"
    )
    given = parser.parse_args(arguments)
    if given.output is not None and not given.dry_run:
        parser.error("--output belongs to --dry-run: without it the dashboard goes to W&B, not into a file")
    try:
        run(get_console(), given)
    except UserError as error:
        exit_with_error(str(error))


if __name__ == "__main__":
    main()
