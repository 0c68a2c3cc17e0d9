"""Saliency at a feature map against autograd by hand, and what it leaves behind: nothing."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from platforms import needs_compile
from test_gradient import same, snapshot
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from witness import Witness

from lightning_puzzlemix.saliency.feature import feature_saliency
from lightning_puzzlemix.saliency.source import SaliencySource

IMAGES, CLASSES = torch.rand(6, 3, 12, 16, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 1, 2, 3, 4, 0])


class Net(nn.Module):
    """Body and neck return feature maps, each followed by something that works in place; ``finish`` sees the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.neck = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.Dropout(0.5))
        self.unused = nn.Conv2d(3, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)
        self.finish: Callable[[Tensor], Any] = lambda logits: logits

    def first(self, images: Tensor) -> Tensor:
        return self.body(images)

    def rest(self, features: Tensor) -> Tensor:
        return self.head(self.pool(self.neck(features)).flatten(1))

    def forward(self, images: Tensor) -> Any:
        return self.finish(self.rest(self.first(images)))

    def mean_loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.rest(self.first(images)), targets)


@pytest.fixture
def net() -> Net:
    """A net in training mode whose BatchNorm has seen something."""
    model = Net()
    for _ in range(3):
        model(torch.rand(8, 3, 12, 16) * 2)
    return model


def by_hand(net: Net, images: Tensor = IMAGES, targets: Tensor = CLASSES) -> Tensor:
    """Return the (B, h, w) saliency at the output of ``body``."""
    net = copy.deepcopy(net).eval()
    features = net.first(images).detach().requires_grad_()
    F.cross_entropy(net.rest(features.clone()), targets).backward()
    assert features.grad is not None
    return (features.grad**2).mean(1) ** 0.5


def test_feature_equals_autograd_by_hand(net: Net) -> None:
    found = feature_saliency(net, IMAGES, CLASSES, layer="body")
    # 6 x 8 positions under 12 x 16 pixels: each covers a square of two by two.
    torch.testing.assert_close(
        found.saliency, torch.from_numpy(np.kron(by_hand(net).numpy(), np.ones((1, 2, 2)))).float()
    )
    assert (found.gradient, found.num_classes, found.parameter_gradients) == (None, 5, ())
    assert not found.saliency.requires_grad


def test_feature_keeps_the_mass_where_sides_do_not_divide(net: Net) -> None:
    images = torch.rand(6, 3, 13, 19)
    found, coarse = feature_saliency(net, images, CLASSES, layer="body").saliency, by_hand(net, images)
    assert found.shape == (6, 13, 19)
    torch.testing.assert_close(found.mean((1, 2)), coarse.mean((1, 2)), rtol=0.1, atol=0)
    assert found.max() <= coarse.max() * (1 + 1e-6)


