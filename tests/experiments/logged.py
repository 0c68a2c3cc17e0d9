"""Reading back what loggers have written."""

import json
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_files import WandbRun, read_records, read_run


def table(run: WandbRun, key: str) -> list[list[Any]]:
    """The rows of a table that is in the summary."""
    content = json.loads((run.files / run.summary[key]["path"]).read_text())
    return content["data"]


def run_record(folder: Path) -> Any:
    """The newest run as it begins."""
    return next(record.run for record in read_records(folder) if record.HasField("run"))


def panels(folder: Path) -> dict[str, str]:
    """Kind of each chart of the newest run by key."""
    charts = read_run(folder).config["_wandb"]["visualize"]
    return {key: chart["panel_config"]["panelDefId"] for key, chart in charts.items()}


def read_tensorboard(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()
