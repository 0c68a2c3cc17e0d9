"""Reading back what loggers have written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record
from wandb_files import WandbRun, _messages


def table(run: WandbRun, key: str) -> list[list[Any]]:
    """The rows of a table that is in the summary."""
    content = json.loads((run.files / run.summary[key]["path"]).read_text())
    return content["data"]


def records(folder: Path) -> Iterator[Any]:
    """What W&B is told, in its order, by the newest program that told it anything."""
    log = max(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    for message in _messages(log.read_bytes()):
        record = Record()
        record.ParseFromString(message)
        yield record


def run_record(folder: Path) -> Any:
    """The newest run as it begins."""
    return next(record.run for record in records(folder) if record.HasField("run"))


def panels(folder: Path) -> dict[str, str]:
    """Kind of each chart by key."""
    updates = (update for record in records(folder) for update in record.config.update)
    charts = {tuple(update.nested_key): update.value_json for update in updates if update.nested_key}
    return {
        keys[-1]: json.loads(value)["panel_config"]["panelDefId"]
        for keys, value in charts.items()
        if keys[:2] == ("_wandb", "visualize")
    }


def read_tensorboard(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()
