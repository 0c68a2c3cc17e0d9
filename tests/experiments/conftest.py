import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

REPOSITORY = Path(__file__).resolve().parents[2]
# The study is not installed, it is run from the repository's root.
sys.path.insert(0, str(REPOSITORY))

from experiments.runs import hydra_setup as settings  # noqa: E402


@pytest.fixture
def compose_train(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """Composes conf/train.yaml with overrides, as the command line would; the run folder is the test's."""
    settings.store_permissive_groups()

    def compose_config(*overrides: str) -> DictConfig:
        cfg = compose("train", [*overrides, f"paths.run_dir={tmp_path / 'run'}"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        yield compose_config
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
