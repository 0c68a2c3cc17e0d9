"""The sources of saliency: the paper's gradient and its alternatives behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_puzzlemix.saliency.class_count import PerModel
from lightning_puzzlemix.saliency.feature import feature_saliency, find_default_layer
from lightning_puzzlemix.saliency.gradient import gradient_saliency
from lightning_puzzlemix.saliency.objective import ForwardContext, ModelLoss, SaliencyLoss
from lightning_puzzlemix.saliency.result import SaliencyPass
from lightning_puzzlemix.saliency.spectral import spectral_saliency

SALIENCY_SOURCES = ("gradient", "feature", "spectral")
# As Lightning names them.
SALIENCY_PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": torch.float32}
# They log, update metrics and may step optimizers, which would then happen twice a batch.
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")

SaliencyCallable = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SaliencySource:
    """A validated choice of source; :meth:`compute` runs it.

    Args:
        source: ``"gradient"`` (the paper's), ``"feature"``, ``"spectral"``, or a callable (module, images, targets) that
            returns (B, H, W) floats >= 0.
        layer: Dotted name of the submodule that ``"feature"`` differentiates at; ``None`` for the first third of the
            network (:func:`lightning_puzzlemix.saliency.feature.find_default_layer`).
        loss: Loss to differentiate in place of cross-entropy on the logits, for ``"gradient"`` and ``"feature"`` (see
            :class:`lightning_puzzlemix.saliency.objective.ModelLoss`).
        precision: ``None`` for that of the training step, else one of ``SALIENCY_PRECISIONS``, for the forward pass.
        num_classes: Distinguishes the logits from other outputs of the model, where given.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is none of those, or belongs to another source.
    """

    source: str | SaliencyCallable = "gradient"
    layer: str | None = None
    loss: SaliencyLoss | str | None = None
    precision: str | None = None
    num_classes: int | None = None
    _default_layers: PerModel[str] = field(default_factory=PerModel, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.source) and self.source not in SALIENCY_SOURCES:
            raise ValueError(
                f"saliency must be one of {SALIENCY_SOURCES} or a callable (module, images, targets), got {self.source!r}"
            )
        self._check_layer()
        self._check_loss()
        if self.precision is not None:
            self._check_precision()

    def _check_layer(self) -> None:
        if self.layer is None:
            return
        if self.source != "feature":
            raise ValueError(
                f"saliency_layer={self.layer!r} belongs to saliency='feature', got saliency={self.source!r}: leave it out, "
                "or choose 'feature'"
            )
        if not isinstance(self.layer, str) or not self.layer:
            raise TypeError(f"saliency_layer must be the name of a submodule such as 'layer1', got {self.layer!r}")

    def _check_loss(self) -> None:
        if self.loss is None:
            return
        if not callable(self.loss) and not (isinstance(self.loss, str) and self.loss.isidentifier()):
            raise TypeError(
                "saliency_loss must be a callable (module, images, targets) or the name of a method of the model, got "
                f"{self.loss!r}"
            )
        if self.loss in _STEPS:
            raise ValueError(
                f"saliency_loss={self.loss!r} would log and update metrics once more for each batch: name a method that "
                "only returns the loss of (images, targets)"
            )
        if self.source not in ("gradient", "feature"):
            raise ValueError(f"saliency_loss has no use with saliency={self.source!r}, which differentiates no loss")

    def _check_precision(self) -> None:
        if self.precision not in SALIENCY_PRECISIONS:
            raise ValueError(
                f"saliency_precision must be None or one of {tuple(SALIENCY_PRECISIONS)}, got {self.precision!r}"
            )
        if self.source not in ("gradient", "feature"):
            raise ValueError(
                f"saliency_precision={self.precision!r} has no use with saliency={self.source!r}: leave it out; a callable "
                "sets its own precision"
            )

    def compute(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Tensor,
        *,
        training: bool = False,
        parameters: tuple[nn.Parameter, ...] = (),
        keep_loss: bool = False,
        forward_context: ForwardContext = nullcontext,
        batch: Any = None,
    ) -> SaliencyPass:
        """Compute the saliency of a batch.

        Args:
            model: The bare module.
            images: (B, C, H, W) floating point.
            targets: As for :class:`lightning_puzzlemix.saliency.objective.ModelLoss`.
            training: For ``"gradient"``: run the model as it is instead of in evaluation mode.
            parameters: For ``"gradient"``: parameters whose gradients are returned too.
            keep_loss: For ``"gradient"``: return the mean loss with its graph.
            forward_context: Makes the context of the forward pass; the precision of this source comes on top of it.
            batch: The whole batch, for a loss that takes it.
        """
        if self.source == "spectral":
            return spectral_saliency(images)
        if not isinstance(self.source, str):
            return _call_user_source(self.source, model, images, targets, forward_context)
        model_loss = ModelLoss(self.loss, self.context(images.device, forward_context), self.num_classes, batch)
        if self.source == "gradient":
            return gradient_saliency(
                model, images, targets, model_loss, training=training, parameters=parameters, keep_loss=keep_loss
            )
        layer = self.layer
        if layer is None:
            layer = self._default_layers.recall(model, lambda: find_default_layer(model, images, targets, model_loss))
        return feature_saliency(model, images, targets, model_loss, layer=layer)

    def asks_for_probabilities(self, num_classes: int) -> bool:
        """Tell whether float targets must lie in [0, 1]: not if only a loss of the user's reads them."""
        if self.loss is not None:
            return False
        return num_classes > 1 or self.source in ("gradient", "feature")

    def context(self, device: torch.device, forward_context: ForwardContext) -> ForwardContext:
        """Return the context with autocast to this source's precision inside it."""
        if self.precision is None:
            return forward_context
        dtype = SALIENCY_PRECISIONS[self.precision]

        @contextmanager
        def both() -> Iterator[None]:
            with forward_context(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                yield

        return both


def _call_user_source(
    source: SaliencyCallable, model: nn.Module, images: Tensor, targets: Tensor, forward_context: ForwardContext
) -> SaliencyPass:
    """Call a user's source, with gradients switched on and the model in the mode it is in, and check what it returns."""
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a tensor, got {type(targets).__name__}")
    with torch.inference_mode(False), torch.enable_grad(), forward_context():
        # Copies: theirs to differentiate and to change, even if ours were made under inference mode.
        found = source(model, images.detach().clone(), targets.detach().clone())
    batch, _, height, width = images.shape
    if not isinstance(found, Tensor) or not found.is_floating_point():
        shown = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"the saliency callable must return a floating point tensor (B, H, W), got {shown}")
    if found.shape != (batch, height, width):
        raise ValueError(
            f"the saliency callable must return shape (B, H, W) = {(batch, height, width)} for images "
            f"{tuple(images.shape)}, got {tuple(found.shape)}: reduce channels, for example with .square().mean(1).sqrt()"
        )
    if found.device != images.device:
        raise ValueError(
            f"the saliency callable must return a map on the images' device {images.device}, got {found.device}: move it "
            "with .to(images.device)"
        )
    return SaliencyPass(found.detach().float())
