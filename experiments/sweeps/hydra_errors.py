"""What Hydra refuses on the command line, in a sentence instead of a page."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, OverrideParseException
from hydra.types import RunMode

from experiments.common.console import exit_with_error
from experiments.sweeps.jobs import SweepReport

FULL_ERROR = "HYDRA_FULL_ERROR"


@contextmanager
def readable(keys: Iterable[str]) -> Iterator[None]:
    """Inside, an error of Hydra's or of a job of a sweep ends the program with a sentence and exit code 1.

    HYDRA_FULL_ERROR=1, by which Hydra hands on what it would print and exit for, still shows all of it if the user sets it.

    Args:
        keys: Settings that there are, for a proposal where a key is misspelt.
    """
    if FULL_ERROR in os.environ:
        yield
        return
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    except CompactHydraException as error:
        said = explain(str(error), keys)
        unread = isinstance(error, OverrideParseException)
        exit_with_error(
            f"{said}. A value with brackets, commas or blanks may need quotes of its own: 'key=\"value\"'"
            if unread
            else said
        )
    except Exception as error:
        # Of a sweep this process has composed nothing, so `in_sweep` does not know.
        if SweepReport.folder is None:
            raise
        # Its traceback is in the folder of the job, and the summary of the sweep names that.
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
    option = re.search(
        r"Could not find '([^']+)/([^'/]+)'(?:\s+Available options in '[^']+':\s+(.*?)\n(?:Config|$))?", message, re.S
    )
    if option:
        group, name, others = option.groups()
        choices = f"; it is one of {', '.join((others or '').split())}" if others else ""
        return f"{group}={name} is no option of the group {group}{choices}"
    key = re.search(r"Could not override '([^']+)'", message)
    if key:
        near = difflib.get_close_matches(key[1], list(keys), n=1, cutoff=0.6)
        advice = f"did you mean {near[0]}?" if near else "python -m experiments.train --help lists all of them"
        return f"There is no setting {key[1]}; {advice}"
    said = message.partition("Config search path")[0].partition("Set the environment")[0]
    return " ".join(said.partition("See https")[0].split())
