"""What Hydra must know before it composes a config, which folder it writes to, and the command line of a sweep's job."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.common import UserError, exit_with_error, explained, print_plain
from experiments.runs.lock import RunningError, claim
from experiments.runs.resume import check_folder
from experiments.runs.run_folder import AUTO, find_unfinished

PERMISSIVE_GROUPS = ("data", "model", "optimizer", "scheduler", "mix", "trainer", "logger")


def store_permissive_groups(name: str = "permissive_groups", groups: Iterable[str] = PERMISSIVE_GROUPS) -> None:
    """Store a config, which those in `conf/` start from, whose groups accept keys that no YAML file holds.

    Defaults live in code here. A misspelled key is still refused, by `check_settings`.
    """
    nodes = {group: DictConfig({}, flags={"struct": False}) for group in groups}
    ConfigStore.instance().store(name=name, node=OmegaConf.create(nodes))


class TakeFolders(Callback):
    """Takes the folder of a run, or of a sweep, before Hydra writes anything into it.

    Errors end the program with a message, as Hydra would make a warning of an exception.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the run's folder."""
        # Evaluations lie beside their checkpoint.
        if "resume" not in config:
            return
        HydraConfig.instance().set_config(config)
        try:
            folder = take_folder(Path(config.hydra.run.dir), config.resume, is_free=_is_free(config.hydra.run))
            _move_to(config.hydra, folder)
            # It holds a copy.
            HydraConfig.instance().set_config(config)
            with suppress(OmegaConfBaseException):
                check_folder(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), folder)
        except UserError as error:
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
    return "${now:" in str(dict(OmegaConf.to_container(node, resolve=False))["dir"])


def _move_to(hydra: DictConfig, folder: Path) -> None:
    with read_write(hydra), open_dict(hydra):
        hydra.run.dir, hydra.runtime.output_dir = str(folder), str(folder.absolute())


def take_folder(wanted: Path, resume: str | None, *, is_free: bool) -> Path:
    """Make this process the owner of a run folder; the other processes of a run go where that of rank 0 does.

    With "auto" it is that of the run that was started last, of those beside `wanted` that have the same overrides and are
    neither finished nor running. Else it is new, with a number behind its name if need be. `is_free`: it may be another one
    than `wanted`, as the user has not named it; else a RunningError if it belongs to a run that is running.
    """
    if is_free and resume == AUTO:
        for folder in find_unfinished(wanted.parent, HydraConfig.get().overrides.task):
            try:
                claim(folder)
                return folder
            except RunningError as error:
                print_plain(f"Not resumed: {error}")
    folder = _make_new(wanted) if is_free and rank_zero_only.rank == 0 else wanted
    claim(folder)
    return folder


def _make_new(wanted: Path) -> Path:
    """Make a folder that was not there, in one step, so that no two processes have the same."""
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}") for number in count(1))
    with explained(wanted):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                (folder := next(names)).mkdir()
                return folder


def make_command_repeatable() -> None:
    """Inside a sweep, make the process's command line that of the running job alone.

    Lightning starts the other processes of a DDP run by repeating the command line, which here would be the whole sweep.
    """
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        # With references to secrets in the environment, which those processes have as well.
        sys.argv[1:] = [*OmegaConf.to_container(hydra.overrides.task), "hydra.mode=RUN"]
        _move_to(hydra, Path(hydra.runtime.output_dir))
