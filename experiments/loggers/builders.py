"""A W&B logger that goes on where an interrupted run left it."""

import hashlib
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common import mask_settings, short, write_text
from experiments.runs import comparable_overrides, optional

WANDB_ID = "wandb_id.txt"
LONGEST_GROUP = 100  # of W&B's limit of 128 letters


def build_wandb_logger(run_dir: str, **settings: Any) -> WandbLogger:
    """A WandbLogger whose run is resumed with the run folder; `settings` are those of WandbLogger and `wandb.init`.

    Unless given, `job_type` is "train", and `group` are the runs that differ in nothing but their seed, see `seedless_group`.
    """
    id_file = Path(run_dir) / WANDB_ID
    settings = {"job_type": "train", "group": seedless_group(settings.get("name")), **settings}
    if id_file.is_file() and (known := id_file.read_text("utf-8", "replace").strip()):
        settings |= {"id": known, "resume": "allow"}
    # W&B's own settings are where a key belongs; the others are shown.
    shown = mask_settings({key: value for key, value in settings.items() if key != "settings"})
    logger = WandbLogger(save_dir=run_dir, **{**settings, **shown})
    if rank_zero_only.rank == 0:
        write_text(id_file, str(logger.experiment.id))
    return logger


def seedless_group(name: str | None) -> str | None:
    """Name of the runs that were started by the same overrides but for the seed and the logger; None outside Hydra."""
    if name is None or not HydraConfig.initialized():
        return None
    overrides = comparable_overrides(HydraConfig.get().overrides.task)
    kept = [each for each in overrides if each.split("=")[0].split(".")[0] not in ("seed", "logger")]
    group = " ".join([name, *kept])
    if len(group) <= LONGEST_GROUP:
        return group
    return f"{group[: LONGEST_GROUP - 9]} {hashlib.sha256(group.encode()).hexdigest()[:8]}"


@contextmanager
def ended_wandb_run() -> Iterator[None]:
    """End the W&B run that is begun inside; else the next job of a sweep in this process would write into it."""
    failed = True
    try:
        yield
        failed = False
    finally:
        # Not imported here: without a W&B logger nobody has.
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            command = shlex.join(["wandb", "sync", str(short(Path(wandb.run.dir).parent))])
            # Should this fail too, it must not hide what ended the run.
            with suppress(Exception) if failed else optional("the end of the run in W&B", command):
                wandb.finish(exit_code=int(failed))
