"""The paper's saliency: the gradient of the model's loss with respect to the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_puzzlemix.saliency.evaluation import evaluation_pass, training_pass
from lightning_puzzlemix.saliency.objective import ModelLoss
from lightning_puzzlemix.saliency.result import SaliencyPass

_NO_GRADIENT = (
    "the model's output does not depend on the images through autograd, so they have no saliency: is (part of) forward() "
    "under torch.no_grad() or torch.inference_mode(), or does it use NumPy, .data or .detach()? Freeze parameters with "
    "requires_grad_(False) instead; else pass saliency_loss, or saliency='spectral', which needs no gradient"
)


def gradient_saliency(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    model_loss: ModelLoss | None = None,
    *,
    training: bool = False,
    parameters: Sequence[nn.Parameter] = (),
    keep_loss: bool = False,
) -> SaliencyPass:
    """Differentiate the model's loss with respect to the images (method, step 1).

    The model's parameters, their ``.grad``, its buffers, modes, attributes and what users' hooks collect stay as they are
    (see :func:`lightning_puzzlemix.saliency.model_state.preserved_state`), and so do the global random states.

    Args:
        model: Maps (B, C, H, W) to (B, classes) logits, unless ``model_loss`` does without. Pass the bare module, not its
            DDP wrapper.
        images: (B, C, H, W) floating point.
        targets: As for :class:`lightning_puzzlemix.saliency.objective.ModelLoss`.
        model_loss: How the loss is computed; by default the cross-entropy that fits logits and targets.
        training: Run the model as it is instead of in evaluation mode: BatchNorm then updates its statistics and dropout
            draws from the global random state, as clean regularization in the reference does.
        parameters: Parameters whose gradients are returned too.
        keep_loss: Return the mean loss with its graph, to be differentiated again.

    Raises:
        TypeError: If targets or the loss have the wrong type.
        ValueError: If shapes or values do not fit, or the output does not depend on the images through autograd.
    """
    model_loss = ModelLoss() if model_loss is None else model_loss
    mode = training_pass(model) if training else evaluation_pass(model, images.device)
    with mode, torch.enable_grad():
        leaf = images.detach()
        # One that was made under inference mode can require no gradient.
        leaf = (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()
        # A copy: autograd lets no model work on the leaf in place, and the images must stay.
        objective = model_loss(model, leaf.clone(), targets)
        found = differentiate(objective.total, [leaf, *parameters], keep_graph=keep_loss)
        kept = objective.total / objective.divisor if keep_loss else None
    if found[0] is None:
        raise ValueError(_NO_GRADIENT)
    gradient = found[0].detach().float() / objective.divisor
    parameter_gradients = tuple(None if grad is None else grad.detach() / objective.divisor for grad in found[1:])
    return SaliencyPass(gradient.square().mean(1).sqrt(), gradient, objective.num_classes, parameter_gradients, kept)


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
