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

ForwardContext = Callable[[], AbstractContextManager[Any]]
# A loss of the model's own: called with (module, images, targets), or the name of a method called with (images, targets).
SaliencyLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SaliencyPass:
    """What a saliency source found; nothing in it but ``loss`` is attached to a graph.

    Attributes:
        saliency: (B, H, W) float32 >= 0. From ``"gradient"``, the root mean square over channels of the gradient (method,
            step 1).
        gradient: (B, C, H, W) float32, gradient of the batch's mean loss with respect to the images; ``None`` from
            sources that do not differentiate down to the images.
        num_classes: Number of classes of the model's output; ``None`` from sources that do not see it.
        parameter_gradients: Gradients of the mean loss for the parameters that were asked for, ``None`` for those that
            the loss does not depend on.
        loss: The mean loss with its graph, where that was asked for.
    """

    saliency: Tensor
    gradient: Tensor | None = None
    num_classes: int | None = None
    parameter_gradients: tuple[Tensor | None, ...] = ()
    loss: Tensor | None = None


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


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the model in evaluation mode and outside inference mode, leaving its modes and the random state as found."""
    with torch.inference_mode(False), evaluation_mode(model), _preserved_random_state(device):
        yield


@contextmanager
def without_graph() -> Iterator[None]:
    """Record no graph, and leave nothing of that behind in an autocast around this block.

    Autocast keeps its 16-bit copies of the weights until its outermost block ends. Those made without a graph would then
    serve the training step too, and the weights get no gradients.
    """
    try:
        with torch.no_grad():
            yield
    finally:
        torch.clear_autocast_cache()


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


def make_objective(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    loss: SaliencyLoss | str | None,
    forward_context: ForwardContext,
) -> Objective:
    """Run the model and its loss; only the forward pass (of a loss of its own: all of that) in ``forward_context``.

    Args:
        model: The model, in the mode it is to run in.
        images: (B, C, H, W).
        targets: (B,) class indices or (B, classes) probabilities.
        loss: ``None`` for cross-entropy on the logits that the model returns, else see :func:`gradient_saliency`.
        forward_context: Makes the context.

    Raises:
        TypeError: If targets or the loss have the wrong type.
        ValueError: If shapes or values do not fit.
    """
    if loss is not None:
        return _own_objective(model, images, targets, loss, forward_context)
    with forward_context():
        output = model(images)
    logits = logits_of(output, len(images))
    check_targets(targets, len(images), logits.shape[1])
    scale = _HALF_PRECISION_SCALE if logits.dtype == torch.float16 else 1.0
    # A copy, since autograd cannot keep targets that were made under inference mode.
    wanted = targets.detach().clone() if targets.is_floating_point() else targets.detach().clone().long()
    with torch.set_grad_enabled(logits.requires_grad):
        # The sum and not the mean: each image's gradient keeps its size however large the batch is.
        total = scale * F.cross_entropy(logits.float(), wanted, reduction="sum")
    return Objective(total, scale * len(images), logits.shape[1])


def _own_objective(
    model: nn.Module, images: Tensor, targets: Tensor, loss: SaliencyLoss | str, forward_context: ForwardContext
) -> Objective:
    """The same for a loss of the model's own, a scalar (the batch's mean) or (B,)."""
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor, got {type(targets).__name__}")
    wanted = targets.detach().clone()
    with forward_context():
        value = _method(model, loss)(images, wanted) if isinstance(loss, str) else loss(model, images, wanted)
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape not in ((), (len(images),)):
        shown = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
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


def _method(model: nn.Module, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    method = getattr(model, name, None)
    if not callable(method):
        raise ValueError(
            f"saliency_loss={name!r} must name a method of the model, but {type(model).__name__} has none: define "
            f"{name}(self, images, targets), or pass a callable (module, images, targets)"
        )
    return method


def gradient_saliency(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    training: bool = False,
    parameters: Sequence[nn.Parameter] = (),
    keep_loss: bool = False,
    loss: SaliencyLoss | str | None = None,
    forward_context: ForwardContext = nullcontext,
) -> SaliencyPass:
    """Differentiate the model's loss with respect to the images (method, step 1).

    The model's parameters, their ``.grad``, its buffers, modes and hooks' outputs stay as they are, and so does the global
    random state. Only the forward pass runs in ``forward_context``; the loss is computed in float32.

    Args:
        model: Maps (B, C, H, W) to (B, classes) logits (see :func:`logits_of`), unless ``loss`` is given. Pass the bare
            module, not its DDP wrapper.
        images: (B, C, H, W) floating point.
        targets: (B,) class indices or (B, classes) probabilities.
        training: Run the model as it is instead of in evaluation mode: BatchNorm then updates its statistics and dropout
            draws from the global random state, as clean regularisation in the reference does.
        parameters: Parameters whose gradients are wanted too.
        keep_loss: Return the mean loss with its graph, to be differentiated again.
        loss: ``None`` for cross-entropy on the logits. Else a callable (module, images, targets), or the name of a method
            of the model with the arguments (images, targets), which returns the batch's mean loss or (B,) losses; it runs
            in ``forward_context`` as a whole.
        forward_context: Makes the context of the forward pass, for example autocast.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If shapes or values do not fit, or the output does not depend on the images through autograd.
    """
    check_images(images, PuzzleMixConfig())
    mode = torch.inference_mode(False) if training else undisturbed(model, images.device)
    with mode, torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        objective = make_objective(model, leaf, targets, loss=loss, forward_context=forward_context)
        found = differentiate(objective.total, [leaf, *parameters], keep_graph=keep_loss)
        kept = objective.total / objective.divisor if keep_loss else None
    if found[0] is None:
        raise ValueError(_NO_GRADIENT)
    gradient = found[0].detach().float() / objective.divisor
    parameter_gradients = tuple(None if grad is None else grad.detach() / objective.divisor for grad in found[1:])
    return SaliencyPass(gradient.square().mean(1).sqrt(), gradient, objective.num_classes, parameter_gradients, kept)


_NO_GRADIENT = (
    "the model's output does not depend on the images through autograd, so they have no saliency: is (part of) forward() "
    "under torch.no_grad() or torch.inference_mode()? Freeze parameters with requires_grad_(False) instead"
)


def differentiate(total: Tensor, inputs: Sequence[Tensor], *, keep_graph: bool = False) -> tuple[Tensor | None, ...]:
    """Return the gradients of a scalar; ``None`` for inputs that it does not depend on.

    Raises:
        ValueError: If it depends on nothing, or only through a checkpoint that cannot be differentiated.
    """
    if not total.requires_grad:
        raise ValueError(_NO_GRADIENT)
    try:
        return torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=keep_graph)
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise ValueError(
                "saliency cannot be taken through a reentrant torch.utils.checkpoint: pass use_reentrant=False to it"
            ) from error
        raise
