"""Where saliency comes from: one seam for the paper's gradient and what may stand in for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.saliency.feature import feature_saliency, find_default_layer
from lightning_puzzlemix.saliency.gradient import SaliencyPass, gradient_saliency, undisturbed, without_graph
from lightning_puzzlemix.saliency.logits import logits_of
from lightning_puzzlemix.saliency.objective import ForwardContext, SaliencyLoss, call_forward
from lightning_puzzlemix.saliency.spectral import spectral_saliency
from lightning_puzzlemix.validation import check_images

SALIENCY_SOURCES = ("gradient", "feature", "spectral")
# As Lightning names them.
SALIENCY_PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": torch.float32}
# They log, update metrics and may step optimizers: run for saliency, they would do so twice a batch.
_STEPS = ("training_step", "validation_step", "test_step", "predict_step")

SaliencyCallable = Callable[[nn.Module, Tensor, Tensor], Tensor]
Fact = TypeVar("Fact")


class PerModel(WeakKeyDictionary[nn.Module, Any], Generic[Fact]):
    """What was found out about a model once; forgotten with the model, and by copies and pickles of this.

    A model whose parameters have other shapes than then, as with a new head, is another one.
    """

    def recall(self, model: nn.Module, find: Callable[[], Fact]) -> Fact:
        """Return what is known about a model as it is now, which ``find`` finds out where nothing is."""
        shapes = [_shape(parameter) for parameter in model.parameters()]
        known = self.get(model)
        if known is None or known[0] != shapes:
            fact = find()
            # Now, since a lazy model has its shapes from its first forward pass.
            known = self[model] = ([_shape(parameter) for parameter in model.parameters()], fact)
        return cast(Fact, known[1])

    def __reduce__(self) -> tuple[Any, ...]:
        return PerModel, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> PerModel[Fact]:
        return PerModel()


def _shape(parameter: nn.Parameter) -> tuple[int, ...] | None:
    """Return the shape of a parameter; ``None`` for one of a lazy module that has none yet."""
    return None if isinstance(parameter, UninitializedParameter) else tuple(parameter.shape)


@dataclass(frozen=True)
class SaliencySource:
    """A validated choice of source; :meth:`look` runs it.

    Args:
        source: ``"gradient"`` (the paper's), ``"feature"``, ``"spectral"``, or a callable (module, images, targets) that
            returns (B, H, W) floats >= 0.
        layer: Dotted name of the submodule whose output ``"feature"`` looks at; ``None`` for the first third of the
            network (:func:`lightning_puzzlemix.saliency.feature.find_default_layer`).
        loss: Loss to differentiate in place of cross-entropy on the logits, for ``"gradient"`` and ``"feature"`` (see
            :func:`lightning_puzzlemix.saliency.gradient.gradient_saliency`).
        precision: ``None`` for that of the training step, else one of ``SALIENCY_PRECISIONS``, for the forward pass.
        num_classes: Tells the logits from other outputs of the model, where given.

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
        """Find the saliency of a batch.

        Args:
            model: The bare module.
            images: (B, C, H, W) floating point.
            targets: As for :func:`lightning_puzzlemix.saliency.gradient.gradient_saliency`.
            training: For ``"gradient"``: run the model as it is instead of in evaluation mode.
            parameters: For ``"gradient"``: parameters whose gradients are wanted too.
            keep_loss: For ``"gradient"``: return the mean loss with its graph.
            forward_context: Makes the context of the forward pass; the precision of this source comes on top of it.
            batch: The whole batch, for a loss that asks for it.

        Raises:
            TypeError: If an argument has the wrong type or dtype.
            ValueError: If shapes or values do not fit.
        """
        if self.source == "spectral":
            return spectral_saliency(images)
        if not isinstance(self.source, str):
            return _called(self.source, model, images, targets, forward_context)
        context = self.context(images.device, forward_context)
        if self.source == "gradient":
            return gradient_saliency(
                model,
                images,
                targets,
                training=training,
                parameters=parameters,
                keep_loss=keep_loss,
                loss=self.loss,
                forward_context=context,
                num_classes=self.num_classes,
                batch=batch,
            )
        options = {"loss": self.loss, "forward_context": context, "num_classes": self.num_classes, "batch": batch}
        layer = self.layer
        if layer is None:
            check_images(images, PuzzleMixConfig())
            layer = self._default_layers.recall(model, lambda: find_default_layer(model, images, targets, **options))
        return feature_saliency(model, images, targets, layer=layer, **options)

    def asks_for_probabilities(self, num_classes: int) -> bool:
        """Tell whether float targets must lie in [0, 1]: not where no loss but one of the user's looks at them."""
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


def _called(
    source: SaliencyCallable, model: nn.Module, images: Tensor, targets: Tensor, forward_context: ForwardContext
) -> SaliencyPass:
    """Call a user's source, with gradients switched on and the model in the mode it is in, and check what it returns."""
    check_images(images, PuzzleMixConfig())
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


def count_classes(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    known: PerModel[int],
    forward_context: ForwardContext,
) -> int:
    """Return the number of classes where the saliency source did not see it; 1 for one logit.

    Floats say it themselves. For class indices the model is asked once, by a forward pass in evaluation mode, and the
    answer remembered until its parameters have other shapes. It is asked with one image, and with the batch if it refuses
    that.

    Raises:
        TypeError: If ``targets`` is no tensor.
        ValueError: If forward returns no logits.
    """
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim in (1, 2):
        return targets.shape[1] if targets.ndim == 2 else 1

    def ask() -> int:
        with undisturbed(model, images.device), without_graph():
            try:
                return _ask(model, images, targets, forward_context)
            # What a forward that is not made for this raises; a LightningModule without one: NotImplementedError.
            except (TypeError, ValueError, NotImplementedError) as error:
                raise _unknown_classes(model, error) from error
            except RuntimeError as error:
                # Those of torch with classes of their own, such as OutOfMemoryError, have nothing to do with the output.
                if type(error) is not RuntimeError:
                    raise
                raise _unknown_classes(model, error) from error

    found = known.recall(model, ask)
    on_host = isinstance(targets, Tensor) and targets.device.type == "cpu" and targets.numel() > 0
    if on_host and found > 1 and int(targets.max()) >= found:
        # A model may use more of its outputs as classes come in, without another parameter.
        known.pop(model)
        found = known.recall(model, ask)
    return found


def _unknown_classes(model: nn.Module, error: Exception) -> ValueError:
    """Say why the number of classes is unknown, without the advice to those who look for saliency: baselines count too."""
    cause = error.__cause__ or error
    reason = getattr(error, "found", f"{type(cause).__name__}: {cause}")
    return ValueError(
        f"the number of classes is unknown, since forward of {type(model).__name__} returns no (B, classes) logits: pass "
        f"num_classes, or (B, classes) probabilities (one-hot) as targets ({reason})"
    )


def _ask(model: nn.Module, images: Tensor, targets: Tensor, forward_context: ForwardContext) -> int:
    def width(part: Tensor) -> int:
        output = call_forward(model, part.detach().clone(), forward_context)
        return logits_of(output, len(part), targets=targets).shape[1]

    try:
        return width(images[:1])
    except (RuntimeError, ValueError, AssertionError):
        if len(images) == 1:
            raise
        return width(images)
