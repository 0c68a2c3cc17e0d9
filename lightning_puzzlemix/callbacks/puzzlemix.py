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
from lightning_puzzlemix.callbacks.batch import Location
from lightning_puzzlemix.callbacks.containers import Keys, as_keys, read
from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.mixers.puzzlemix import PuzzleMix
from lightning_puzzlemix.normalization import Normalization, datamodule_normalization
from lightning_puzzlemix.results import CleanLoss, MixedBatch
from lightning_puzzlemix.saliency.objective import SaliencyLoss
from lightning_puzzlemix.saliency.source import SaliencyCallable
from lightning_puzzlemix.solvers import warm_up
from lightning_puzzlemix.solvers.threads import available_threads


class PuzzleMixCallback(MixCallback):
    """Mix every training batch by Puzzle Mix before ``training_step`` sees it.

    The model's forward must map (B, C, H, W) images to (B, classes) logits, unless ``saliency`` or ``saliency_loss`` say
    otherwise. Logs ``puzzlemix/saliency_seconds``, ``puzzlemix/mixing_seconds``, the figures of
    :func:`~lightning_puzzlemix.monitoring.metrics.mix_metrics` as ``puzzlemix/...``, and the image ``puzzlemix/mix``. All else
    is said at :class:`MixCallback`.

    Examples:
        >>> callback = PuzzleMixCallback(PuzzleMixConfig(mean=(0.5,), std=(0.5,)))
        >>> trainer = pl.Trainer(callbacks=[callback])  # doctest: +SKIP

    Args:
        config: Hyperparameters of the mixing. Without mean and std in it those of ``trainer.datamodule`` are taken, if it
            has them as ``mean`` and ``std`` (numbers, sequences, arrays or tensors); else images are taken to lie in [0, 1].
        prob: Chance in [0, 1] that a batch is mixed; the same decision on every rank.
        start_epoch: First epoch in which batches are mixed.
        stop_epoch: First epoch in which they are not mixed any more.
        clean_weight: Weight of clean regularization, >= 0 (see :class:`PuzzleMix`).
        adversarial_prob: Chance in [0, 1] of adversarial noise on each side (see :class:`PuzzleMix`).
        adversarial_eps: Amplitude of that noise in [0, 1] pixel units.
        saliency: Where saliency comes from: ``"gradient"`` (the paper's), ``"feature"``, ``"spectral"`` or a callable
            (module, images, targets) that returns (B, H, W) (see :class:`PuzzleMix`, also for the next four).
        saliency_layer: Submodule that ``"feature"`` looks at.
        saliency_loss: Loss to differentiate where forward returns no logits, or takes more than the images: a callable
            (module, images, targets) or (module, images, targets, batch), where ``batch`` is what ``training_step`` would get
            without mixing; also the name of a method, called without ``module``.
        saliency_precision: Precision of the saliency pass, such as ``"bf16-mixed"``.
        num_classes: Number of classes, where neither logits nor targets say it.
        targets: ``"soft"`` or ``"pair"``: what ``training_step`` gets for targets.
        seed: Of all draws.
        image_key: Where a batch holds its images.
        target_key: Where it holds its targets.
        log_images_every_n_steps: Optimizer steps between two pictures for the logger; ``None``: no pictures.

    Attributes:
        mixer: The :class:`PuzzleMix` that does the mixing.
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
                f"adversarial_prob={adversarial_prob} makes noise for one view alone, but image_key={image_key!r} names "
                "several: use adversarial_prob=0, or name one view"
            )
        self._given_config = mixer.config
        self._from_datamodule: Normalization | None = None
        self._clean: list[CleanLoss] = []
        self._differentiated = False

    @property
    def config(self) -> PuzzleMixConfig:
        """The hyperparameters in force; from ``setup`` on with the datamodule's mean and std and the number of threads."""
        return self.mixer.config

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, settle seed, normalization and threads, and compile the solver."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._refuse_clean_weight(trainer, pl_module)
        config = self._with_normalization(trainer)
        if config.threads is None:
            cores = available_threads()
            # Lightning's own launcher says nowhere else how many processes share this machine.
            share = cores if "LOCAL_WORLD_SIZE" in os.environ else cores // trainer.num_devices
            config = dataclasses.replace(config, threads=max(1, share))
        self.mixer.config = config
        rank_zero_info(f"Puzzle Mix: {config.solver} mask solver ready after {warm_up(config):.1f} s")

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
        """Return the given config with the datamodule's mean and std where it has none of its own.

        The given one and not the one in force: that may hold what an earlier fit found in another datamodule.
        """
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
        """Give the datamodule's mean and std as many channels as the images, where it has one number for all of them."""
        if self._from_datamodule is None or not isinstance(images, Tensor) or images.ndim != 4:
            return
        mean, std = self._from_datamodule.of_channels(images.shape[1])
        if mean != self.config.mean:
            self.mixer.config = dataclasses.replace(self.config, mean=mean, std=std)

    def _normalization(self, trainer: pl.Trainer) -> dict[str, Any]:
        if self.config.mean is None:
            return super()._normalization(trainer)
        return {"mean": self.config.mean, "std": self.config.std}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what is known only once the optimizers exist."""
        super().on_train_start(trainer, pl_module)
        if self.mixer.clean_weight and any(isinstance(each, torch.optim.LBFGS) for each in trainer.optimizers):
            raise ValueError(
                f"clean_weight={self.mixer.clean_weight} cannot be used with LBFGS, which differentiates each batch several "
                "times: use clean_weight=0 or another optimizer"
            )

    def _mix_part(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, part: int, where: Location
    ) -> MixedBatch:
        self._fit_channels(read(batch, where.images))
        mixed = super()._mix_part(trainer, pl_module, batch, batch_idx, part, where)
        if mixed.clean is not None:
            self._clean.append(mixed.clean)
        return mixed

    def _mixer_options(self, batch: Any) -> dict[str, Any]:
        return {"batch": batch}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add clean regularization to the loss that is about to be differentiated."""
        if self._clean and self._differentiated:
            raise ValueError(
                f"clean_weight={self.mixer.clean_weight} cannot be used with an optimizer that differentiates each batch "
                "several times (LBFGS, SAM and the like), since its gradients belong to the weights of the first time: use "
                "clean_weight=0 or another optimizer"
            )
        self._differentiated = True
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        for clean in self._clean:
            term = clean.surrogate_loss() / trainer.accumulate_grad_batches
            # Under float16 the loss comes here already multiplied by the loss scale.
            loss.add_(term if scaler is None else scaler.scale(term))

    def _forget_batch(self) -> None:
        super()._forget_batch()
        self._clean, self._differentiated = [], False
