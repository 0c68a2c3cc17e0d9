"""Where the model looks: the gradient of its loss with respect to the images, with the model left as found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_puzzlemix.checks import check_images
from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.targets import check_targets

# Gradients of images are small enough to vanish in float16; scaled by this much they do not.
_HALF_PRECISION_SCALE = 1024.0


@dataclass(frozen=True)
class SaliencyPass:
    """What one gradient pass found.

    Attributes:
        saliency: (B, H, W) float32 >= 0, root mean square over channels of the gradient (method, step 1).
        gradient: (B, C, H, W) float32, gradient of the batch's mean loss with respect to the images.
        num_classes: Number of classes of the model's output.
        parameter_gradients: Gradients of the mean loss for the parameters that were asked for, ``None`` for those that
            the loss does not depend on.
    """

    saliency: Tensor
    gradient: Tensor
    num_classes: int
    parameter_gradients: tuple[Tensor | None, ...] = ()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and each back into its own mode after: frozen BatchNorm stays frozen."""
    modes = [(module, module.training) for module in model.modules()]
    # The flag itself: train() and eval() are overridden by models that keep parts of themselves frozen.
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore the global random state, which a model that samples in evaluation mode would move on."""
    backend = getattr(torch, device.type, None)
    forkable = device.type != "cpu" and hasattr(backend, "get_rng_state_all")
    devices = [device] if forkable else []
    with torch.random.fork_rng(devices, device_type=device.type if forkable else "cuda"):
        yield


def logits_of(output: Any, batch: int) -> Tensor:
    """Find the (B, classes) logits in what a classifier's forward returned.

    Args:
        output: The logits; or a tuple or list with them first; or an object or dict with them under ``logits``.
        batch: B.

    Raises:
        ValueError: If there are none.
    """
    logits = output
    if isinstance(output, (tuple, list)) and output:
        logits = output[0]
    elif isinstance(output, dict):
        logits = output.get("logits")
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch or logits.shape[1] < 1:
        shown = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(output).__name__}"
        raise ValueError(
            f"the model's output must be (B, classes) = ({batch}, classes) logits, or hold them first in a tuple or under "
            f"'logits', got {shown}: let forward(images) return the logits"
        )
    return logits


def gradient_saliency(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    training: bool = False,
    parameters: Sequence[nn.Parameter] = (),
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> SaliencyPass:
    """Differentiate the model's cross-entropy with respect to the images (method, step 1).

    The model's parameters, their ``.grad``, its buffers, modes and hooks' outputs stay as they are, and so does the global
    random state. Only the forward pass runs in ``forward_context``; the loss is computed in float32.

    Args:
        model: Maps (B, C, H, W) to (B, classes) logits (see :func:`logits_of`). Pass the bare module, not its DDP wrapper.
        images: (B, C, H, W) floating point.
        targets: (B,) class indices or (B, classes) probabilities.
        training: Run the model as it is instead of in evaluation mode: BatchNorm then updates its statistics and dropout
            draws from the global random state, as clean regularisation in the reference does.
        parameters: Parameters whose gradients are wanted too.
        forward_context: Makes the context of the forward pass, for example autocast.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If shapes or values do not fit, or the output does not depend on the images through autograd.
    """
    check_images(images, PuzzleMixConfig())
    mode = nullcontext() if training else evaluation_mode(model)
    random_state = nullcontext() if training else _preserved_random_state(images.device)
    with torch.inference_mode(False), torch.enable_grad(), mode, random_state:
        leaf = images.detach().clone().requires_grad_()
        with forward_context():
            output = model(leaf)
        logits = logits_of(output, len(images))
        check_targets(targets, len(images), logits.shape[1])
        _check_differentiable(logits)
        scale = _HALF_PRECISION_SCALE if logits.dtype == torch.float16 else 1.0
        # A copy, since autograd cannot keep targets that were made under inference mode.
        wanted = targets.detach().clone() if targets.is_floating_point() else targets.detach().clone().long()
        # The sum and not the mean: each image's gradient keeps its size however large the batch is.
        loss = scale * F.cross_entropy(logits.float(), wanted, reduction="sum")
        found = _differentiate(loss, [leaf, *parameters])
    if found[0] is None:
        raise ValueError(_NO_GRADIENT)
    divisor = scale * len(images)
    gradient = found[0].detach().float() / divisor
    parameter_gradients = tuple(None if grad is None else grad.detach() / divisor for grad in found[1:])
    return SaliencyPass(gradient.square().mean(1).sqrt(), gradient, logits.shape[1], parameter_gradients)


_NO_GRADIENT = (
    "the model's output does not depend on the images through autograd, so they have no saliency: is (part of) forward() "
    "under torch.no_grad() or torch.inference_mode()? Freeze parameters with requires_grad_(False) instead"
)


def _check_differentiable(logits: Tensor) -> None:
    if not logits.requires_grad:
        raise ValueError(_NO_GRADIENT)


def _differentiate(loss: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(loss, inputs, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise ValueError(
                "saliency cannot be taken through a reentrant torch.utils.checkpoint: pass use_reentrant=False to it"
            ) from error
        raise
