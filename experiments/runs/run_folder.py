"""Run folders: their files, and what can be told from them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.common import key_of, mask_texts, read_plain_yaml

# Of the setting `resume`.
AUTO = "auto"
SUMMARY, CONFIG = "summary.json", "config.yaml"
OVERRIDES = Path(".hydra") / "overrides.yaml"
CHECKPOINTS = Path("checkpoints")
LAST_CHECKPOINT, BEST_CHECKPOINT = CHECKPOINTS / "last.ckpt", CHECKPOINTS / "best.ckpt"
METRICS = Path("logs") / "metrics.csv"
# What reading a file that is cut off, damaged or foreign may raise.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError, OmegaConfBaseException)


def find_unfinished(parent: Path, overrides: Iterable[Any]) -> list[Path]:
    """Folders below `parent` of runs that were started by these overrides and are not finished; the last started first."""
    wanted = comparable_overrides(overrides)
    found = [path for path in parent.glob("*/") if _started_by(path) == wanted and not (path / SUMMARY).is_file()]
    return sorted(found, key=lambda path: ((path / OVERRIDES).stat().st_mtime, path.name), reverse=True)


def comparable_overrides(overrides: Iterable[Any]) -> list[str]:
    """Overrides in a fixed order, without those that say where a run goes or what it resumes."""
    return sorted(each for each in mask_texts(overrides) if key_of(each).split(".")[0] not in ("resume", "paths"))


def _started_by(folder: Path) -> list[str] | None:
    """The overrides that a folder's run was started by; None: it cannot be told, or it is no run."""
    try:
        return comparable_overrides(read_plain_yaml(folder / OVERRIDES))
    except UNREADABLE:
        return None
