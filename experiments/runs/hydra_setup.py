"""What must be known to Hydra before it composes a config: keys that the YAML files leave to code, and a resolver."""

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from experiments.runs.run_folder import choose_run_dir

OPEN_GROUPS = ("data", "model", "optimizer", "scheduler", "mix", "trainer", "logger")


def register() -> None:
    """Store `permissive_groups`, which `conf/train.yaml` starts from.

    Hydra refuses `optimizer.momentum=0.8` for a key that no YAML file holds and asks for `+optimizer.momentum`. As the
    defaults live in code here, that would be most keys. These groups accept any; a misspelt one is still an error,
    raised by the class that it is passed to. Also registers the resolver `run_dir`, see `choose_run_dir`.
    """
    # Cached: the folder stays the same once it exists and other runs are about.
    OmegaConf.register_new_resolver("run_dir", choose_run_dir, use_cache=True, replace=True)
    base = OmegaConf.create({})
    for group in OPEN_GROUPS:
        OmegaConf.update(base, group, DictConfig({}, flags={"struct": False}))
    ConfigStore.instance().store(name="permissive_groups", node=base)
