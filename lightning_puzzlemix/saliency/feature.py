"""Saliency from a feature map inside the network: the forward pass needs no graph up to there, and backward stops there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_puzzlemix.saliency.evaluation import evaluation_pass, without_graph
from lightning_puzzlemix.saliency.gradient import differentiate
from lightning_puzzlemix.saliency.objective import ModelLoss
from lightning_puzzlemix.saliency.result import SaliencyPass
from lightning_puzzlemix.validation import list_names

# A submodule with this share of all multiply-adds is the network itself in a wrapping.
_NEARLY_ALL = 0.9
_FIRST_PART = 1 / 3


def feature_saliency(
    model: nn.Module, images: Tensor, targets: Tensor, model_loss: ModelLoss | None = None, *, layer: str | None = None
) -> SaliencyPass:
    """Differentiate the model's loss with respect to the output of a submodule; cheaper than down to the images.

    The root mean square over channels of that gradient, one value a position, spread evenly over the pixels that the
    position covers: where the sides divide each other, pooling to blocks gives what pooling the feature map would give.
    An approximation of the paper's saliency, better the earlier the submodule. The model and the random state stay as
    found (see :func:`lightning_puzzlemix.saliency.gradient.gradient_saliency`, also for the other arguments).

    Args:
        model: The model; its forward must call the submodule exactly once, outside ``torch.no_grad()``.
        images: (B, C, H, W) floating point.
        targets: As for :class:`lightning_puzzlemix.saliency.objective.ModelLoss`.
        model_loss: How the loss is computed.
        layer: Dotted name of a submodule of ``model`` that returns a (B, channels, h, w) feature map of at least 2 x 2
            positions, or (B, h, w, channels) as the stages of a Swin Transformer; ``None`` for that of
            :func:`find_default_layer`.

    Returns:
        ``saliency`` (B, H, W) and, from logits, ``num_classes``; no gradients.
    """
    model_loss = ModelLoss() if model_loss is None else model_loss
    model = _bare(model)
    layer = find_default_layer(model, images, targets, model_loss) if layer is None else layer
    cut = _Cut(layer, images)
    submodule = _submodule(model, layer)
    with evaluation_pass(model, images.device), without_graph():
        layout = _Layout(images)
        with _hooked([*layout.hooks(model), (submodule, cut)]):
            # A copy, since without a graph nothing keeps a model from working on its input in place.
            objective = model_loss(model, images.detach().clone(), targets)
        if cut.leaf is None:
            raise ValueError(f"saliency_layer={layer!r} is not called by the model's forward pass: name one that is")
        channels = layout.channels(cut.leaf)
        if channels is None:
            raise cut.no_map(cut.leaf)
        (gradient,) = differentiate(objective.total, [cut.leaf])
    if gradient is None:
        raise ValueError(f"the loss does not depend on the output of saliency_layer={layer!r}: name another submodule")
    found = (gradient.float() / objective.divisor).square().mean(channels).sqrt()
    return SaliencyPass(
        F.interpolate(found[:, None], size=images.shape[2:], mode="area")[:, 0], None, objective.num_classes
    )


class _Cut:
    """A forward hook that cuts the graph behind a submodule and records one from there on."""

    def __init__(self, layer: str, images: Tensor) -> None:
        self.layer = layer
        self.images = images
        self.leaf: Tensor | None = None

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Tensor:
        if self.leaf is not None:
            raise ValueError(
                f"saliency_layer={self.layer!r} is called more than once in the forward pass, so that no single output of "
                "it can be differentiated: name a submodule that is called once and not recomputed by a checkpoint"
            )
        if not _may_be_map(output, self.images):
            raise self.no_map(output)
        torch.set_grad_enabled(True)
        self.leaf = output.detach().requires_grad_()
        # A copy, since what follows may work in place, which no leaf allows.
        return self.leaf.clone()

    def no_map(self, output: Any) -> ValueError:
        """Build the error for an output without positions, or with two readings."""
        shown = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
        reason = ""
        if isinstance(output, Tensor) and output.ndim == 3:
            reason = (
                " (tokens, whose positions are not known: of a vision transformer name the convolution of the patch "
                "embedding, or use saliency='gradient')"
            )
        elif isinstance(output, Tensor) and _may_be_map(output, self.images):
            reason = " (channels may be its second or its last dimension)"
        return ValueError(
            f"saliency_layer={self.layer!r} must return a floating point feature map (B, channels, h, w), or (B, h, w, "
            f"channels), of at least 2 x 2 positions for images {tuple(self.images.shape)}, got {shown}{reason}: name an "
            "earlier one"
        )


class _Layout:
    """Tells (B, channels, h, w) from (B, h, w, channels), as Swin Transformers use it.

    By the sides, which are in proportion to the image's, and, where both readings are, by whether the model has linear or
    normalizing layers that work on the last of four dimensions.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.channels_last = False

    def hooks(self, model: nn.Module) -> list[tuple[nn.Module, Callable[..., Any]]]:
        """Return forward hooks that notice such layers in a forward pass of the model."""

        def see(module: nn.Module, arguments: Any, output: Any) -> None:
            self.channels_last |= isinstance(output, Tensor) and output.ndim == 4

        return [(module, see) for module in model.modules() if isinstance(module, (nn.Linear, nn.LayerNorm))]

    def channels(self, output: Tensor, slack: float = math.inf) -> int | None:
        """Return which dimension of a possible map holds the channels, 1 or 3; ``None`` if none or if it cannot be told.

        Convolutions without padding change the proportion too, by up to ``slack`` positions.
        """
        as_first, as_last = _distortion(output.shape[2:], self.images), _distortion(output.shape[1:3], self.images)
        if self.channels_last and as_last <= 1:
            return 3 if as_first > 1 else None
        return 1 if as_first <= slack and math.isfinite(as_first) else None


