"""Run folders: their files, and what can be told from them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.common import key_of, mask_texts, read_plain_yaml
from experiments.runs.lock import LOCK

# Of the setting `resume`.
AUTO = "auto"
SUMMARY, CONFIG = "summary.json", "config.yaml"
OVERRIDES = Path(".hydra") / "overrides.yaml"
CHECKPOINTS = Path("checkpoints")
LAST_CHECKPOINT, BEST_CHECKPOINT = CHECKPOINTS / "last.ckpt", CHECKPOINTS / "best.ckpt"
METRICS = Path("logs") / "metrics.csv"
# What reading a file that is cut off, damaged or foreign may raise.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError, OmegaConfBaseException)
# What a run writes to while it trains, and Hydra at its start.
WRITTEN = (LAST_CHECKPOINT, BEST_CHECKPOINT, METRICS, Path("train.log"), Path(LOCK), OVERRIDES)


def find_unfinished(parent: Path, overrides: Iterable[Any]) -> list[Path]:
    """Folders below `parent` of runs that were started by these overrides and are not finished; the last active one first."""
    wanted = comparable_overrides(overrides)
    try:
        folders = [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []
    found = [path for path in folders if _started_by(path) == wanted and not _has_summary(path)]
    return sorted(found, key=lambda path: (last_active(path), path.name), reverse=True)


def comparable_overrides(overrides: Iterable[Any]) -> list[str]:
    """Overrides in a fixed order, without those that say where a run goes or what it resumes."""
    return sorted(each for each in mask_texts(overrides) if key_of(each).split(".")[0] not in ("resume", "paths"))


def last_active(folder: Path) -> float:
    """When the run in a folder last wrote something, in seconds since 1970; 0.0: nothing can be read there."""
    return max(_changed(folder / name) for name in WRITTEN)


def _started_by(folder: Path) -> list[str] | None:
    """The overrides that a folder's run was started by; None: it cannot be told, or it is no run."""
    try:
        overrides = read_plain_yaml(folder / OVERRIDES)
    except UNREADABLE:
        return None
    return comparable_overrides(overrides) if isinstance(overrides, list) else None


def _has_summary(folder: Path) -> bool:
    try:
        return isinstance(json.loads((folder / SUMMARY).read_text(encoding="utf-8")), dict)
    # A run whose summary is cut off is not finished.
    except (OSError, ValueError):
        return False


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
