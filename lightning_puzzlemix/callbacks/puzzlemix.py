"""PuzzleMixCallback: Puzzle Mix in a Trainer."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_puzzlemix.callbacks.base import LOG_IMAGES_EVERY_N_STEPS, MixCallback
from lightning_puzzlemix.callbacks.batch import SamplePaths
from lightning_puzzlemix.callbacks.containers import Keys, as_keys, read
from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.mixers import PuzzleMix
from lightning_puzzlemix.normalization import Normalization, datamodule_normalization
from lightning_puzzlemix.results import CleanLoss, MixedBatch
from lightning_puzzlemix.saliency import SaliencyCallable, SaliencyLoss
from lightning_puzzlemix.solvers import available_threads, warm_up


class PuzzleMixCallback(MixCallback):
    """Mix every training batch by Puzzle Mix before ``training_step`` gets it.

    The model's forward must map (B, C, H, W) images to (B, classes) logits, unless ``saliency`` or ``saliency_loss`` is given.
    Logs the metrics of :func:`~lightning_puzzlemix.monitoring.mix_metrics`, ``saliency_seconds`` and ``mixing_seconds`` as
    ``puzzlemix/...``, and the image ``puzzlemix/mix``. :class:`MixCallback` and :class:`PuzzleMix` explain the arguments.

    Examples:
        >>> callback = PuzzleMixCallback(PuzzleMixConfig(mean=(0.5,), std=(0.5,)))
        >>> trainer = pl.Trainer(callbacks=[callback])  # doctest: +SKIP

    Args:
        config: Hyperparameters of the mixing. If it has no mean and std, those of ``trainer.datamodule`` are used (attributes
            ``mean`` and ``std``: numbers, sequences, arrays or tensors); else images are taken to be in [0, 1].
        prob: Chance in [0, 1] that a batch is mixed; the same decision on every rank.
        start_epoch: First epoch in which batches are mixed.
        stop_epoch: First later epoch in which they are not mixed.
        clean_weight: Weight of clean regularization, >= 0.
        adversarial_prob: Chance in [0, 1] of adversarial noise on each side.
        adversarial_eps: Amplitude of that noise in [0, 1] pixel units.
        saliency: ``"gradient"`` (the paper's), ``"feature"``, ``"spectral"``, or a callable (module, images, targets) that
            returns (B, H, W).
        saliency_layer: Submodule whose output ``"feature"`` uses.
        saliency_loss: Loss to differentiate if forward returns no logits, or takes more than the images: a callable
            (module, images, targets) or (module, images, targets, batch), where ``batch`` is the unmixed batch; or the name of
            a method, called without ``module``.
        saliency_precision: Precision of the saliency pass, such as ``"bf16-mixed"``.
        sample_prob: Chance in [0, 1] that a sample of a batch is mixed; the others keep their image and target.
        num_classes: Number of classes, if neither logits nor targets show it.
        targets: Form of the targets in ``training_step``: ``"soft"`` or ``"pair"``.
        seed: Seed of all draws.
        image_key: The images in a batch.
        target_key: The targets in a batch.
        log_images_every_n_steps: Optimizer steps between two images for the loggers; ``None``: no images.

    Attributes:
        mixer: The :class:`PuzzleMix` that mixes.
    """

    name = "puzzlemix"
    mixer: PuzzleMix

    def __init__(
        self,
        config: PuzzleMixConfig | None = None,
        *,
        prob: float = 1.0,
        start_epoch: int = 0,
        stop_epoch: int | None = None,
        clean_weight: float = 0.0,
        adversarial_prob: float = 0.0,
        adversarial_eps: float = 10 / 255,
        saliency: str | SaliencyCallable = "gradient",
        saliency_layer: str | None = None,
        saliency_loss: SaliencyLoss | str | None = None,
        saliency_precision: str | None = None,
        sample_prob: float = 1.0,
        num_classes: int | None = None,
        targets: str = "soft",
        seed: int | None = None,
        image_key: Keys | None = None,
        target_key: Keys | None = None,
        log_images_every_n_steps: int | None = LOG_IMAGES_EVERY_N_STEPS,
    ) -> None:
        mixer = PuzzleMix(
            config,
            clean_weight=clean_weight,
            adversarial_prob=adversarial_prob,
            adversarial_eps=adversarial_eps,
            saliency=saliency,
            saliency_layer=saliency_layer,
            saliency_loss=saliency_loss,
            saliency_precision=saliency_precision,
            sample_prob=sample_prob,
            num_classes=num_classes,
        )
        super().__init__(
            mixer,
            prob=prob,
            start_epoch=start_epoch,
            stop_epoch=stop_epoch,
            targets=targets,
            seed=seed,
            image_key=image_key,
            target_key=target_key,
            log_images_every_n_steps=log_images_every_n_steps,
        )
        if adversarial_prob and len(as_keys(image_key)) > 1:
            raise ValueError(
                f"adversarial_prob={adversarial_prob} makes noise for one view only, but image_key={image_key!r} names "
                "several: use adversarial_prob=0, or name one view"
            )
        self._given_config = mixer.config
        self._from_datamodule: Normalization | None = None
        self._clean: list[CleanLoss] = []
        self._differentiated = False

    @property
    def config(self) -> PuzzleMixConfig:
        """The current hyperparameters; after ``setup`` with the datamodule's mean and std and the number of threads."""
        return self.mixer.config

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, find seed, normalization and threads, and compile the solver."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._refuse_clean_weight(trainer, pl_module)
        config = self._with_normalization(trainer)
        if config.threads is None:
            cores = available_threads()
            # Without this variable of torchrun, only the Trainer knows how many processes share this machine.
            share = cores if "LOCAL_WORLD_SIZE" in os.environ else cores // trainer.num_devices
            config = dataclasses.replace(config, threads=max(1, share))
        self.mixer.config = config
        # Those that a failed fit has left.
        self.mixer.checks.clear()
        seconds = warm_up(config, trainer.strategy.root_device)
        rank_zero_info(f"Puzzle Mix: {config.solver} mask solver ready after {seconds:.1f} s")

    def _refuse_clean_weight(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weight = self.mixer.clean_weight
        if not weight:
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"clean_weight={weight} needs automatic optimization: use clean_weight=0, or mix with "
                "lightning_puzzlemix.PuzzleMix inside training_step and add mixed.clean.surrogate_loss() to the loss"
            )
        if "deepspeed" in type(trainer.strategy).__name__.lower():
            raise ValueError(
                f"clean_weight={weight} cannot be used with DeepSpeed, which differentiates the loss itself: use "
                "clean_weight=0 or another strategy"
            )

    def _with_normalization(self, trainer: pl.Trainer) -> PuzzleMixConfig:
        """Return the given config with the datamodule's mean and std, if it has none."""
        # The current one may hold those that an earlier fit found in another datamodule.
        config, self._from_datamodule = self._given_config, None
        if config.std is not None:
            return config
        self._from_datamodule = datamodule_normalization(getattr(trainer, "datamodule", None))
        if self._from_datamodule is None:
            rank_zero_info(
                "Puzzle Mix: neither the config nor the datamodule has mean and std; images are taken to be in [0, 1]"
            )
            return config
        mean, std = self._from_datamodule.of_channels(max(map(len, self._from_datamodule[:2])))
        return dataclasses.replace(config, mean=mean, std=std)

    def _fit_channels(self, images: Any) -> None:
        """Repeat the datamodule's mean and std for the channels of the images, if it has one number for all of them."""
        if self._from_datamodule is None or not isinstance(images, Tensor) or images.ndim != 4:
            return
        mean, std = self._from_datamodule.of_channels(images.shape[1])
        if mean != self.config.mean:
            self.mixer.config = dataclasses.replace(self.config, mean=mean, std=std)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse optimizers that cannot work."""
        super().on_train_start(trainer, pl_module)
        if self.mixer.clean_weight and any(isinstance(each, torch.optim.LBFGS) for each in trainer.optimizers):
            raise self._repeated_backward()

    def _repeated_backward(self) -> ValueError:
        return ValueError(
            f"clean_weight={self.mixer.clean_weight} cannot be used with an optimizer that differentiates each batch "
            "several times (LBFGS, SAM and the like), since its gradients belong to the weights of the first: use "
            "clean_weight=0 or another optimizer"
        )

    def _mix(
        self, trainer: Any, pl_module: Any, batch: Any, where: SamplePaths, key: dict[str, int], /, **options: Any
    ) -> MixedBatch:
        self._fit_channels(read(batch, where.images[0]))
        self.mixer.checks.batch = f"batch {key['batch_idx']} of epoch {key['epoch']}"
        mixed = super()._mix(trainer, pl_module, batch, where, key, batch=batch, **options)
        if mixed.clean is not None:
            self._clean.append(mixed.clean)
        return mixed

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add clean regularization to the loss."""
        if self._clean and self._differentiated:
            raise self._repeated_backward()
        self._differentiated = True
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        for clean in self._clean:
            term = clean.surrogate_loss() / trainer.accumulate_grad_batches
            # Under float16 the loss is already multiplied by the loss scale.
            loss.add_(term if scaler is None else scaler.scale(term))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the checks of values that a device has left (see :class:`PuzzleMix`), and restore the module."""
        super().on_train_epoch_end(trainer, pl_module)
        self.mixer.checks.finish()

    def _restore_module(self) -> None:
        super()._restore_module()
        self._clean, self._differentiated = [], False