def _may_be_map(output: Any, images: Tensor) -> bool:
    """Whether this can be a map of at least 2 x 2 positions, with its channels in either place."""
    if (
        not isinstance(output, Tensor)
        or output.ndim != 4
        or not output.is_floating_point()
        or len(output) != len(images)
    ):
        return False
    return math.isfinite(min(_distortion(output.shape[2:], images), _distortion(output.shape[1:3], images)))


def _distortion(sides: torch.Size, images: Tensor) -> float:
    """Return by how many positions a height is out of proportion to the image; infinite if by more than a factor of 2."""
    height, width = sides
    in_proportion = width * images.shape[2] / images.shape[3]
    if min(height, width) < 2 or not 0.5 <= height / in_proportion <= 2:
        return math.inf
    return abs(height - in_proportion)


def _bare(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``'s wrapper, whose graphs would not see a hook and whose names differ."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _eagerly() -> AbstractContextManager[Any]:
    """Run compiled submodules as they were written: their graphs do not see hooks."""
    # From torch 2.6 on.
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")


@contextmanager
def _hooked(hooks: list[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Register forward hooks, and remove them whatever happens."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        with _eagerly():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _submodule(model: nn.Module, layer: str) -> nn.Module:
    try:
        if layer:
            return model.get_submodule(layer)
    except AttributeError:
        pass
    names = [name for name, _ in model.named_modules() if name and name.count(".") <= layer.count(".")]
    raise ValueError(
        f"saliency_layer={layer!r} is no submodule of {type(model).__name__}: name one of {list_names(names)}"
    )


@dataclass
class _Visit:
    """What was seen of a submodule in one forward pass: in multiply-adds, work of its own and all work until its end."""

    calls: int = 0
    own: int = 0
    end: int = 0
    order: int = 0
    positions: int = 0


def find_default_layer(model: nn.Module, images: Tensor, targets: Tensor, model_loss: ModelLoss | None = None) -> str:
    """Return the name of the submodule that ends the first third of the network.

    One forward pass of two images, in evaluation mode and without a graph, counts multiply-adds; of the whole batch where
    the model refuses two images, or its loss needs the batch. Candidates are the
    model's children; in place of a child that is a ``Sequential``, that only holds others (a ``ModuleList``), or that does
    at least 90% of the work (the network in a LightningModule), also its own children. Of those that are called once and
    return a feature map, the one counts that ends last within the first third of all multiply-adds; where several end
    alike, the one with most positions, then the last. If none ends there, the first feature map counts. This takes
    children for layers that follow each other; where they are branches, name a submodule yourself.

    Raises:
        ValueError: If no candidate returns a feature map, or what :func:`feature_saliency` raises.
    """
    model, model_loss = _bare(model), ModelLoss() if model_loss is None else model_loss
    # Two, since what does not depend on the images, such as an embedding of positions, often has a batch of one.
    first = targets[:2] if isinstance(targets, Tensor) and targets.ndim else targets
    needs_batch = model_loss.batch is not None and model_loss.loss is not None
    try:
        visits = _visit(model, model_loss, *((images, targets) if needs_batch else (images[:2], first)))
    except (RuntimeError, ValueError, AssertionError):
        # A model made for one size of batch; any other error is raised again here.
        visits = _visit(model, model_loss, images, targets)
    chain = dict(_chain(model, "", visits))
    maps = [name for name in chain if visits[name].calls == 1 and visits[name].positions]
    if not maps:
        inside = [name for name, visit in visits.items() if visit.calls == 1 and visit.positions]
        hint = f" ({inside[0]!r}, inside these, returns one)" if inside else ""
        raise ValueError(
            f"no submodule of {type(model).__name__} returns a (B, channels, h, w) feature map among those searched "
            f"({', '.join(chain) or 'it has none'}): pass saliency_layer{hint}, or use saliency='gradient'"
        )
    early = [name for name in maps if visits[name].end <= _FIRST_PART * visits[""].end]
    if not early:
        return min(maps, key=lambda name: visits[name].order)
    return max(early, key=lambda name: (visits[name].end, visits[name].positions, visits[name].order))


def _visit(model: nn.Module, model_loss: ModelLoss, images: Tensor, targets: Tensor) -> dict[str, _Visit]:
    """Run the forward pass and return what each submodule did, by name."""
    # Here, since it takes a moment to import and most runs do without.
    from torch.utils.flop_counter import FlopCounterMode

    visits = {name: _Visit() for name, _ in model.named_modules()}
    counter = FlopCounterMode(display=False)
    starts: list[int] = []
    layout, maps = _Layout(images), list[tuple[_Visit, Tensor]]()

    def enter(module: nn.Module, arguments: Any) -> None:
        starts.append(counter.get_total_flops())

    def leave(visit: _Visit, output: Any) -> None:
        visit.calls += 1
        visit.end = counter.get_total_flops()
        visit.own += visit.end - starts.pop()
        visit.order = sum(each.calls for each in visits.values())
        if _may_be_map(output, images):
            # Without its values.
            maps.append((visit, output.to("meta")))

    named = list(model.named_modules())
    handles = [module.register_forward_pre_hook(enter) for _, module in named]
    hooks = layout.hooks(model)
    hooks += [(module, lambda _, __, output, visit=visits[name]: leave(visit, output)) for name, module in named]
    try:
        with evaluation_pass(model, images.device), without_graph(), _hooked(hooks), counter:
            model_loss(model, images.detach().clone(), targets)
    finally:
        for handle in handles:
            handle.remove()
    visits[""].end = counter.get_total_flops()
    for visit, output in maps:
        channels = layout.channels(output, slack=1)
        visit.positions = 0 if channels is None else output[0].numel() // output.shape[channels]
    return visits


def _chain(module: nn.Module, name: str, visits: dict[str, _Visit]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the candidates inside a module by name, see :func:`find_default_layer`."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        visit = visits.get(path)
        if visit is not None and visit.calls:
            yield path, child
        if visit is None or not visit.calls or isinstance(child, nn.Sequential) or _holds_nearly_all(visit, visits):
            yield from _chain(child, path, visits)


def _holds_nearly_all(visit: _Visit, visits: dict[str, _Visit]) -> bool:
    return visit.own >= _NEARLY_ALL * visits[""].end
