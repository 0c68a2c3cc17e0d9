"""Saliency against torch.autograd by hand, and that the model and the world stay as found."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from witness import Witness

from lightning_puzzlemix.saliency import ModelLoss, gradient_saliency


class Net(nn.Module):
    """A small classifier whose forward passes its logits through ``finish``."""

    def __init__(self, finish: Callable[[Tensor], Any] = lambda logits: logits, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )  # fmt: skip
        self.head = nn.Linear(16, 5)
        self.finish = finish

    def forward(self, images: Tensor) -> Any:
        return self.finish(self.head(self.body(images)))


@pytest.fixture
def net() -> Net:
    """A net in training mode whose BatchNorm has seen something."""
    model = Net()
    for _ in range(3):
        model(torch.rand(8, 3, 9, 9) * 2)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 9, 9)


TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


def by_hand(net: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return saliency and parameter gradients by backward() on a copy in its present mode."""
    copy, leaf = deepcopy(net), images.clone().requires_grad_()
    copy.zero_grad()
    F.cross_entropy(copy(leaf), targets).backward()
    assert leaf.grad is not None
    saliency = (leaf.grad**2).mean(1) ** 0.5
    return saliency, {name: each.grad for name, each in copy.named_parameters() if each.grad is not None}


def snapshot(net: nn.Module) -> list[Any]:
    """Record everything about a model that a caller could see."""
    state = [(name, each.clone(), each._version) for name, each in net.state_dict(keep_vars=True).items()]
    grads = [None if each.grad is None else each.grad.clone() for each in net.parameters()]
    flags = [each.requires_grad for each in net.parameters()], [each.training for each in net.modules()]
    return [state, grads, flags]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "probabilities", "double probabilities"])
def test_equals_autograd_in_evaluation_mode(kind: str, net: Net, images: Tensor) -> None:
    probabilities = torch.softmax(torch.randn(6, 5), 1)
    targets = {"probabilities": probabilities, "double probabilities": probabilities.double()}.get(kind)
    targets = TARGETS.to(getattr(torch, kind)) if targets is None else targets
    wanted = targets.float() if targets.is_floating_point() else targets.long()
    expected, _ = by_hand(net.eval(), images, wanted)
    found = gradient_saliency(net.train(), images, targets)
    torch.testing.assert_close(found.saliency, expected)
    torch.testing.assert_close(found.gradient.square().mean(1).sqrt(), expected)
    assert found.num_classes == 5
    assert found.parameter_gradients == ()


def test_equals_autograd_in_training_mode(net: Net, images: Tensor) -> None:
    net.head.bias.requires_grad_(False)
    parameters = [each for each in net.parameters() if each.requires_grad]
    torch.manual_seed(3)
    expected, gradients = by_hand(net, images, TARGETS)
    torch.manual_seed(3)
    found = gradient_saliency(net, images, TARGETS, training=True, parameters=parameters)
    torch.testing.assert_close(found.saliency, expected)
    names = [name for name, each in net.named_parameters() if each.requires_grad]
    for name, gradient in zip(names, found.parameter_gradients, strict=True):
        torch.testing.assert_close(gradient, gradients[name], msg=name)
    assert all(each.grad is None for each in net.parameters())


def test_training_mode_updates_batchnorm_once(net: Net, images: Tensor) -> None:
    expected = deepcopy(net)
    expected(images)
    gradient_saliency(net, images, TARGETS, training=True)
    for (name, ours), theirs in zip(net.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_unused_parameters_have_no_gradient(net: Net, images: Tensor) -> None:
    unused = nn.Parameter(torch.ones(2))
    found = gradient_saliency(net, images, TARGETS, parameters=[unused, net.head.weight])
    assert found.parameter_gradients[0] is None
    assert found.parameter_gradients[1] is not None


def test_the_model_stays_as_found(net: Net, images: Tensor) -> None:
    net.body[1].eval()
    net.head.bias.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    before, copy, version = snapshot(net), images.clone(), images._version
    gradient_saliency(net, images, TARGETS)
    assert same(snapshot(net), before)
    assert torch.equal(images, copy)
    assert (images._version, images.requires_grad, images.grad) == (version, False, None)


def test_modes_come_back_after_an_error(net: Net, images: Tensor) -> None:
    net.body[1].eval()
    net.finish = lambda logits: 1 / 0
    before = snapshot(net)
    with pytest.raises(ZeroDivisionError):
        gradient_saliency(net, images, TARGETS)
    assert same(snapshot(net), before)


def test_an_overridden_train_is_not_called(net: Net, images: Tensor) -> None:
    net.train = net.eval = None  # type: ignore[method-assign, assignment]
    gradient_saliency(net, images, TARGETS)
    assert net.training


def test_random_states_stay_as_found(net: Net, images: Tensor) -> None:
    # Sampling even in evaluation mode.
    net.finish = lambda logits: logits + 0.1 * torch.rand_like(logits)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    gradient_saliency(net, images, TARGETS)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_dropout_is_off(net: Net, images: Tensor) -> None:
    first = gradient_saliency(net, images, TARGETS).saliency
    torch.manual_seed(123)
    assert torch.equal(gradient_saliency(net, images, TARGETS).saliency, first)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inside_no_grad(context: Callable[[], Any], net: Net, images: Tensor) -> None:
    expected = gradient_saliency(net, images, TARGETS).saliency
    with context():
        found = gradient_saliency(net, images, TARGETS).saliency
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["images", "classes", "probabilities"])
def test_inference_tensors(kind: str, net: Net, images: Tensor) -> None:
    targets = torch.softmax(torch.randn(6, 5), 1) if kind == "probabilities" else TARGETS
    expected = gradient_saliency(net, images, targets).saliency
    with torch.inference_mode():
        frozen = (images if kind == "images" else targets).clone()
    assert frozen.is_inference()
    found = gradient_saliency(net, *((frozen, targets) if kind == "images" else (images, frozen)))
    torch.testing.assert_close(found.saliency, expected)


