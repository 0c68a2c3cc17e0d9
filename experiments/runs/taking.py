"""Run folders have one owner: a new run takes a name that no other has, a used folder is not overwritten."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common import RunFolderError, UserError, exit_with_error, explained, print_plain, remove_drafts, short
from experiments.common.atomic_files import DRAFT
from experiments.runs.lock import RunningError, claim, release
from experiments.runs.resume import is_done
from experiments.runs.run_folder import (
    AUTO,
    BEST_CHECKPOINT,
    CHECKPOINTS,
    LAST_CHECKPOINT,
    SUMMARY,
    find_unfinished,
)
from experiments.test_results import TEST_RESULTS

# Bytes that a run writes before it trains; without them Hydra would end with a traceback.
ROOM = 1 << 16


class TakeFolders(Callback):
    """Takes the folder of a run, or of a sweep, before Hydra writes anything into it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the run's folder; one that belongs to another run ends the program with a message."""
        # Evaluations lie beside their checkpoint.
        if "resume" not in config:
            return
        HydraConfig.instance().set_config(config)
        folder = None
        try:
            folder = take_folder(Path(config.hydra.run.dir), config.resume, is_free=_is_free(config.hydra.run))
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.run.dir = str(folder)
                config.hydra.runtime.output_dir = str(folder.absolute())
            # It holds a copy.
            HydraConfig.instance().set_config(config)
            if rank_zero_only.rank == 0:
                with suppress(OmegaConfBaseException):
                    check_folder(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), folder)
        except UserError as error:
            if folder is not None:
                release(folder)
            # Hydra would make a warning of any other exception.
            exit_with_error(str(error))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the sweep's folder, if it is named by the time."""
        try:
            if _is_free(config.hydra.sweep):
                with read_write(config.hydra):
                    config.hydra.sweep.dir = str(_make_new(Path(config.hydra.sweep.dir)))
        except UserError as error:
            exit_with_error(str(error))


def _is_free(node: DictConfig) -> bool:
    """Whether the folder's name is the program's choice."""
    pattern: Any = OmegaConf.to_container(node, resolve=False)
    return "${now:" in str(pattern["dir"])


def take_folder(wanted: Path, resume: str | None, *, is_free: bool) -> Path:
    """Make this process the owner of a run folder; the other processes of a run go where that of rank 0 does.

    Args:
        wanted: The folder of a new run.
        resume: The setting. With "auto" the folder is that of the run that was active last, of those beside `wanted` that were
            started by the same overrides and are neither finished nor running.
        is_free: Whether it may be another folder than `wanted`, as the user has not named it.

    Returns:
        The folder: of the same name with a number behind it where there is one of that name.

    Raises:
        RunningError: If the user has named it and it belongs to a run that is running.
        UnwritableError: If it cannot be made.
    """
    if not is_free:
        _claim(wanted)
        return wanted
    unfinished = find_unfinished(wanted.parent, HydraConfig.get().overrides.task) if resume == AUTO else []
    for folder in unfinished:
        try:
            _claim(folder)
            return folder
        except RunningError as error:
            print_plain(f"{error.reason}: not resumed")
    folder = _make_new(wanted) if rank_zero_only.rank == 0 else wanted
    _claim(folder)
    return folder


def _make_new(wanted: Path) -> Path:
    """Make a folder that was not there, in one step, so that no two processes have the same."""
    with explained(wanted):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    raise AssertionError


def _claim(folder: Path) -> None:
    if rank_zero_only.rank != 0:
        return
    former = claim(folder)
    if former is not None:
        print_plain(
            f"{short(folder)} was left by a run that is gone without having ended ({former}); its lock is taken over"
        )
    for each in (folder, folder / CHECKPOINTS):
        remove_drafts(each)
    probe = folder / f".room{DRAFT}"
    with explained(folder):
        try:
            probe.write_bytes(bytes(ROOM))
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a run folder inside, see `take_folder`; it may be taken already, by `TakeFolders`."""
    _claim(folder)
    try:
        yield
    finally:
        release(folder)


def check_folder(cfg: DictConfig, folder: Path) -> None:
    """Check that a run may go into a folder.

    Raises:
        RunFolderError: If it holds another run, finished or not.
    """
    if cfg.resume == AUTO:
        is_done(cfg, folder)
        return
    inside = cfg.resume is not None and Path(cfg.resume).expanduser().resolve().is_relative_to(folder.resolve())
    found = [name for name in (SUMMARY, LAST_CHECKPOINT, BEST_CHECKPOINT) if (folder / name).exists()]
    if found and not inside:
        raise RunFolderError(
            f"{folder} holds another run ({', '.join(map(str, found))}): resume it by resume=auto, name another folder "
            "(hydra.run.dir=... for a run, hydra.sweep.dir=... for a sweep), or remove it"
        )


def clear_folder(folder: Path, *, keep_checkpoints: bool) -> None:
    """Remove the results of an earlier training, so that they are not taken for those of the one that begins."""
    checkpoints = () if keep_checkpoints else (LAST_CHECKPOINT, BEST_CHECKPOINT)
    with explained(folder):
        for name in (SUMMARY, TEST_RESULTS, *checkpoints):
            (folder / name).unlink(missing_ok=True)
