"""Leave out what Lightning says about the machine at every start."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Inside, only the plugin's own messages come through Lightning's logger; real warnings stay."""
    spec = importlib.util.find_spec("lightning_puzzlemix")
    plugin = Path(str(spec.origin)).parent if spec is not None else Path()

    def is_worth_saying(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or plugin in Path(record.pathname).parents

    # Lightning calls an old name of torch's; nothing that a user could change.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.* is deprecated.*")
    # metrics.csv of a resumed run is read before it is removed, and written again.
    warnings.filterwarnings("ignore", message=".*Previous log files in this directory will be deleted.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    # The digits are in memory: loader processes would only cost time.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Where both packages of Lightning are imported, the later one speaks for the two.
    loggers = [logging.getLogger(f"{name}.utilities.rank_zero") for name in ("pytorch_lightning", "lightning.pytorch")]
    for logger in loggers:
        logger.addFilter(is_worth_saying)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_worth_saying)
