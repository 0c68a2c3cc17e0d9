"""Callbacks of the baselines: input mixup, CutMix, manifold mixup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from lightning_puzzlemix.callbacks.base import MixCallback
from lightning_puzzlemix.callbacks.batch import SamplePaths
from lightning_puzzlemix.callbacks.containers import as_keys, dotted, tensors_of
from lightning_puzzlemix.callbacks.layer_mix import LayerMix
from lightning_puzzlemix.mixers import CutMix, ManifoldMix, MixUp
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.sampling import INPUT


class MixUpCallback(MixCallback):
    """Mix every training batch by input mixup.

    Args:
        alpha: Both parameters of the Beta distribution of lam, from 1e-6 to 1e6.
        per_sample: One lam for each sample instead of one for the batch, as published.
        sample_prob: Chance in [0, 1] that a sample of a batch is mixed; the others keep their image and target.
        num_classes: Number of classes, if targets do not show it; ``None`` finds it by one forward pass.
        options: The other arguments of :class:`MixCallback`.
    """

    name = "mixup"

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        per_sample: bool = False,
        sample_prob: float = 1.0,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        mixer = MixUp(alpha=alpha, per_sample=per_sample, sample_prob=sample_prob, num_classes=num_classes)
        super().__init__(mixer, **options)


class CutMixCallback(MixCallback):
    """Mix every training batch by CutMix.

    Args:
        alpha: Both parameters of the Beta distribution of lam, from 1e-6 to 1e6.
        per_sample: One box for each sample instead of one for the batch, as published.
        sample_prob: Chance in [0, 1] that a sample of a batch is mixed; the others keep their image and target.
        num_classes: Number of classes, if targets do not show it; ``None`` finds it by one forward pass.
        options: The other arguments of :class:`MixCallback`.
    """

    name = "cutmix"

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        per_sample: bool = False,
        sample_prob: float = 1.0,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        mixer = CutMix(alpha=alpha, per_sample=per_sample, sample_prob=sample_prob, num_classes=num_classes)
        super().__init__(mixer, **options)


class ManifoldMixCallback(MixCallback):
    """Mix the output of a random layer of the model in every training batch, through hooks during the step.

    Args:
        alpha: Both parameters of the Beta distribution of lam, from 1e-6 to 1e6.
        layers: Names of submodules of the LightningModule, such as ``"net.layer1"``, or ``"input"``; one is drawn for each
            batch. Each must return a tensor with the batch first, and run once in a forward pass.
        per_sample: One lam for each sample instead of one for the batch, as published.
        sample_prob: Chance in [0, 1] that a sample of a batch is mixed; the others keep their image and target.
        num_classes: Number of classes, if targets do not show it; ``None`` finds it by one forward pass.
        options: The other arguments of :class:`MixCallback`.
    """

    name = "manifoldmix"
    mixer: ManifoldMix

    def __init__(
        self,
        alpha: float = 2.0,
        *,
        layers: Sequence[str] = (INPUT, "layer1", "layer2"),
        per_sample: bool = False,
        sample_prob: float = 1.0,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        mixer = ManifoldMix(
            layers, alpha=alpha, per_sample=per_sample, sample_prob=sample_prob, num_classes=num_classes
        )
        super().__init__(mixer, **options)
        if len(as_keys(self.image_key)) > 1 and set(self.mixer.layers) != {INPUT}:
            raise ValueError(
                f"image_key={self.image_key!r} names several views, whose layer outputs cannot be told apart: use "
                f"layers=['input'] in place of layers={list(self.mixer.layers)}, or name one view"
            )
        self._layer_mix: LayerMix | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse layers that the module does not have."""
        super().setup(trainer, pl_module, stage)
        names = dict(pl_module.named_modules())
        unknown = [layer for layer in self.mixer.layers if layer != INPUT and layer not in names]
        if stage == "fit" and unknown:
            candidates = [name for name in names if name and name.count(".") <= 2][:20]
            raise ValueError(
                f"layers must name submodules of the module or 'input', got {unknown}: it has {candidates}"
            )

    def _mix(
        self, trainer: Any, pl_module: Any, batch: Any, where: SamplePaths, key: dict[str, int], /, **options: Any
    ) -> MixedBatch:
        mixed = super()._mix(trainer, pl_module, batch, where, key, **options)
        if mixed.layer is None:
            return mixed
        if "part" in key:
            raise ValueError(
                "ManifoldMixCallback cannot mix several sets of images in one step, whose layer outputs cannot be told apart: "
                "name one by image_key and target_key, or use layers=['input']"
            )
        self._layer_mix = LayerMix(
            pl_module,
            mixed.layer,
            mixed.draw.permutation,
            mixed.ratio,
            step=lambda: self._swap.runs if self._swap.running else 0,
            others=[dotted(path) for path, value in tensors_of(batch) if value.ndim == 4 and path != where.images[0]],
        )
        return mixed

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Check that the layer was mixed, and restore the module."""
        missed = None if self._layer_mix is None or self._layer_mix.ran else self._layer_mix.layer
        super().on_train_batch_end(*args, **kwargs)
        if missed is not None:
            raise RuntimeError(
                f"layers: {missed!r} did not run in training_step in the mode that the model had before it, so only the "
                "targets were mixed: name a layer that runs"
            )

    def _restore_module(self) -> None:
        super()._restore_module()
        if self._layer_mix is not None:
            self._layer_mix.remove()
        self._layer_mix = None
