"""The baselines MixUp, CutMix and manifold mixup, on the same draws and targets as Puzzle Mix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from lightning_puzzlemix.mixers.timer import PhaseTimer
from lightning_puzzlemix.results import MixedBatch
from lightning_puzzlemix.saliency import ForwardContext, PerModel, count_classes
from lightning_puzzlemix.sampling import INPUT, BaselineDraw, MixDraw, draw_kept, random_generator
from lightning_puzzlemix.solvers import send
from lightning_puzzlemix.targets import mix_task_targets
from lightning_puzzlemix.validation import (
    check_alpha,
    check_bool,
    check_image_batch,
    check_num_classes,
    check_probability,
)


class _Baseline:
    """What the baselines share: lam, partners, and mixed targets.

    Args:
        alpha: Both parameters of the Beta distribution of lam, from 1e-6 to 1e6.
        per_sample: Whether every sample gets its own lam (and box) instead of one a batch, as published.
        sample_prob: Chance in [0, 1] that a sample is mixed; the others keep their image and target, and may be partners.
        num_classes: Number of classes, >= 1, for class indices as targets; ``None`` asks the model by one forward pass.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        per_sample: bool = False,
        sample_prob: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        self.sample_prob = check_probability("sample_prob", sample_prob)
        self.num_classes = check_num_classes(num_classes)
        self.per_sample = check_bool("per_sample", per_sample)
        self.alpha = check_alpha(alpha)
        self._classes_of: PerModel[int] = PerModel()

    def draw(self, images: Tensor, *, key: tuple[int, ...] | None = None) -> BaselineDraw:
        """Draw the random choices for a batch (see :class:`Mixer`)."""
        check_image_batch(images)
        rng = random_generator(key)
        lam = rng.beta(self.alpha, self.alpha, size=len(images) if self.per_sample else None)
        generator = torch.Generator(images.device).manual_seed(int(rng.integers(2**63)))
        permutation = torch.randperm(len(images), device=images.device, generator=generator)
        draw = self._finish_draw(images, permutation, lam, rng)
        return dataclasses.replace(draw, kept=draw_kept(len(images), self.sample_prob, rng))

    def _finish_draw(
        self, images: Tensor, permutation: Tensor, lam: float | np.ndarray, rng: np.random.Generator
    ) -> BaselineDraw:
        return BaselineDraw(permutation, torch.from_numpy(lam) if isinstance(lam, np.ndarray) else float(lam))

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        draw: MixDraw | None = None,
        *,
        forward_context: ForwardContext = nullcontext,
        timer: PhaseTimer | None = None,
    ) -> MixedBatch:
        """Mix a batch; images, targets and model are left unchanged.

        Args:
            model: Runs once, for its number of classes, where ``targets`` are class indices and ``num_classes`` is ``None``.
            images: (B, C, H, W) floating point.
            targets: (B,) class indices or (B, classes) probabilities.
            draw: The random choices; ``None`` draws them.
            forward_context: Makes the context of that one forward pass.
            timer: Measures the phase "mixing".
        """
        if draw is None:
            chosen = self.draw(images)
        else:
            check_image_batch(images)
            chosen = self._accept(draw)
        timer = PhaseTimer() if timer is None else timer
        num_classes = self.num_classes
        if num_classes is None:
            num_classes = count_classes(model, images, targets, self._classes_of, forward_context)
        with timer.phase("mixing", images.device), torch.no_grad():
            mixed, ratio = self._mix(images, chosen)
            boxes = chosen.boxes
            if chosen.kept is not None:
                kept = send(chosen.kept, images.device)
                mixed = torch.where(kept[:, None, None, None], images.detach(), mixed)
                ratio = torch.where(kept, 1.0, ratio)
                boxes = None if boxes is None else np.where(chosen.kept.cpu().numpy()[:, None], 0, boxes)
            # One output may be that of a regression.
            bounded = num_classes > 1
            soft = mix_task_targets(
                targets, permutation=chosen.permutation, ratio=ratio, num_classes=num_classes, bounded=bounded
            )
        mask = ratio[:, None, None]
        layer = None if chosen.layer == INPUT else chosen.layer
        return MixedBatch(mixed, soft, ratio, mask, None, chosen, images.detach(), boxes=boxes, layer=layer)

    def _accept(self, draw: MixDraw) -> BaselineDraw:
        """Return a draw from elsewhere; one without what this baseline needs is refused, never completed."""
        if isinstance(draw, BaselineDraw):
            return draw
        raise ValueError(
            f"draw must be a BaselineDraw for {type(self).__name__}, got a {type(draw).__name__}, which has no boxes and no "
            f"layer: use {type(self).__name__}.draw, or pass lightning_puzzlemix.BaselineDraw"
        )

    def _mix(self, images: Tensor, draw: BaselineDraw) -> tuple[Tensor, Tensor]:
        """Return (B, C, H, W) mixed images and the (B,) share of the first."""
        raise NotImplementedError


