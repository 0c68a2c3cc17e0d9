"""Build a workspace and a report in the W&B project of the runs with logger=wandb, which compare mixing methods over seeds.

Every call makes a new view and a new report, so that no edits are overwritten; delete old ones at W&B.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import Error as WandbError

from experiments.common import UserError, exit_with_error, print_plain, require, write_json

DRY = "--dry-run, which needs no account"


def write_specs(parts: Mapping[str, Any], output: Path | None) -> None:
    """Write what W&B would be sent as JSON: all parts to one file, or each to a file in the working directory."""
    # save() sends what these private calls make; there is no public way to get it without saving.
    models = {name: part._to_model() for name, part in parts.items()}
    specs = {name: model.model_dump(mode="json", by_alias=True, exclude_none=True) for name, model in models.items()}
    files = {output: specs} if output else {Path(f"dashboard_{name}.json"): spec for name, spec in specs.items()}
    for path, content in files.items():
        write_json(path, content)
        print_plain(f"written    {path}")


def find_entity(given: str | None) -> str:
    """Return the entity to save under, by default that of the account, having checked that W&B can be reached."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise UserError(f"WANDB_MODE={mode} keeps W&B off the network: unset it, or use {DRY}")
    try:
        entity = given or wandb.Api().default_entity
    except WandbError as error:
        raise UserError(f"No access to W&B ({error}): `wandb login`, set WANDB_API_KEY, or use {DRY}") from error
    if not entity:
        raise UserError("Your W&B account has no default entity: give --entity, your user name or that of a team")
    return entity


def run(options: argparse.Namespace) -> None:
    """Write the dashboard to files, or save it at W&B."""
    require("wandb-workspaces", "The dashboard")
    from experiments.wandb_dashboard.views import build_report, build_workspace

    entity = options.entity or "" if options.dry_run else find_entity(options.entity)
    project = {"entity": entity, "project": options.project, "data": options.data}
    # The report first: saving it creates the project if there is none yet.
    builders = {"report": build_report, "workspace": partial(build_workspace, name=options.name)}
    parts = {name: build(**project) for name, build in builders.items() if options.only in (None, name)}
    if options.dry_run:
        write_specs(parts, options.output)
        return
    for name, part in parts.items():
        try:
            print_plain(f"{name:<10} {part.save().url}")
        # The raised class depends on the version of wandb and is not public.
        except Exception as error:
            raise UserError(
                f"W&B did not save the {name} in {entity}/{options.project} ({error}): the project must exist and you must be "
                "allowed to write to it; runs with logger=wandb create it"
            ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what the user can correct ends in a message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m experiments.dashboard", description=__doc__)
    parser.add_argument("--entity", help="user or team that the project belongs to; default: the account's own")
    parser.add_argument("--project", default="puzzlemix", help="W&B project of the runs; default: puzzlemix")
    parser.add_argument("--name", default="Puzzle Mix", help="name of the workspace's view; default: Puzzle Mix")
    parser.add_argument("--data", help="show runs of this data set alone, such as cifar100; default: all")
    parser.add_argument("--only", choices=("workspace", "report"), help="build only this part")
    parser.add_argument("--dry-run", action="store_true", help="write the specs as JSON instead of saving them at W&B")
    output = "file of --dry-run for both parts; default: dashboard_*.json in the working directory"
    parser.add_argument("--output", type=Path, metavar="FILE", help=output)
    options = parser.parse_args(arguments)
    if options.output is not None and not options.dry_run:
        parser.error("--output belongs to --dry-run: without it the dashboard is saved at W&B, not in a file")
    try:
        run(options)
    except UserError as error:
        exit_with_error(str(error))


if __name__ == "__main__":
    main()
