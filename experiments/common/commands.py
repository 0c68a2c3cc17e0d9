"""Commands to be pasted into the shell that the user types in: quoted for the shell, and for Hydra's grammar."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.common.console import short, typed_from
from experiments.common.masking import mask_texts

# Keys of Hydra's own that belong to one start: its folders, whether it is a sweep, and how the jobs of that are started.
OF_ONE_START = ("hydra.run", "hydra.sweep", "hydra.mode", "hydra.launcher", "hydra.sweeper", "hydra.job.config")


def override(key: str, value: str | Path) -> str:
    """`key=value` such that Hydra reads exactly this text: in its quotes where it would take it for anything else."""
    text = str(value)
    plain = f"{key}={text}"
    return plain if _reads(plain, text) else f"{key}={quote(text)}"


def quote(text: str) -> str:
    """A text in Hydra's quotes, which neither its grammar nor OmegaConf's interpolations read anything into."""
    # Backslashes count only where a quote follows them, and there each of them has to be doubled.
    quoted = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", text)
    quoted = re.sub(r"\\+$", lambda found: found[0] * 2, quoted)
    # The same holds before "${".
    return "'" + re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", quoted) + "'"


def _reads(words: str, text: str) -> bool:
    try:
        value = OverridesParser.create().parse_override(words).value()
    except (HydraException, OmegaConfBaseException):
        return False
    return isinstance(value, str) and value == text and "${" not in text


def training_command(overrides: Sequence[str], *, hydra: Any = None) -> str:
    """`python -m experiments.train` with these overrides, and with what else such a start needs.

    Args:
        overrides: As they were typed.
        hydra: The node `hydra` of the config of the run that these are of; None: of the one that this process has started.
    """
    started = _hydra_of_this_process() if hydra is None else hydra
    words = [*_config_dirs(started), *mask_texts(overrides), *_settings(started)]
    return shlex.join(["python", "-m", "experiments.train", *words])


def continuing_command(overrides: Sequence[str], run_dir: Path, *, hydra: Any = None) -> str:
    """The command that goes on with the run in `run_dir`, from its last checkpoint or else from its start."""
    kept = [each for each in mask_texts(overrides) if key_of(each) != "resume"]
    # Alone, even where the run was a job of a sweep.
    alone = ["resume=auto", override("hydra.run.dir", run_dir), "hydra.mode=RUN"]
    return training_command([*kept, *alone], hydra=hydra)


def command_line(module: str, words: Sequence[str]) -> str:
    """`python -m experiments.<module>` with these words, as it is typed here."""
    return as_typed_here(shlex.join(["python", "-m", f"experiments.{module}", *words]))


def key_of(words: str) -> str:
    """The key of an override, without the sign before it and the package behind it."""
    return words.split("=")[0].lstrip("+~").split("@")[0]


def _hydra_of_this_process() -> Any:
    return HydraConfig.get() if HydraConfig.initialized() else OmegaConf.create({})


def _settings(hydra: Any) -> list[str]:
    """Settings of Hydra's own that another start needs too, such as `hydra.searchpath`."""
    given = mask_texts(OmegaConf.select(hydra, "overrides.hydra") or [])
    return [each for each in given if not _is_within(key_of(each).replace("/", "."), OF_ONE_START)]


def _config_dirs(hydra: Any) -> list[str]:
    """`--config-dir` of the command line: a folder with options that are not of this project."""
    sources = OmegaConf.select(hydra, "runtime.config_sources") or []
    given = [Path(each.path) for each in sources if each.provider == "command-line" and each.schema == "file"]
    return [word for path in given for word in ("--config-dir", str(short(path)))]


def _is_within(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def as_typed_here(command: str) -> str:
    """A command that starts with `python`, with the path of this very Python where `python` would be another one."""
    found = shutil.which("python")
    # Not resolved: the Pythons of two environments are links to the same file.
    if found is not None and Path(found).absolute().parent == Path(sys.executable).absolute().parent:
        return command
    here, start = Path(sys.executable).absolute(), typed_from()
    # "./", as a shell looks for a bare name elsewhere.
    path = f"./{here.relative_to(start)}" if here.is_relative_to(start) else str(here)
    return shlex.quote(path) + command.removeprefix("python")
