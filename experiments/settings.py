"""Lets the command line set what the YAML files leave to the code's defaults."""

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

OPEN_GROUPS = ("data", "model", "optimizer", "mix", "trainer", "logger")


def register() -> None:
    """Store `open_groups`, which `conf/train.yaml` starts from.

    Hydra refuses `optimizer.momentum=0.8` for a key that no YAML file holds and asks for `+optimizer.momentum`. As the
    defaults live in code here, that would be most keys. These groups accept any; a misspelt one is still an error,
    raised by the class that it is passed to.
    """
    base = OmegaConf.create({})
    for group in OPEN_GROUPS:
        OmegaConf.update(base, group, DictConfig({}, flags={"struct": False}))
    ConfigStore.instance().store(name="open_groups", node=base)