def _ratio(images: Tensor, lam: float | Tensor) -> Tensor:
    """Return lam as (B,) float32 on the images' device."""
    if isinstance(lam, Tensor):
        return lam.to(images.device, torch.float32, non_blocking=True).expand(len(images))
    return torch.full((len(images),), float(lam), dtype=torch.float32, device=images.device)


def blend(values: Tensor, permutation: Tensor, ratio: Tensor) -> Tensor:
    """Return ``ratio * values + (1 - ratio) * values[permutation]``, sample by sample; differentiable."""
    partner = values[permutation.to(values.device, torch.int64)]
    return torch.lerp(partner, values, ratio.to(values.dtype).view(-1, *[1] * (values.ndim - 1)))


class MixUp(_Baseline):
    """Input mixup (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018): images blended by lam."""

    def _accept(self, draw: MixDraw) -> BaselineDraw:
        # Partners and lam are all that it needs, and every draw has those.
        return draw if isinstance(draw, BaselineDraw) else BaselineDraw(draw.permutation, draw.lam, kept=draw.kept)

    def _mix(self, images: Tensor, draw: BaselineDraw) -> tuple[Tensor, Tensor]:
        ratio = _ratio(images, draw.lam)
        return blend(images.detach(), draw.permutation, ratio), ratio


class CutMix(_Baseline):
    """CutMix (Yun et al., ICCV 2019): a box of the partner in place of the image's own pixels.

    The box has the area (1 - lam) H W before it is clipped at the border; ratio is the share that remains of the image.
    """

    def _finish_draw(
        self, images: Tensor, permutation: Tensor, lam: float | np.ndarray, rng: np.random.Generator
    ) -> BaselineDraw:
        height, width = images.shape[2:]
        side = np.sqrt(1 - np.atleast_1d(lam))
        edges = []
        for length in (height, width):
            half = (side * length).astype(np.int64) // 2
            middle = rng.integers(length, size=len(side))
            edges += [np.clip(middle - half, 0, length), np.clip(middle + half, 0, length)]
        draw = super()._finish_draw(images, permutation, lam, rng)
        return BaselineDraw(draw.permutation, draw.lam, boxes=np.stack(edges, axis=1))

    def _mix(self, images: Tensor, draw: BaselineDraw) -> tuple[Tensor, Tensor]:
        if draw.boxes is None:
            raise ValueError("boxes is missing from the draw: use CutMix.draw, or pass boxes of shape (1 or B, 4)")
        height, width = images.shape[2:]
        top, bottom, left, right = draw.boxes.T
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        partner = images.detach()[draw.permutation.to(images.device, torch.int64)]
        if len(draw.boxes) == 1:
            mixed = images.detach().clone()
            window = (..., slice(int(top[0]), int(bottom[0])), slice(int(left[0]), int(right[0])))
            mixed[window] = partner[window]
            return mixed, torch.full((len(images),), float(kept[0]), dtype=torch.float32, device=images.device)
        # In float32, as Apple's GPUs have no float64; pixels are exact in it.
        packed = np.concatenate([draw.boxes, kept[:, None]], axis=1).astype(np.float32)
        edges = torch.from_numpy(packed).to(images.device, non_blocking=True)
        rows, cols = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        inside_rows = (rows >= edges[:, 0:1]) & (rows < edges[:, 1:2])
        inside_cols = (cols >= edges[:, 2:3]) & (cols < edges[:, 3:4])
        inside = inside_rows[:, None, :, None] & inside_cols[:, None, None, :]
        return torch.where(inside, partner, images.detach()), edges[:, 4]


class ManifoldMix(_Baseline):
    """Manifold mixup (Verma et al., ICML 2019): the output of a random layer blended by lam instead of the image.

    This mixes targets, and images where the draw fell on the input; for any other layer :class:`ManifoldMixCallback` mixes
    that layer's output while ``training_step`` runs.

    Args:
        layers: Names of submodules of the model, or ``"input"``; one is drawn for each batch.
        alpha: As for :class:`MixUp`, like the others.
        per_sample: Whether every sample gets its own lam.
        sample_prob: Chance that a sample is mixed.
        num_classes: Number of classes.
    """

    def __init__(
        self,
        layers: Sequence[str] = (INPUT, "layer1", "layer2"),
        *,
        alpha: float = 2.0,
        per_sample: bool = False,
        sample_prob: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(alpha=alpha, per_sample=per_sample, sample_prob=sample_prob, num_classes=num_classes)
        if isinstance(layers, str) or not layers or not all(isinstance(layer, str) for layer in layers):
            raise ValueError(f"layers must name at least one submodule or 'input', got {layers!r}")
        self.layers = tuple(layers)

    def _finish_draw(
        self, images: Tensor, permutation: Tensor, lam: float | np.ndarray, rng: np.random.Generator
    ) -> BaselineDraw:
        draw = super()._finish_draw(images, permutation, lam, rng)
        return BaselineDraw(draw.permutation, draw.lam, layer=str(rng.choice(self.layers)))

    def _mix(self, images: Tensor, draw: BaselineDraw) -> tuple[Tensor, Tensor]:
        ratio = _ratio(images, draw.lam)
        return (blend(images.detach(), draw.permutation, ratio) if draw.layer == INPUT else images.detach()), ratio
