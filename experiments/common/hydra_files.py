"""The files that Hydra writes of a start, without the secrets that it would leave in them."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.common.atomic_files import write_text
from experiments.common.errors import UserError
from experiments.common.masking import mask_settings
from experiments.common.plain_yaml import read_plain_yaml

FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")
SWEEP_FILE = "multirun.yaml"


class MaskHydraFiles(Callback):
    """Masks what looks like a secret in `.hydra/` and `multirun.yaml`, as soon as Hydra has written them.

    Secrets of the command line are not in them, see `masking.hide_secrets`; those of an option's own YAML file are.
    """

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Mask the files of this job, and of the sweep that it belongs to."""
        hydra = config.hydra
        if hydra.output_subdir is not None:
            for name in FILES:
                mask_file(Path(hydra.runtime.output_dir) / hydra.output_subdir / name)
        mask_file(Path(hydra.sweep.dir) / SWEEP_FILE)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Mask the file of a sweep whose jobs ran elsewhere."""
        mask_file(Path(config.hydra.sweep.dir) / SWEEP_FILE)


def mask_file(path: Path) -> None:
    """Mask a YAML file in its place, in one step; left alone if it holds no secret, or is not there."""
    if not path.is_file():
        return
    try:
        content = read_plain_yaml(path)
    except UserError:
        return
    masked = mask_settings(content)
    if masked == content:
        return
    # Jobs of a sweep may be here at the same time.
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(masked)))
