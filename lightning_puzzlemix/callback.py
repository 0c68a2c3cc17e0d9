"""PuzzleMixCallback: when to mix; Lightning hooks and no arithmetic."""

from __future__ import annotations

import dataclasses
import os
import secrets
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_puzzlemix.batch import Key, find_keys, read, replaced
from lightning_puzzlemix.clean import CleanGradients
from lightning_puzzlemix.config import PuzzleMixConfig, check_probability
from lightning_puzzlemix.draw import MixDraw, draw_decision, draw_mix
from lightning_puzzlemix.interception import Interception
from lightning_puzzlemix.mask_solver import warm_up
from lightning_puzzlemix.mixer import MixedBatch, PuzzleMix
from lightning_puzzlemix.monitor import Stopwatch
from lightning_puzzlemix.threads import available_threads

_SALIENCY_SOURCES = ("gradient",)


class PuzzleMixCallback(pl.Callback):
    """Mix every training batch by Puzzle Mix before ``training_step`` sees it.

    The model's forward must map (B, C, H, W) images to (B, classes) logits, and its loss take (B, classes) soft targets, as
    ``torch.nn.functional.cross_entropy`` does. Batches may be lists, tuples, namedtuples, dicts or dataclasses; validation,
    test and prediction are untouched. Logs ``puzzlemix/ratio``, ``puzzlemix/saliency_seconds`` and
    ``puzzlemix/mixing_seconds``.

    Example:
        >>> callback = PuzzleMixCallback(PuzzleMixConfig(mean=(0.5,), std=(0.5,)))
        >>> trainer = pl.Trainer(callbacks=[callback])  # doctest: +SKIP

    Args:
        config: Hyperparameters of the mixing. Without mean and std in it those of ``trainer.datamodule`` are taken, if it
            has them as ``mean`` and ``std``; else images are taken to lie in [0, 1].
        prob: Chance in [0, 1] that a batch is mixed; the same decision on every rank.
        clean_weight: Weight of clean regularisation, >= 0 (see :class:`PuzzleMix`).
        adversarial_prob: Chance in [0, 1] of adversarial noise on each side (see :class:`PuzzleMix`).
        adversarial_eps: Amplitude of that noise in [0, 1] pixel units.
        saliency: Where saliency comes from: ``"gradient"``, the paper's.
        seed: Of all draws; each also depends on rank, epoch and batch index, so that a resumed run draws what the
            uninterrupted one would have. ``None`` takes ``seed_everything``'s, else a random one, kept in checkpoints.
        image_key: Where a batch holds its images (name or position); ``None`` finds them.
        target_key: Where it holds its targets; ``None`` finds them.

    Attributes:
        last: The :class:`MixedBatch` of the last mixed batch, detached; ``None`` before the first.
        mixer: The :class:`PuzzleMix` that does the mixing.
    """

    def __init__(
        self,
        config: PuzzleMixConfig | None = None,
        *,
        prob: float = 1.0,
        clean_weight: float = 0.0,
        adversarial_prob: float = 0.0,
        adversarial_eps: float = 10 / 255,
        saliency: str = "gradient",
        seed: int | None = None,
        image_key: Key | None = None,
        target_key: Key | None = None,
    ) -> None:
        check_probability("prob", prob)
        if saliency not in _SALIENCY_SOURCES:
            raise ValueError(f"saliency must be one of {_SALIENCY_SOURCES}, got {saliency!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise ValueError(f"seed must be a non-negative integer or None, got {seed!r}")
        self.mixer = PuzzleMix(
            config, clean_weight=clean_weight, adversarial_prob=adversarial_prob, adversarial_eps=adversarial_eps
        )
        self.prob = prob
        self.saliency = saliency
        self.seed = seed
        self.image_key = image_key
        self.target_key = target_key
        self.last: MixedBatch | None = None
        self._drawn_seed: int | None = None
        self._clean: CleanGradients | None = None
        self._interception = Interception()
        self._stopwatch = Stopwatch()

    @property
    def config(self) -> PuzzleMixConfig:
        """The hyperparameters in force; from ``setup`` on with the datamodule's mean and std and the number of threads."""
        return self.mixer.config

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of "saliency" and "mixing" since the running (or last) epoch began."""
        return {"saliency": 0.0, "mixing": 0.0} | self._stopwatch.totals()

    def draw(self, images: Tensor, *, rank: int = 0, epoch: int = 0, batch_idx: int = 0) -> MixDraw:
        """Draw the random choices for one batch; override this to fix any of them.

        Args:
            images: (B, C, H, W) images of the batch.
            rank: Global rank of this process.
            epoch: Running epoch.
            batch_idx: Index of the batch in it.
        """
        return draw_mix(
            images,
            self.config,
            (self._seed_in_force(), rank, epoch, batch_idx),
            adversarial_prob=self.mixer.adversarial_prob,
            adversarial_eps=self.mixer.adversarial_eps,
        )

    def _seed_in_force(self) -> int:
        if self.seed is not None:
            return self.seed
        if self._drawn_seed is None:
            globally = os.environ.get("PL_GLOBAL_SEED")
            self._drawn_seed = int(globally) if globally else secrets.randbits(31)
        return self._drawn_seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, settle seed, normalisation and threads, and compile the solver."""
        if stage != "fit":
            return
        self._refuse_unsupported(trainer, pl_module)
        # Every rank must draw from the same seed, or they would decide differently whether to mix.
        self._drawn_seed = int(trainer.strategy.broadcast(self._seed_in_force()))
        config = self._with_normalisation(trainer)
        if config.threads is None:
            # Lightning's own launcher says nowhere else how many processes share this machine.
            share = (
                available_threads() if "LOCAL_WORLD_SIZE" in os.environ else available_threads() // trainer.num_devices
            )
            config = dataclasses.replace(config, threads=max(1, share))
        self.mixer.config = config
        rank_zero_info(f"Puzzle Mix: {config.solver} mask solver ready after {warm_up(config):.1f} s")

    def _refuse_unsupported(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
            raise ValueError(
                "PuzzleMixCallback cannot mix for training_step(self, dataloader_iter), which fetches its own batches: use "
                "training_step(self, batch, batch_idx)"
            )
        if self.mixer.clean_weight and not pl_module.automatic_optimization:
            raise ValueError(
                f"clean_weight={self.mixer.clean_weight} needs automatic optimisation: use clean_weight=0, or mix with "
                "lightning_puzzlemix.PuzzleMix inside training_step and add mixed.clean.term() to the loss"
            )

    def _with_normalisation(self, trainer: pl.Trainer) -> PuzzleMixConfig:
        """Return the config with the datamodule's mean and std where it has none of its own."""
        config = self.mixer.config
        if config.std is not None:
            return config
        datamodule = getattr(trainer, "datamodule", None)
        mean, std = getattr(datamodule, "mean", None), getattr(datamodule, "std", None)
        if mean is None or std is None:
            rank_zero_info(
                "Puzzle Mix: neither the config nor the datamodule has mean and std; images are taken to be in [0, 1]"
            )
            return config
        mean, std = (value.tolist() if isinstance(value, Tensor) else value for value in (mean, std))
        return dataclasses.replace(config, mean=mean, std=std)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what is known only once the optimisers exist."""
        if self.mixer.clean_weight and any(isinstance(each, torch.optim.LBFGS) for each in trainer.optimizers):
            raise ValueError(
                f"clean_weight={self.mixer.clean_weight} cannot be used with LBFGS, which differentiates each batch several "
                "times: use clean_weight=0 or another optimiser"
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch's seconds from zero."""
        self._stopwatch.reset()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mix the batch and let ``training_step`` get the mixed one."""
        self._forget_batch()
        epoch = trainer.current_epoch
        if not draw_decision(self.prob, (self._seed_in_force(), epoch, batch_idx)):
            return
        keys = find_keys(batch, self.image_key, self.target_key)
        images, targets = read(batch, keys.images), read(batch, keys.targets)
        mixed = self.mixer(
            pl_module,
            images,
            targets,
            self.draw(images, rank=trainer.global_rank, epoch=epoch, batch_idx=batch_idx),
            forward_context=trainer.precision_plugin.forward_context,
            stopwatch=self._stopwatch,
        )
        self._clean, self.last = mixed.clean, dataclasses.replace(mixed, clean=None)
        replacement = replaced(batch, {keys.images: mixed.images, keys.targets: mixed.targets})
        many_steps = any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers)
        self._interception.install(pl_module, batch, replacement, keep=many_steps)
        self._log_figures(pl_module, mixed)

    def _log_figures(self, pl_module: pl.LightningModule, mixed: MixedBatch) -> None:
        batch = len(mixed.ratio)
        pl_module.log("puzzlemix/ratio", mixed.ratio.mean(), on_step=True, on_epoch=False, batch_size=batch)
        for phase, seconds in self._stopwatch.latest().items():
            pl_module.log(f"puzzlemix/{phase}_seconds", seconds, on_step=True, on_epoch=False, batch_size=batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Add clean regularisation to the loss that is about to be differentiated."""
        if self._clean is None:
            return
        term = self._clean.term() / trainer.accumulate_grad_batches
        # Under float16 the loss comes here already multiplied by the loss scale.
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        loss.add_(term if scaler is None else scaler.scale(term))

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Leave nothing on the module."""
        self._forget_batch()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave nothing on the module."""
        self._forget_batch()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave nothing on the module: after an exception no other hook runs."""
        self._forget_batch()

    def _forget_batch(self) -> None:
        self._interception.remove()
        self._clean = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed alone, since draws have no other state."""
        return {"version": 1, "seed": self._seed_in_force()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seed of the run that is resumed, unless one was given to this callback."""
        self._drawn_seed = int(state_dict["seed"])

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the module's methods, which Lightning hangs onto callbacks."""
        return {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
