"""Commands to be pasted into the shell that the user types in."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from experiments.common.console import short
from experiments.common.masking import mask_texts
from experiments.common.overrides import key_of, override

# Keys of Hydra's own that belong to one start: its folders, whether it is a sweep, and how the jobs of that are started.
OF_ONE_START = ("hydra.run.", "hydra.sweep.", "hydra.mode.", "hydra.launcher.", "hydra.sweeper.", "hydra.job.config.")


def command_line(module: str, *words: str | Path) -> str:
    """`python -m experiments.<module>` with these words, as it is typed here."""
    typed = [str(short(word)) if isinstance(word, Path) else word for word in words]
    return as_typed_here(shlex.join(["python", "-m", f"experiments.{module}", *typed]))


def as_typed_here(command: str) -> str:
    """A command that starts with `python`, with the path of this very Python where `python` would be another one."""
    found, here = shutil.which("python"), Path(sys.executable).absolute()
    # Not resolved: the Pythons of two environments are links to the same file.
    if found is not None and Path(found).absolute().parent == here.parent:
        return command
    path = str(short(here))
    # A shell looks for a name without a slash elsewhere.
    return shlex.quote(path if "/" in path else f"./{path}") + command.removeprefix("python")


def training_command(overrides: Sequence[str], *, hydra: Any = None) -> str:
    """`python -m experiments.train` with these overrides, as typed; `hydra`: that node of their run; None: of this one."""
    if hydra is None:
        hydra = HydraConfig.get() if HydraConfig.initialized() else OmegaConf.create({})
    sources = OmegaConf.select(hydra, "runtime.config_sources") or []
    # `--config-dir`: a folder with options that are not of this project.
    folders = [each.path for each in sources if each.provider == "command-line" and each.schema == "file"]
    words = [word for folder in folders for word in ("--config-dir", str(short(Path(folder))))]
    # Settings of Hydra's own, such as `hydra.searchpath`.
    given = mask_texts(OmegaConf.select(hydra, "overrides.hydra") or [])
    kept = [each for each in given if not f"{key_of(each).replace('/', '.')}.".startswith(OF_ONE_START)]
    return shlex.join(["python", "-m", "experiments.train", *words, *mask_texts(overrides), *kept])


def resume_command(overrides: Sequence[str], run_dir: Path, *, hydra: Any = None) -> str:
    """What resumes the run in `run_dir`, from its last checkpoint or else from its start; alone, even a job of a sweep."""
    kept = [each for each in overrides if key_of(each) != "resume"]
    return training_command([*kept, "resume=auto", override("hydra.run.dir", run_dir), "hydra.mode=RUN"], hydra=hydra)
