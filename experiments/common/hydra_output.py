"""What Hydra writes of a run: log lines and the files in `.hydra/`, without secrets."""

import logging
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.common.atomic_files import write_text
from experiments.common.console import print_plain
from experiments.common.errors import UserError
from experiments.common.masking import mask_settings, mask_text
from experiments.common.plain_yaml import read_plain_yaml


class MaskingFormatter(logging.Formatter):
    """Masks what looks like a secret in a line of a log, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The masked line."""
        return mask_text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The masked message, which some handlers ask for by itself."""
        return mask_text(super().formatMessage(record))


class LogFile(logging.FileHandler):
    """Prints once that it cannot be written, where Python's prints a traceback for every line; the terminal has the lines."""

    _has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Handle an error in writing a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            print_plain(f"{self.baseFilename} cannot be written: {error.strerror or error}")


class MaskHydraFiles(Callback):
    """Masks what looks like a secret in `.hydra/` and `multirun.yaml`, as soon as Hydra has written them.

    Secrets of the command line are not in them, see `masking.hide_secrets`; those of an option's own YAML file are.
    """

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Mask the files of this job, and of the sweep that it belongs to."""
        if config.hydra.output_subdir is not None:
            for path in (Path(config.hydra.runtime.output_dir) / config.hydra.output_subdir).glob("*.yaml"):
                mask_file(path)
        self.on_multirun_end(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Mask the file of a sweep whose jobs ran elsewhere."""
        mask_file(Path(config.hydra.sweep.dir) / "multirun.yaml")


def mask_file(path: Path) -> None:
    """Mask a YAML file in its place, in one step; left alone if it holds no secret, or is not there."""
    try:
        content = read_plain_yaml(path)
    except UserError:
        return
    masked = mask_settings(content)
    if masked != content:
        # Jobs of a sweep may be here at the same time.
        write_text(path, OmegaConf.to_yaml(OmegaConf.create(masked)))
