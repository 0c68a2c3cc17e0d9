"""Reading back what an offline W&B run has written."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class WandbRun:
    """History rows in their order, the last values of the summary, the config, and the folder of media files."""

    files: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def read_run(save_dir: Path) -> WandbRun:
    """Read the newest run below ``save_dir``, which must have been finished, from the log that would be sent to the server."""
    log = _newest_log(save_dir)
    run = WandbRun(log.parent / "files")
    for record in read_records(save_dir):
        if record.HasField("history"):
            run.history.append(_values(record.history.item))
        for update, into in (
            (record.summary.update, run.summary),
            (record.config.update, run.config),
            (record.run.config.update, run.config),
        ):
            _merge(into, _values(update))
    return run


def _merge(into: dict[str, Any], update: dict[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _newest_log(save_dir: Path) -> Path:
    return max(save_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)


def read_records(save_dir: Path) -> list[Any]:
    """Read all records of that log once the last one is there: W&B may still be writing when ``finish`` has returned."""
    from wandb.proto.wandb_internal_pb2 import Record

    log = _newest_log(save_dir)
    end = time.monotonic() + 60
    while True:
        records = [Record.FromString(message) for message in _messages(log.read_bytes())]
        if records and records[-1].HasField("exit"):
            return records
        assert time.monotonic() < end, f"{log} has no end: {len(records)} records"
        time.sleep(0.2)


def _messages(content: bytes) -> Iterator[bytes]:
    """Undo the framing, LevelDB's log format after a header of 7 bytes: blocks of 32 KiB, which cut messages into chunks."""
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):
            # Still being written.
            return
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        # 1: whole, 2: first, 3: middle, 4: last.
        if kind in (1, 4):
            yield parts
            parts = b""


def _values(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *path, name = [item.key] if item.key else item.nested_key
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[name] = json.loads(item.value_json)
    return values