def test_float16_output_does_not_lose_small_gradients(images: Tensor) -> None:
    """A model that scales its input down: below 6e-8 float16 gradients vanish without a scaled loss."""
    weight = torch.randn(images[0].numel(), 5)

    def forward(leaf: Tensor) -> Tensor:
        return ((leaf.flatten(1) * 1e-5) @ weight).half()

    exact = images.clone().requires_grad_()
    F.cross_entropy((exact.flatten(1) * 1e-5) @ weight, TARGETS).backward()
    assert exact.grad is not None
    model = nn.Module()
    model.forward = forward  # type: ignore[method-assign]
    found = gradient_saliency(model, images, TARGETS)
    torch.testing.assert_close(found.gradient, exact.grad, rtol=2e-2, atol=1e-9)
    torch.testing.assert_close(found.saliency, exact.grad.square().mean(1).sqrt(), rtol=1e-2, atol=1e-9)


def test_float16_parameters_and_tiny_upstream_gradient() -> None:
    """The gradient is about 2e-7 where the model is sure: hardly a number in float16, were the loss not scaled."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).half()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.05] * 4, [-0.05] * 4]))
        model[1].bias.copy_(torch.tensor([6.5, -6.5]))
    images = torch.zeros(1, 1, 2, 2, dtype=torch.float16)
    found = gradient_saliency(model, images, torch.tensor([0])).saliency
    double = deepcopy(model).double()
    expected, _ = by_hand(double, images.double(), torch.tensor([0]))
    assert expected.min() > 0
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, net: Net, images: Tensor) -> None:
    net.eval()
    expected, _ = by_hand(deepcopy(net).double(), images.double(), TARGETS)
    found = gradient_saliency(net.to(dtype), images.to(dtype), TARGETS)
    assert found.saliency.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(
        found.saliency.double(), expected, rtol=tolerance, atol=tolerance * float(expected.max())
    )


def test_forward_context_surrounds_the_forward_pass_only(net: Net, images: Tensor) -> None:
    witness = Witness()
    net.finish = lambda logits: witness.add(logits.dtype) or logits
    found = gradient_saliency(
        net, images, TARGETS, ModelLoss(forward_context=lambda: torch.autocast("cpu", torch.bfloat16))
    )
    assert witness.seen() == [torch.bfloat16]
    assert found.saliency.dtype == torch.float32


@dataclass
class Output:
    """As transformers return it."""

    logits: Tensor
    loss: None = None


@pytest.mark.parametrize(
    "finish",
    [
        lambda logits: (logits, "aux"),
        lambda logits: [logits],
        lambda logits: {"logits": logits, "loss": 0},
        Output,
        lambda logits: SimpleNamespace(logits=logits),
    ],
    ids=["tuple", "list", "dict", "dataclass", "namespace"],
)
def test_outputs_that_hold_logits(finish: Callable[[Tensor], Any], net: Net, images: Tensor) -> None:
    expected = gradient_saliency(net, images, TARGETS).saliency
    net.finish = finish
    assert torch.equal(gradient_saliency(net, images, TARGETS).saliency, expected)


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda logits: logits.sum(1), r"output must be \(B, classes\).*shape \(6,\)"),
        (lambda logits: logits[:3], r"= \(6, classes\).*shape \(3, 5\)"),
        (lambda logits: logits[:, :, None, None], r"shape \(6, 5, 1, 1\)"),
        (lambda logits: logits[:, :0], r"shape \(6, 0\)"),
        (lambda logits: {"scores": logits}, "type dict"),
        (lambda logits: None, "type NoneType"),
        (lambda logits: (), "type tuple"),
        (lambda logits: logits.detach(), "does not depend on the images.*no_grad"),
    ],
)
def test_outputs_that_do_not(finish: Callable[[Tensor], Any], message: str, net: Net, images: Tensor) -> None:
    net.finish = finish
    with pytest.raises(ValueError, match=message):
        gradient_saliency(net, images, TARGETS)
