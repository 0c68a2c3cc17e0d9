"""The picture of a mix on its way to the loggers: when it is due, how it is drawn, where it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_puzzlemix.results import MixedBatch

Normalization = Callable[[pl.Trainer], dict[str, Any]]
ROWS = 4
_DPI = 110


class MixImageLogger:
    """Draws a mixed batch every so many steps for each logger that takes pictures, on rank zero.

    The first mixed batch of a fit is drawn, then the first one after every ``every`` optimizer steps, and the last. W&B and
    TensorBoard get the picture as ``<name>/mix``, CSV loggers a file ``pictures/<name>_step_00000000.png`` in their folder.
    Whatever goes wrong with a picture is said once, and never ends a training.

    Args:
        name: Of the way of mixing.
        every: Optimizer steps between two pictures, >= 1; ``None``: no pictures.
    """

    def __init__(self, name: str, every: int | None) -> None:
        self.name = name
        self.every = every
        self._due_at: int | None = None
        self._last: tuple[int, MixedBatch, Tensor] | None = None

    def start(self, trainer: pl.Trainer) -> None:
        """Begin a fit: find out whether any logger wants pictures."""
        self._last = None
        wanted = self.every is not None and trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        takers = [logger for logger in trainer.loggers if wanted and takes_pictures(logger)]
        # A resumed run begins at a step of its own, with a picture.
        self._due_at = trainer.global_step if takers else None
        if wanted and trainer.loggers and not takers:
            names = ", ".join(type(logger).__name__ for logger in trainer.loggers)
            rank_zero_info(
                f"{self.name}: no pictures, which go to W&B, TensorBoard and CSV loggers and not to {names}; draw your own "
                "with lightning_puzzlemix.monitoring.plots.draw_mixes(callback.last)"
            )

    def offer(self, trainer: pl.Trainer, mixed: MixedBatch, targets: Tensor, normalization: Normalization) -> None:
        """Take a mixed batch, and draw it if a picture is due; ``normalization`` finds mean and std, see ``draw_mixes``."""
        if self._due_at is None or self.every is None:
            return
        self._last = (trainer.global_step, mixed, targets)
        if trainer.global_step >= self._due_at:
            self._due_at = trainer.global_step + self.every
            self._send(trainer, normalization)

    def finish(self, trainer: pl.Trainer, normalization: Normalization) -> None:
        """End a fit with a picture of its last mixed batch."""
        if self._due_at is not None and self._last is not None:
            self._send(trainer, normalization)
        self.abandon()

    def abandon(self) -> None:
        """End a fit without one."""
        self._due_at, self._last = None, None

    def _send(self, trainer: pl.Trainer, normalization: Normalization) -> None:
        assert self._last is not None
        step, mixed, targets = self._last
        self._last = None
        try:
            pixels = draw_pixels(mixed, targets, class_names=_class_names(trainer), **normalization(trainer))
            for logger in trainer.loggers:
                send_picture(logger, self.name, pixels, step)
        except ImportError as error:
            self._due_at = None
            rank_zero_info(
                f"{self.name}: no pictures ({error}): pip install matplotlib, or pass log_images_every_n_steps=None"
            )
        except Exception as error:
            self._due_at = None
            rank_zero_warn(f"{self.name}: no more pictures, as one failed: {type(error).__name__}: {error}")


def draw_pixels(mixed: MixedBatch, targets: Tensor, **options: Any) -> np.ndarray:
    """Draw a batch as (height, width, 3) uint8; ``options`` are those of ``draw_mixes``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from lightning_puzzlemix.monitoring.plots import draw_mixes

    figure = draw_mixes(mixed, targets=targets, rows=ROWS, **options)
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def takes_pictures(logger: Any) -> bool:
    """Tell whether a logger is one of W&B, TensorBoard or CSV, of ``pytorch_lightning`` or of ``lightning``."""
    return bool(_kinds(logger) & {"WandbLogger", "TensorBoardLogger", "CSVLogger"})


def send_picture(logger: Any, name: str, pixels: np.ndarray, step: int) -> None:
    """Hand a picture (height, width, 3) to a logger as ``<name>/mix``; loggers of other kinds get none."""
    kinds = _kinds(logger)
    if "WandbLogger" in kinds:
        logger.log_image(f"{name}/mix", [pixels], step=step)
    elif "TensorBoardLogger" in kinds:
        logger.experiment.add_image(f"{name}/mix", pixels, step, dataformats="HWC")
    elif "CSVLogger" in kinds:
        _save(pixels, f"{logger.log_dir}/pictures", f"{name}_step_{step:08d}.png")


def _save(pixels: np.ndarray, folder: str, name: str) -> None:
    """Write a PNG where Lightning writes, which may be far away."""
    # A part of pytorch-lightning.
    from lightning_fabric.utilities.cloud_io import get_filesystem
    from matplotlib.image import imsave

    filesystem = get_filesystem(folder)
    filesystem.makedirs(folder, exist_ok=True)
    with filesystem.open(f"{folder}/{name}", "wb") as file:
        imsave(file, pixels, format="png")


def _kinds(logger: Any) -> set[str]:
    # By name: the classes of the two packages are not related, and wandb need not be installed.
    return {each.__name__ for each in type(logger).__mro__}


def _class_names(trainer: pl.Trainer) -> Any:
    return getattr(getattr(trainer, "datamodule", None), "class_names", None)
