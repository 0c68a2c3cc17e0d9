"""Log an image of a mixed batch: when, and how each logger gets it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_puzzlemix.monitoring import plots
from lightning_puzzlemix.normalization import datamodule_normalization
from lightning_puzzlemix.results import MixedBatch

ROWS = 4
_DPI = 110


class MixImageLogger:
    """Logs an image of a mixed batch every so many steps to each logger that accepts images, on rank zero.

    That is the first mixed batch of a fit, then the first one after every ``every`` optimizer steps, and the last. W&B and
    TensorBoard get the image as ``<name>/mix``, CSV loggers a file ``images/<name>_step_00000000.png`` in their folder. If an
    image fails, this is reported once, and the training continues without images.

    Args:
        name: Name of the mixing method.
        every: Optimizer steps between two images, >= 1; ``None``: no images.
    """

    def __init__(self, name: str, every: int | None) -> None:
        self.name = name
        self.every = every
        self._due_at: int | None = None
        self._last: tuple[int, MixedBatch, Tensor] | None = None

    def start(self, trainer: pl.Trainer) -> None:
        """Begin a fit: find out whether any logger accepts images."""
        self._last = None
        wanted = self.every is not None and trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        accepted = any(map(accepts_images, trainer.loggers))
        # A resumed run begins at a step of its own, with an image.
        self._due_at = trainer.global_step if wanted and accepted else None
        if wanted and trainer.loggers and not accepted:
            names = ", ".join(type(logger).__name__ for logger in trainer.loggers)
            rank_zero_info(
                f"{self.name}: no images, since they go to W&B, TensorBoard and CSV loggers and not to {names}; plot them "
                "yourself by lightning_puzzlemix.monitoring.plot_mixes(callback.last)"
            )

    def offer(self, trainer: pl.Trainer, mixed: MixedBatch, targets: Tensor) -> None:
        """Take a mixed batch with the targets of its originals, and log an image if one is due."""
        if self._due_at is None or self.every is None:
            return
        self._last = (trainer.global_step, mixed, targets)
        if trainer.global_step >= self._due_at:
            self._due_at = trainer.global_step + self.every
            self._log(trainer)

    def forget(self) -> None:
        """Free the memory of the last mixed batch, since another one is about to be mixed."""
        self._last = None

    def finish(self, trainer: pl.Trainer) -> None:
        """End a fit with an image of its last mixed batch."""
        if self._due_at is not None and self._last is not None:
            self._log(trainer)
        self.stop()

    def stop(self) -> None:
        """End a fit without an image."""
        self._due_at, self._last = None, None

    def _log(self, trainer: pl.Trainer) -> None:
        assert self._last is not None
        step, mixed, targets = self._last
        self._last = None
        try:
            datamodule = getattr(trainer, "datamodule", None)
            options = {"class_names": getattr(datamodule, "class_names", None)} | _normalization(mixed, datamodule)
            image = render_mixes(mixed, targets, **options)
            for logger in trainer.loggers:
                log_image(logger, self.name, image, step)
        except ImportError as error:
            self._due_at = None
            rank_zero_info(
                f"{self.name}: no images ({error}): pip install matplotlib, or pass log_images_every_n_steps=None"
            )
        except Exception as error:
            self._due_at = None
            rank_zero_warn(f"{self.name}: no more images, since one failed: {type(error).__name__}: {error}")


def _normalization(mixed: MixedBatch, datamodule: Any) -> dict[str, Any]:
    """Return mean and std for images of a mixer that does not know them: those of the datamodule, if it has them."""
    found = None if mixed.std is not None else datamodule_normalization(datamodule)
    return {} if found is None else dict(zip(("mean", "std"), found.of_channels(mixed.images.shape[1]), strict=True))


def render_mixes(mixed: MixedBatch, targets: Tensor, **options: Any) -> np.ndarray:
    """Render the plot of a batch as (height, width, 3) uint8; ``options`` are those of ``plot_mixes``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = plots.plot_mixes(mixed, targets=targets, rows=ROWS, **options)
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def accepts_images(logger: Any) -> bool:
    """Tell whether a logger is one of W&B, TensorBoard or CSV, of ``pytorch_lightning`` or of ``lightning``."""
    return bool(_class_names(logger) & {"WandbLogger", "TensorBoardLogger", "CSVLogger"})


def log_image(logger: Any, name: str, image: np.ndarray, step: int) -> None:
    """Log an image (height, width, 3) as ``<name>/mix``; loggers of other kinds get none."""
    kinds = _class_names(logger)
    if "WandbLogger" in kinds:
        logger.log_image(f"{name}/mix", [image], step=step)
    elif "TensorBoardLogger" in kinds:
        logger.experiment.add_image(f"{name}/mix", image, step, dataformats="HWC")
    elif "CSVLogger" in kinds:
        _save(image, f"{logger.log_dir}/images", f"{name}_step_{step:08d}.png")


def _save(image: np.ndarray, folder: str, name: str) -> None:
    """Write a PNG through Lightning's file system, which may be a remote one."""
    # A part of pytorch-lightning.
    from lightning_fabric.utilities.cloud_io import get_filesystem
    from matplotlib.image import imsave

    filesystem = get_filesystem(folder)
    filesystem.makedirs(folder, exist_ok=True)
    with filesystem.open(f"{folder}/{name}", "wb") as file:
        imsave(file, image, format="png")


def _class_names(logger: Any) -> set[str]:
    # By name: the classes of the two packages are not related, and wandb need not be installed.
    return {each.__name__ for each in type(logger).__mro__}
