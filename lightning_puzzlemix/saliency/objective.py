"""The loss whose gradient is saliency: the model's forward pass, its logits, and the loss that fits them and the targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_puzzlemix.saliency.logits import logits_of
from lightning_puzzlemix.targets import check_task_targets

# Gradients of images are small enough to vanish in float16; scaled by this much they do not.
_HALF_PRECISION_SCALE = 1024.0
# Rows of probabilities sum to 1 but for rounding, also in bfloat16.
_ROUNDING = 1e-2

ForwardContext = Callable[[], AbstractContextManager[Any]]
# A loss of the model's own: called with (module, images, targets), or the name of a method called with (images, targets);
# both get the whole batch too where they have a further parameter ``batch``.
SaliencyLoss = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss that is ready to be differentiated.

    Attributes:
        total: Scalar float32: the samples' summed loss, scaled.
        divisor: What gradients of ``total`` must be divided by to become those of the batch's mean loss.
        num_classes: Number of classes, where there are logits.
    """

    total: Tensor
    divisor: float
    num_classes: int | None


@dataclass(frozen=True)
class ModelLoss:
    """The loss of a batch whose gradient is saliency: the forward pass, and the loss that fits its output and the targets.

    Args:
        loss: ``None`` for :func:`sample_losses` of the logits that the model returns. Else a callable (module, images,
            targets), or the name of a method of the model with the arguments (images, targets), which returns the batch's
            mean loss or (B,) losses. Either also gets ``batch`` if it has a further parameter of that name.
        forward_context: Makes the context of the forward pass, for example autocast. The loss of the logits is computed in
            float32 outside of it; a loss of the user's runs inside it as a whole.
        num_classes: Distinguishes the logits from other outputs, where given.
        batch: The whole batch, for a loss of the user's that takes it.
    """

    loss: SaliencyLoss | str | None = None
    forward_context: ForwardContext = nullcontext
    num_classes: int | None = None
    batch: Any = None

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Objective:
        """Run the model and its loss.

        Args:
            model: The model, in the mode it is to run in.
            images: (B, C, H, W); the model may work on them in place.
            targets: (B,) class indices or (B, classes) floats; for one logit (B,) or (B, 1), integers or floats.
        """
        if self.loss is not None:
            return self._call_user_loss(self.loss, model, images, targets)
        size = len(images)
        output = call_forward(model, images, self.forward_context)
        logits = logits_of(output, size, targets=targets, num_classes=self.num_classes)
        check_task_targets(targets, size, logits.shape[1])
        scale = _HALF_PRECISION_SCALE if logits.dtype == torch.float16 else 1.0
        # A copy, since autograd cannot keep targets that were made under inference mode.
        copied = targets.detach().clone() if targets.is_floating_point() else targets.detach().clone().long()
        with torch.set_grad_enabled(logits.requires_grad):
            # The sum and not the mean: each image's gradient keeps its size however large the batch is.
            total = scale * sample_losses(logits.float(), copied).sum()
        return Objective(total, scale * size, logits.shape[1])

    def _call_user_loss(self, loss: SaliencyLoss | str, model: nn.Module, images: Tensor, targets: Tensor) -> Objective:
        """Do the same for a loss of the user's, a scalar (the batch's mean) or (B,)."""
        if not isinstance(targets, Tensor):
            raise TypeError(f"targets must be a tensor, got {type(targets).__name__}")
        called, arguments = (_method(model, loss), ()) if isinstance(loss, str) else (loss, (model,))
        extra = _batch_argument(called, len(arguments) + 2, self.batch)
        with self.forward_context():
            value = called(*arguments, images, targets.detach().clone(), **extra)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape not in ((), (len(images),)):
            shown = (
                f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise ValueError(
                f"saliency_loss must return the batch's mean loss or {len(images)} losses, one for each image, as a floating "
                f"point tensor, got {shown}"
            )
        # What precision there is inside cannot be seen. A power of two changes no digit of the others.
        scale = _HALF_PRECISION_SCALE
        # As a sum (see above), unless the gradient that starts at a mean in float16 would overflow.
        size = 1 if value.dtype == torch.float16 and not value.ndim else len(images)
        with torch.set_grad_enabled(value.requires_grad):
            total = scale * (value.float().sum() if value.ndim else size * value.float())
        return Objective(total, scale * size, None)


def sample_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the (B,) losses that fit the targets.

    One logit: binary cross-entropy with logits. Class indices: cross-entropy. (B, classes) floats: cross-entropy if all
    rows of the batch sum to 1 within rounding, else, for several labels or none, binary cross-entropy with logits, averaged
    over the classes. The device chooses between the two, for each batch as a whole: no synchronization and no state. So a
    batch of several-label data in which every row happens to have one label counts as single-label.

    Args:
        logits: (B, classes) float32.
        targets: (B,) int64 or (B, classes) floats; (B,) or (B, 1) for one logit.
    """
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(
            logits.squeeze(1), targets.reshape(len(logits)).to(logits.dtype), reduction="none"
        )
    if not targets.is_floating_point():
        return F.cross_entropy(logits, targets, reduction="none")
    one_label = ((targets.float().sum(1) - 1).abs() <= _ROUNDING).all()
    single = F.cross_entropy(logits, targets, reduction="none")
    several = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(1)
    return torch.where(one_label, single, several)


def call_forward(model: nn.Module, images: Tensor, forward_context: ForwardContext) -> Any:
    """Call the model with images alone; what a forward raises that is not made for this names the ways out.

    Raises:
        ValueError: If forward takes something else, or leaves autograd (NumPy).
        RuntimeError: Whatever else it raises.
    """
    name = type(model).__name__
    try:
        with forward_context():
            return model(images)
    except (TypeError, LookupError, AttributeError, ValueError, NotImplementedError) as error:
        # A message of this package.
        if "saliency" in str(error):
            raise
        raise ValueError(
            f"forward(images) of {name} failed in the saliency pass ({type(error).__name__}: {error}). Where forward takes "
            f"anything else than the images alone, {_RECIPE}"
        ) from error
    except RuntimeError as error:
        if "numpy()" in str(error):
            raise ValueError(
                f"forward of {name} takes its images out of autograd ({error}), so they have no gradient: {_RECIPE}"
            ) from error
        # Specific errors of torch, such as OutOfMemoryError, have classes of their own.
        if type(error) is not RuntimeError or "saliency" in str(error):
            raise
        raise RuntimeError(
            f"{error}\n(in forward(images) of {name}, called for saliency. Where forward takes anything else than the images "
            f"alone, {_RECIPE})"
        ) from error


_RECIPE = (
    "pass saliency_loss, for example\n"
    "    def saliency_loss(module, images, targets, batch):\n"
    '        return F.cross_entropy(module(images, batch["age"]), targets)\n'
    "or saliency='spectral' with num_classes, which does not call the model"
)


def _batch_argument(loss: Callable[..., Tensor], position: int, batch: Any) -> dict[str, Any]:
    """Return the batch by name for a loss that has a parameter ``batch`` after those that it is called with."""
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):
        return {}
    if "batch" not in names[position:]:
        return {}
    if batch is None:
        raise ValueError(
            "saliency_loss has a parameter batch, but no batch was given: pass batch= to the mixer, as PuzzleMixCallback does"
        )
    return {"batch": batch}


def _method(model: nn.Module, name: str) -> Callable[..., Tensor]:
    method = getattr(model, name, None)
    if not callable(method):
        raise ValueError(
            f"saliency_loss={name!r} must name a method of the model, but {type(model).__name__} has none: define "
            f"{name}(self, images, targets), or pass a callable (module, images, targets)"
        )
    return method