def test_a_convolution_that_changes_the_proportion_is_read_channels_first() -> None:
    """Without padding (4, 8, 23) of images (12, 27) could be a 4 x 8 map of 23 channels, too; nothing in the model is."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 23, 5)).double()
    images, targets = torch.rand(2, 3, 12, 27, dtype=torch.float64), torch.tensor([1, 4])
    found = feature_saliency(net, images, targets, layer="0").saliency
    leaf = net[0](images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net[1:](leaf), targets), leaf)
    expected = F.interpolate(gradient.square().mean(1, keepdim=True).sqrt(), size=(12, 27), mode="area")[:, 0]
    assert torch.allclose(found.double(), expected, rtol=1e-4)


def test_feature_with_soft_targets_and_tuple_outputs(net: Net) -> None:
    soft = torch.softmax(torch.randn(6, 5), 1)
    net.finish = lambda logits: (logits, "aux")
    found = feature_saliency(net, IMAGES, soft, layer="body")
    torch.testing.assert_close(found.saliency[:, ::2, ::2], by_hand(net, targets=soft))


@pytest.mark.parametrize("layer", [None, "body"])
@pytest.mark.parametrize("culprit", ["inside", "behind"])
def test_hooks_and_modes_come_back_after_an_error(layer: str | None, culprit: str, net: Net) -> None:
    net.body[1].eval()
    if culprit == "behind":
        net.finish = lambda logits: 1 / 0
    else:
        net.body[0].register_forward_pre_hook(lambda module, arguments: 1 / 0)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())
    before = snapshot(net)
    with pytest.raises(ZeroDivisionError):
        SaliencySource("feature", layer).compute(net, IMAGES, CLASSES)
    assert same(snapshot(net), before)
    assert torch.is_grad_enabled()
    assert hooks == sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


def test_no_graph_is_recorded_before_the_layer() -> None:
    witness = Witness()

    class Watched(Net):
        def first(self, images: Tensor) -> Tensor:
            witness.add(("body", self.body[0](images).requires_grad))
            return super().first(images)

        def rest(self, features: Tensor) -> Tensor:
            witness.add(("neck", self.neck(features.clone()).requires_grad))
            return super().rest(features)

    net = Watched()
    feature_saliency(net, IMAGES, CLASSES, layer="body")
    assert witness.seen() == [("body", False), ("neck", True)]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("layer", [None, "body"])
def test_feature_inside_no_grad(context: Callable[[], Any], layer: str | None, net: Net) -> None:
    expected = SaliencySource("feature", layer).compute(net, IMAGES, CLASSES).saliency
    with context():
        found = SaliencySource("feature", layer).compute(net, IMAGES.clone(), CLASSES.clone()).saliency
    torch.testing.assert_close(found, expected)


def test_feature_in_float16_does_not_lose_small_gradients(net: Net) -> None:
    """Where the model is sure, gradients are about 1e-7: nothing in float16 without a scaled loss."""
    with torch.no_grad():
        net.head.bias.copy_(torch.tensor([12.0, 0, 0, 0, 0]))
        for parameter in net.parameters():
            parameter.copy_(parameter.half())
    classes = torch.zeros(6, dtype=torch.long)
    found = feature_saliency(copy.deepcopy(net).half(), IMAGES.half(), classes, layer="body").saliency
    expected = by_hand(net.double(), IMAGES.half().double(), classes)
    assert found.dtype == torch.float32
    # Not each of them: some are next to nothing beside the largest.
    torch.testing.assert_close(found[:, ::2, ::2].double(), expected, rtol=0.1, atol=0.05 * float(expected.max()))


@needs_compile
def test_feature_of_a_compiled_model(net: Net) -> None:
    net.eval()
    compiled = torch.compile(net, backend="eager")
    compiled(IMAGES)
    expected = feature_saliency(net, IMAGES, CLASSES, layer="body").saliency
    torch.testing.assert_close(feature_saliency(compiled, IMAGES, CLASSES, layer="body").saliency, expected)
    inside = nn.Sequential(OrderedDict(net=net))
    net.compile(backend="eager")
    inside(IMAGES)
    torch.testing.assert_close(feature_saliency(inside, IMAGES, CLASSES, layer="net.body").saliency, expected)


class Twice(Net):
    def first(self, images: Tensor) -> Tensor:
        return self.body(images) + self.body(images)


class Checkpointed(Net):
    """The part around the layer, or the part behind it, is computed again in the backward pass."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part
        # A checkpoint keeps its input, which must then stay as it is.
        self.neck[0] = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        if self.part == "all":
            return checkpoint(lambda images: self.rest(self.first(images)), images, use_reentrant=False)
        return checkpoint(self.rest, self.first(images), use_reentrant=self.part == "reentrant rest")


class Ignored(Net):
    def forward(self, images: Tensor) -> Tensor:
        self.unused(images)
        return self.rest(self.first(images))


class Frozen(Net):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.first(images)
        return self.rest(features)


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (Net, "bdy", r"saliency_layer='bdy' is no submodule of Net: name one of body, neck, unused, pool, head$"),
        (Net, "body.7", r"is no submodule of Net: name one of body, body\.0, body\.1, neck"),
        (Net, "unused", "saliency_layer='unused' is not called by the model's forward"),
        (Net, "head", r"must return.*\(B, channels, h, w\).*\(6, 3, 12, 16\), got shape \(6, 5\)"),
        (Net, "pool", r"at least 2 x 2 positions.*got shape \(6, 8, 1, 1\): name an earlier"),
        (Twice, "body", "saliency_layer='body' is called more than once"),
        (Ignored, "unused", "loss does not depend on the output of saliency_layer='unused'"),
        (Frozen, "body", r"does not depend on the images.*no_grad"),
        (lambda: Checkpointed("reentrant rest"), "body", "use_reentrant=False"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint")
def test_layers_that_do_not_fit(model: Callable[[], Net], layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_saliency(model(), IMAGES, CLASSES, layer=layer)


@pytest.mark.parametrize("part", ["all", "rest"])
def test_feature_through_a_checkpoint(part: str) -> None:
    model = Checkpointed(part)
    found = feature_saliency(model, IMAGES, CLASSES, layer="body").saliency
    torch.testing.assert_close(found[:, ::2, ::2], by_hand(model))
