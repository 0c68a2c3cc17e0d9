"""Where the model looks: the gradient of its loss with respect to the images, with the model left as found."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.saliency.logits import logits_of
from lightning_puzzlemix.saliency.model_state import preserved_state
from lightning_puzzlemix.saliency.objective import ForwardContext, Objective, SaliencyLoss, make_objective
from lightning_puzzlemix.validation import check_images

__all__ = [
    "ForwardContext",
    "Objective",
    "SaliencyLoss",
    "SaliencyPass",
    "differentiate",
    "evaluation_mode",
    "gradient_saliency",
    "logits_of",
    "make_objective",
    "undisturbed",
    "without_graph",
]


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
    """Put every submodule into evaluation mode, and each back into its own mode after: frozen BatchNorm stays frozen.

    Recurrent layers run in training mode without dropout, which is the same: cuDNN refuses their backward pass otherwise.
    """
    modes = [(module, module.training) for module in model.modules()]
    dropouts: list[tuple[Any, float]] = [(rnn, rnn.dropout) for rnn in model.modules() if _is_plain_rnn(rnn)]  # type: ignore[misc]
    # The flag itself: train() and eval() are overridden by models that keep parts of themselves frozen.
    for module, _ in modes:
        module.training = False
    for rnn, _ in dropouts:
        rnn.training, rnn.dropout = True, 0.0
    try:
        yield
    finally:
        for rnn, dropout in dropouts:
            rnn.dropout = dropout
        for module, mode in modes:
            module.training = mode


def _is_plain_rnn(module: nn.Module) -> bool:
    """Tell whether the mode of a recurrent layer switches its dropout alone: not where a subclass has its own forward."""
    return isinstance(module, nn.RNNBase) and type(module).forward in (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


@contextmanager
def _preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore the global random states, which a model that samples in evaluation mode would move on."""
    backend = getattr(torch, device.type, None)
    forkable = device.type != "cpu" and hasattr(backend, "get_rng_state_all")
    devices = [device] if forkable else []
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices, device_type=device.type if forkable else "cuda"):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the model in evaluation mode and outside inference mode, leaving it and the random states as found.

    What "as found" covers is said at :func:`lightning_puzzlemix.saliency.model_state.preserved_state`.
    """
    with (
        torch.inference_mode(False),
        preserved_state(model),
        evaluation_mode(model),
        _preserved_random_state(device),
    ):
        yield


@contextmanager
def _as_it_is(model: nn.Module) -> Iterator[None]:
    """Run the model in its present modes, for clean regularization: statistics and random states move on, records do not."""
    with torch.inference_mode(False), preserved_state(model, tensors=False):
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
    num_classes: int | None = None,
    batch: Any = None,
) -> SaliencyPass:
    """Differentiate the model's loss with respect to the images (method, step 1).

    The model's parameters, their ``.grad``, its buffers, modes, attributes and what users' hooks collect stay as they are
    (see :func:`lightning_puzzlemix.saliency.model_state.preserved_state`), and so do the global random states. Only the
    forward pass runs in ``forward_context``; the loss is computed in float32.

    Args:
        model: Maps (B, C, H, W) to (B, classes) logits (see :func:`logits_of`), unless ``loss`` is given. Pass the bare
            module, not its DDP wrapper.
        images: (B, C, H, W) floating point.
        targets: (B,) class indices; (B, classes) floats, one label or several a row; for one logit (B,) or (B, 1) of 0 and 1
            or floats in between (see :func:`lightning_puzzlemix.saliency.objective.sample_losses`).
        training: Run the model as it is instead of in evaluation mode: BatchNorm then updates its statistics and dropout
            draws from the global random state, as clean regularization in the reference does.
        parameters: Parameters whose gradients are wanted too.
        keep_loss: Return the mean loss with its graph, to be differentiated again.
        loss: ``None`` for the cross-entropy that fits logits and targets. Else a callable (module, images, targets), or the
            name of a method of the model with the arguments (images, targets), which returns the batch's mean loss or (B,)
            losses; it runs in ``forward_context`` as a whole. Either gets ``batch`` too where it has a further parameter of
            that name.
        forward_context: Makes the context of the forward pass, for example autocast.
        num_classes: Tells the logits from other outputs, where given.
        batch: The whole batch, for a loss of its own that asks for it.

    Raises:
        TypeError: If an argument has the wrong type or dtype.
        ValueError: If shapes or values do not fit, or the output does not depend on the images through autograd.
    """
    check_images(images, PuzzleMixConfig())
    mode = _as_it_is(model) if training else undisturbed(model, images.device)
    with mode, torch.enable_grad():
        leaf = images.detach()
        # One that was made under inference mode can require no gradient.
        leaf = (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()
        # A copy: autograd lets no model work on the leaf in place, and the images must stay.
        objective = make_objective(
            model,
            leaf.clone(),
            targets,
            loss=loss,
            forward_context=forward_context,
            num_classes=num_classes,
            batch=batch,
        )
        found = differentiate(objective.total, [leaf, *parameters], keep_graph=keep_loss)
        kept = objective.total / objective.divisor if keep_loss else None
    if found[0] is None:
        raise ValueError(_NO_GRADIENT)
    gradient = found[0].detach().float() / objective.divisor
    parameter_gradients = tuple(None if grad is None else grad.detach() / objective.divisor for grad in found[1:])
    return SaliencyPass(gradient.square().mean(1).sqrt(), gradient, objective.num_classes, parameter_gradients, kept)


_NO_GRADIENT = (
    "the model's output does not depend on the images through autograd, so they have no saliency: is (part of) forward() "
    "under torch.no_grad() or torch.inference_mode(), or goes it through NumPy, .data or .detach()? Freeze parameters with "
    "requires_grad_(False) instead; else pass saliency_loss, or saliency='spectral', which needs no gradient"
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
        if "RNN backward" in str(error):
            raise ValueError(
                f"saliency cannot be taken through a recurrent layer in evaluation mode ({error}): pass saliency_loss, a "
                "callable (module, images, targets) that puts the layer into training mode, or saliency='spectral'"
            ) from error
        raise
