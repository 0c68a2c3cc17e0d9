"""Lightning's messages at every start that a user of the study cannot act on."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IGNORED = (
    # Lightning calls an old name of torch's.
    ".*isinstance.treespec, LeafSpec.* is deprecated.*",
    # metrics.csv of a resumed run is read before it is removed, and written again.
    ".*Previous log files in this directory will be deleted.*",
    "Checkpoint directory .* exists and is not empty.*",
    # The digits are in memory: loader processes would only cost time.
    ".*does not have many workers.*",
    # Schedules by the epoch are set before each batch.
    "Detected call of `lr_scheduler.step.*before `optimizer.step.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Inside, only the plugin's own messages come through Lightning's logger; real warnings stay."""
    for message in IGNORED:
        warnings.filterwarnings("ignore", message=message)
    # Where both packages of Lightning are imported, the later one's logger is used by both.
    loggers = [logging.getLogger(f"{name}.utilities.rank_zero") for name in ("pytorch_lightning", "lightning.pytorch")]
    for logger in loggers:
        logger.addFilter(_is_relevant)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    spec = importlib.util.find_spec("lightning_puzzlemix")
    plugin = Path(str(spec and spec.origin)).parent
    return record.levelno >= logging.WARNING or plugin in Path(record.pathname).parents
