"""The number of a model's classes, found by one forward pass and remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_puzzlemix.saliency.evaluation import evaluation_pass, without_graph
from lightning_puzzlemix.saliency.logits import logits_of
from lightning_puzzlemix.saliency.objective import ForwardContext, call_forward

Fact = TypeVar("Fact")


class PerModel(WeakKeyDictionary[nn.Module, Any], Generic[Fact]):
    """A fact about each model, computed once; copies and pickles of this forget it, and it ends with the model.

    It is computed again when the model's parameters have other shapes, as with a new head.
    """

    def recall(self, model: nn.Module, find: Callable[[], Fact]) -> Fact:
        """Return the fact about a model as it is now, which ``find`` computes where it is unknown."""
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


def count_classes(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    known: PerModel[int],
    forward_context: ForwardContext,
) -> int:
    """Return the number of classes where the saliency source did not see it; 1 for one logit.

    Float targets have as many columns. For class indices the model runs once in evaluation mode, and the answer is kept
    until its parameters have other shapes. It runs with one image, and with the batch if it refuses that.

    Raises:
        TypeError: If ``targets`` is not a tensor.
        ValueError: If forward returns no logits.
    """
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim in (1, 2):
        return targets.shape[1] if targets.ndim == 2 else 1

    def count() -> int:
        with evaluation_pass(model, images.device), without_graph():
            try:
                return _count_logits(model, images, targets, forward_context)
            # What a forward that is not made for this raises; a LightningModule without one: NotImplementedError.
            except (TypeError, ValueError, NotImplementedError) as error:
                raise _unknown_classes(model, error) from error
            except RuntimeError as error:
                # Those of torch with classes of their own, such as OutOfMemoryError, have nothing to do with the output.
                if type(error) is not RuntimeError:
                    raise
                raise _unknown_classes(model, error) from error

    found = known.recall(model, count)
    on_host = isinstance(targets, Tensor) and targets.device.type == "cpu" and targets.numel() > 0
    if on_host and found > 1 and int(targets.max()) >= found:
        # A model may use more of its outputs as classes come in, without another parameter.
        known.pop(model)
        found = known.recall(model, count)
    return found


def _unknown_classes(model: nn.Module, error: Exception) -> ValueError:
    """Build the error for an unknown number of classes; without advice on saliency, since baselines raise it too."""
    cause = error.__cause__ or error
    reason = getattr(error, "found", f"{type(cause).__name__}: {cause}")
    return ValueError(
        f"the number of classes is unknown, since forward of {type(model).__name__} returns no (B, classes) logits: pass "
        f"num_classes, or (B, classes) probabilities (one-hot) as targets ({reason})"
    )


def _count_logits(model: nn.Module, images: Tensor, targets: Tensor, forward_context: ForwardContext) -> int:
    def width(part: Tensor) -> int:
        output = call_forward(model, part.detach().clone(), forward_context)
        return logits_of(output, len(part), targets=targets).shape[1]

    try:
        return width(images[:1])
    except (RuntimeError, ValueError, AssertionError):
        if len(images) == 1:
            raise
        return width(images)
