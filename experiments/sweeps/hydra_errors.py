"""The command lines of Hydra: what a user can put right is a sentence and exit code 1, instead of a page."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from experiments.common import MissingPackageError, UserError, check_masked, config_checks, exit_with_error, hide_secret
from experiments.common.config_checks import check_settings, names_a_setting
from experiments.runs import RunStopped, interruptible
from experiments.sweeps.jobs import SweepReport, report_sweep

FULL_ERROR = "HYDRA_FULL_ERROR"
NO_OPTION = re.compile(
    r"Could not find '([^']+)/([^'/]+)'(?:\s+Available options in '[^']+':\s+(.*?)\n(?:Config|$))?", re.S
)


def run_command(main: Callable[[], Any], keys: Iterable[str]) -> None:
    """Run a command line: one job, or a sweep, which ends with its summary whatever becomes of its jobs.

    `main` is wrapped by Hydra; `keys` are the settings that there are, for a proposal where one is misspelt. With
    HYDRA_FULL_ERROR=1, by which Hydra raises what it would print and exit for, the user sees all of an error.
    """
    shows_all, typed, complete = FULL_ERROR in os.environ, sys.argv[1:], False
    os.environ[FULL_ERROR] = "1"
    try:
        sys.argv[1:] = typed = [hide_secret(each) for each in typed]
        with interruptible():
            main()
        complete = True
    except RunStopped as stop:
        stop.report()
        raise
    except Exception as error:
        message = "" if shows_all else _message_of(error, keys)
        if not message:
            raise
        exit_with_error(message)
    finally:
        report_sweep(typed, complete=complete)


def _message_of(error: Exception, keys: Iterable[str]) -> str:
    """A sentence about an error of Hydra's, of a job of a sweep, or of the user's; empty for any other."""
    if isinstance(error, CompactHydraException):
        hint = ". A value with brackets, commas or blanks may need quotes of its own: 'key=\"value\"'"
        return explain(str(error), keys) + (hint if isinstance(error, OverrideParseException) else "")
    # Of a sweep this process has composed nothing, so `in_sweep` is not set.
    if SweepReport.folder is not None:
        # Its traceback is in the folder of the job, which the summary of the sweep names.
        return f"The sweep has failed jobs; the first: {type(error).__name__}: {' '.join(str(error).split())}"
    return str(error) if isinstance(error, UserError) else ""


@contextmanager
def checked_job(cfg: DictConfig, typed: Mapping[str, Any]) -> Iterator[None]:
    """Check a composed config, see `check_settings`; here and inside, what a user can put right ends the program.

    In a sweep it is raised instead: the other jobs go on.
    """
    if not in_sweep():
        # Hydra prints the traceback of any other error without its own steps.
        os.environ.pop(FULL_ERROR, None)
    try:
        missing = ", ".join(f"{key}=..." for key in sorted(OmegaConf.missing_keys(cfg)))
        if missing:
            raise UserError(f"These settings have no default and must be given: {missing}")
        check_masked(cfg)
        check_settings(cfg, typed)
        yield
    except (ValueError, MisconfigurationException, InstantiationException) as error:
        by_user = isinstance(error, UserError) or not isinstance(error, ValueError) or names_a_setting(error)
        if in_sweep() or not by_user:
            raise
        exit_with_error(config_checks.explain(error) if isinstance(error, InstantiationException) else str(error))


def in_sweep() -> bool:
    """Whether a job of a sweep runs here."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def explain(message: str, keys: Iterable[str]) -> str:
    """The message of Hydra in a sentence or two."""
    if option := NO_OPTION.search(message):
        group, name, others = option.groups()
        # Other packages are in no extra.
        with suppress(KeyError):
            kind = group.removeprefix("hydra/")
            return str(MissingPackageError(f"hydra-{name.split('_')[0]}-{kind}", f"{group}={name}"))
        choices = f"; it is one of {', '.join((others or '').split())}" if others else ""
        return f"{group}={name} is no option of the group {group}{choices}"
    if key := re.search(r"Could not override '([^']+)'", message):
        near = difflib.get_close_matches(key[1], list(keys), n=1, cutoff=0.6)
        advice = f"did you mean {near[0]}?" if near else "python -m experiments.train --help lists all of them"
        return f"There is no setting {key[1]}; {advice}"
    return " ".join(re.split("Config search path|Set the environment|See https", message)[0].split())
