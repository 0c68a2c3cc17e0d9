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
            positions; ``None`` for that of :func:`find_default_layer`.

    Returns:
        ``saliency`` (B, H, W) and, from logits, ``num_classes``; no gradients.
    """
    model_loss = ModelLoss() if model_loss is None else model_loss
    model = _bare(model)
    layer = find_default_layer(model, images, targets, model_loss) if layer is None else layer
    cut = _Cut(layer, images)
    submodule = _submodule(model, layer)
    with evaluation_pass(model, images.device), without_graph():
        with _hooked([(submodule, cut)]):
            # A copy, since without a graph nothing keeps a model from working on its input in place.
            objective = model_loss(model, images.detach().clone(), targets)
        if cut.leaf is None:
            raise ValueError(f"saliency_layer={layer!r} is not called by the model's forward pass: name one that is")
        (gradient,) = differentiate(objective.total, [cut.leaf])
    if gradient is None:
        raise ValueError(f"the loss does not depend on the output of saliency_layer={layer!r}: name another submodule")
    found = (gradient.float() / objective.divisor).square().mean(1, keepdim=True).sqrt()
    return SaliencyPass(F.interpolate(found, size=images.shape[2:], mode="area")[:, 0], None, objective.num_classes)


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
        if not _is_map(output, self.images):
            shown = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
            raise ValueError(
                f"saliency_layer={self.layer!r} must return a floating point feature map (B, channels, h, w) of at least "
                f"2 x 2 positions for images {tuple(self.images.shape)}, got {shown}: name an earlier one"
            )
        torch.set_grad_enabled(True)
        self.leaf = output.detach().requires_grad_()
        # A copy, since what follows may work in place, which no leaf allows.
        return self.leaf.clone()


def _is_map(output: Any, images: Tensor, slack: float = math.inf) -> bool:
    """Whether this can be a (B, channels, h, w) map of at least 2 x 2 positions with sides in proportion to the image's.

    Some networks work on (B, h, w, channels), whose last two sides have another proportion. Convolutions without padding
    change it too, by up to ``slack`` positions.
    """
    if not isinstance(output, Tensor) or output.ndim != 4 or not output.is_floating_point():
        return False
    batch, _, height, width = output.shape
    if batch != len(images) or min(height, width) < 2:
        return False
    in_proportion = width * images.shape[2] / images.shape[3]
    return 0.5 <= height / in_proportion <= 2 and abs(height - in_proportion) <= slack


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

    One forward pass of one image, in evaluation mode and without a graph, counts multiply-adds; of the whole batch where
    the model refuses one image, or its loss needs the batch. Candidates are the
    model's children; in place of a child that is a ``Sequential``, that only holds others (a ``ModuleList``), or that does
    at least 90% of the work (the network in a LightningModule), also its own children. Of those that are called once and
    return a feature map, the one counts that ends last within the first third of all multiply-adds; where several end
    alike, the one with most positions, then the last. If none ends there, the first feature map counts. This takes
    children for layers that follow each other; where they are branches, name a submodule yourself.

    Raises:
        ValueError: If no candidate returns a feature map, or what :func:`feature_saliency` raises.
    """
    model, model_loss = _bare(model), ModelLoss() if model_loss is None else model_loss
    first = targets[:1] if isinstance(targets, Tensor) and targets.ndim else targets
    needs_batch = model_loss.batch is not None and model_loss.loss is not None
    try:
        visits = _visit(model, model_loss, *((images, targets) if needs_batch else (images[:1], first)))
    except (RuntimeError, ValueError, AssertionError):
        # A model made for one size of batch; any other error is raised again here.
        visits = _visit(model, model_loss, images, targets)
    chain = dict(_chain(model, "", visits))
    maps = [name for name in chain if visits[name].calls == 1 and visits[name].positions]
    if not maps:
        raise ValueError(
            f"no submodule of {type(model).__name__} returns a (B, channels, h, w) feature map among those searched "
            f"({', '.join(chain) or 'it has none'}): pass saliency_layer, or use saliency='gradient'"
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

    def enter(module: nn.Module, arguments: Any) -> None:
        starts.append(counter.get_total_flops())

    def leave(visit: _Visit, output: Any) -> None:
        visit.calls += 1
        visit.end = counter.get_total_flops()
        visit.own += visit.end - starts.pop()
        visit.order = sum(each.calls for each in visits.values())
        if _is_map(output, images, slack=1):
            visit.positions = output.shape[2] * output.shape[3]

    named = list(model.named_modules())
    handles = [module.register_forward_pre_hook(enter) for _, module in named]
    hooks = [(module, lambda _, __, output, visit=visits[name]: leave(visit, output)) for name, module in named]
    try:
        with evaluation_pass(model, images.device), without_graph(), _hooked(hooks), counter:
            model_loss(model, images.detach().clone(), targets)
    finally:
        for handle in handles:
            handle.remove()
    visits[""].end = counter.get_total_flops()
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
