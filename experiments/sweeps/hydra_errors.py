"""Hydra's errors of the command line, in a sentence instead of a page."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, OverrideParseException
from hydra.types import RunMode

from experiments.common import exit_with_error
from experiments.sweeps.jobs import SweepReport

FULL_ERROR = "HYDRA_FULL_ERROR"
NO_OPTION = re.compile(
    r"Could not find '([^']+)/([^'/]+)'(?:\s+Available options in '[^']+':\s+(.*?)\n(?:Config|$))?", re.S
)


@contextmanager
def readable(keys: Iterable[str]) -> Iterator[None]:
    """Inside, an error of Hydra's or of a job of a sweep ends the program with a sentence and exit code 1.

    With HYDRA_FULL_ERROR=1, by which Hydra raises what it would print and exit for, the user still sees all of it.
    `keys` are the settings that there are, for a proposal where one is misspelt.
    """
    if FULL_ERROR in os.environ:
        yield
        return
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    except CompactHydraException as error:
        hint = ". A value with brackets, commas or blanks may need quotes of its own: 'key=\"value\"'"
        exit_with_error(explain(str(error), keys) + (hint if isinstance(error, OverrideParseException) else ""))
    except Exception as error:
        # Of a sweep this process has composed nothing, so `in_sweep` is not set.
        if SweepReport.folder is None:
            raise
        # Its traceback is in the folder of the job, which the summary of the sweep names.
        exit_with_error(f"The sweep has failed jobs; the first: {type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        os.environ.pop(FULL_ERROR, None)


def leave_errors_to_hydra() -> None:
    """From here on have Hydra print an error as it does: its traceback without the steps of Hydra's own."""
    if not in_sweep():
        os.environ.pop(FULL_ERROR, None)


def in_sweep() -> bool:
    """Whether a job of a sweep runs here."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def explain(message: str, keys: Iterable[str]) -> str:
    """The message of Hydra in a sentence or two."""
    if option := NO_OPTION.search(message):
        group, name, others = option.groups()
        choices = f"; it is one of {', '.join((others or '').split())}" if others else ""
        kind = group.removeprefix("hydra/")
        package = f", or needs: pip install hydra-{name.split('_')[0]}-{kind}" if group != kind else ""
        return f"{group}={name} is no option of the group {group}{choices}{package}"
    if key := re.search(r"Could not override '([^']+)'", message):
        near = difflib.get_close_matches(key[1], list(keys), n=1, cutoff=0.6)
        advice = f"did you mean {near[0]}?" if near else "python -m experiments.train --help lists all of them"
        return f"There is no setting {key[1]}; {advice}"
    return " ".join(re.split("Config search path|Set the environment|See https", message)[0].split())
