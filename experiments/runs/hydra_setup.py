"""What Hydra must know before it composes a config, and what it passes on to the other processes of a run."""

import sys

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

OPEN_GROUPS = ("data", "model", "optimizer", "scheduler", "mix", "trainer", "logger")


def register() -> None:
    """Store `permissive_groups`, which `conf/train.yaml` starts from."""
    store_permissive_groups("permissive_groups", OPEN_GROUPS)


def store_permissive_groups(name: str, groups: tuple[str, ...]) -> None:
    """Store a config of this name whose groups accept any key.

    Hydra refuses `optimizer.momentum=0.8` for a key that no YAML file holds and asks for `+optimizer.momentum`. As the
    defaults live in code here, that would be most keys. A misspelled one is still refused, by `check_settings`.
    """
    base = OmegaConf.create({})
    for group in groups:
        OmegaConf.update(base, group, DictConfig({}, flags={"struct": False}))
    ConfigStore.instance().store(name=name, node=base)


def make_command_repeatable() -> None:
    """Inside a sweep, make the process's command line that of the running job alone.

    Lightning starts the other processes of a DDP run by repeating the command line, which here would be the whole sweep.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return
    # With references to secrets in the environment, which those processes have as well.
    sys.argv[1:] = [*OmegaConf.to_container(hydra.overrides.task), "hydra.mode=RUN"]
    with read_write(hydra), open_dict(hydra):
        hydra.run.dir = hydra.runtime.output_dir
