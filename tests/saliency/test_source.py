"""The seam of the saliency sources: callables, losses, precision, numbers of classes, and what is refused."""

from __future__ import annotations

import copy
import gc
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_feature import CLASSES, IMAGES, Net
from test_gradient import same, snapshot
from torch import Tensor, nn
from witness import Witness

from lightning_puzzlemix import MixDraw, PuzzleMix, PuzzleMixConfig
from lightning_puzzlemix.saliency import PerModel, SaliencySource
from lightning_puzzlemix.saliency.gradient import gradient_saliency

CONFIG = PuzzleMixConfig(grid_sizes=(2, 4))


@pytest.fixture
def net() -> Net:
    """A net in training mode whose BatchNorm has seen something."""
    model = Net()
    for _ in range(3):
        model(torch.rand(8, 3, 12, 16) * 2)
    return model


@pytest.mark.parametrize("source", ["gradient", "feature", "spectral"])
def test_model_images_and_random_states_stay_as_found(source: str, net: Net) -> None:
    net.body[1].eval()
    net.head.bias.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    # Sampling even in evaluation mode.
    net.finish = lambda logits: logits + 0.1 * torch.rand_like(logits)
    images = IMAGES.clone()
    before, version, state = snapshot(net), images._version, torch.get_rng_state()
    draw = MixDraw(torch.arange(6), 0.5, 2)
    mixed = PuzzleMix(CONFIG, saliency=source)(net, images, CLASSES, draw)
    assert mixed.targets.shape == (6, 5)
    assert same(snapshot(net), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, IMAGES)
    assert (images._version, images.requires_grad) == (version, False)
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_weights_cast_without_a_graph_do_not_reach_the_training_step(net: Net) -> None:
    """Autocast remembers 16-bit copies of the weights; made without a graph they would stop the training's gradients."""
    with torch.autocast("cpu", torch.bfloat16):
        PuzzleMix(CONFIG, saliency="feature")(net, IMAGES, CLASSES)
        PuzzleMix(CONFIG, saliency="spectral")(net, IMAGES, CLASSES)
        net(IMAGES).sum().backward()
    weights = [each for name, each in net.named_parameters() if name.endswith("weight") and "unused" not in name]
    assert all(weight.grad is not None for weight in weights)


def test_a_callable(net: Net) -> None:
    seen: dict[str, Any] = {}

    def source(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        leaf = images.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(module(leaf), targets), leaf)
        seen.update(training=module.training, grad=torch.is_grad_enabled())
        return gradient.abs().sum(1).double().requires_grad_()

    with torch.inference_mode():
        mixed = PuzzleMix(CONFIG, saliency=source)(net, IMAGES.clone(), CLASSES.clone())
    assert seen == {"training": True, "grad": True}
    assert mixed.saliency.dtype == torch.float32
    assert mixed.saliency.max() > 0
    assert not mixed.saliency.requires_grad
    assert mixed.targets.shape == (6, 5)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, r"saliency callable must return a floating point tensor \(B, H, W\), got NoneType"),
        (IMAGES[:, 0].long(), TypeError, "got torch.int64"),
        (IMAGES, ValueError, r"\(6, 12, 16\) for images \(6, 3, 12, 16\), got \(6, 3, 12, 16\): reduce channels"),
        (IMAGES[:, 0].to("meta"), ValueError, "images' device cpu, got meta"),
        (-IMAGES[:, 0], ValueError, "saliency must be >= 0"),
    ],
)
def test_what_a_callable_may_not_return(result: Any, error: type[Exception], message: str, net: Net) -> None:
    with pytest.raises(error, match=message):
        PuzzleMix(CONFIG, saliency=lambda *_: result)(net, IMAGES, CLASSES)


def losses_of(module: Net, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(module.rest(module.first(images)), targets, reduction="none")


def no_logits(logits: Tensor) -> str:
    return "embedding"


@pytest.mark.parametrize("loss", ["mean_loss", losses_of, lambda module, *batch: losses_of(module, *batch).mean()])
@pytest.mark.parametrize("source", ["gradient", "feature"])
def test_saliency_loss(source: str, loss: Any, net: Net) -> None:
    expected = SaliencySource(source).compute(net, IMAGES, CLASSES)
    net.finish = no_logits
    found = SaliencySource(source, loss=loss).compute(net, IMAGES, CLASSES)
    torch.testing.assert_close(found.saliency, expected.saliency)
    torch.testing.assert_close(found.gradient, expected.gradient)
    assert found.num_classes is None


def test_clean_regularization_by_a_saliency_loss(net: Net) -> None:
    # No dropout, so that both passes see the same network.
    net.neck[3].eval()
    expected = copy.deepcopy(net)
    (0.5 * expected.mean_loss(IMAGES, CLASSES)).backward()
    net.finish = no_logits
    mixed = PuzzleMix(CONFIG, clean_weight=0.5, saliency_loss="mean_loss", num_classes=5)(net, IMAGES, CLASSES)
    assert mixed.clean is not None
    mixed.clean.surrogate_loss().backward()
    for (name, ours), theirs in zip(net.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("meen_loss", r"saliency_loss='meen_loss' must name a method of the model, but Net has none: define"),
        (lambda *_: 1.0, "saliency_loss must return.*6 losses.*got float"),
        (lambda *_: torch.ones(6, 5), r"got torch.float32 of shape \(6, 5\)"),
        (lambda *_: torch.tensor(1), "got torch.int64"),
        (lambda *_: torch.tensor(1.0), "does not depend on the images"),
    ],
)
def test_losses_that_do_not_fit(loss: Any, message: str, net: Net) -> None:
    with pytest.raises(ValueError, match=message):
        PuzzleMix(CONFIG, saliency_loss=loss)(net, IMAGES, CLASSES)


@pytest.mark.parametrize("source", ["gradient", "feature"])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_precision(source: str, precision: str, dtype: torch.dtype, net: Net) -> None:
    witness = Witness()
    net.finish = lambda logits: witness.add(logits.dtype) or logits
    exact = SaliencySource(source, "body" if source == "feature" else None).compute(net, IMAGES, CLASSES).saliency
    mixer = PuzzleMix(CONFIG, saliency=source, saliency_layer="body" if source == "feature" else None, saliency_precision=precision)  # fmt: skip  # noqa: E501
    found = mixer(net, IMAGES, CLASSES).saliency
    assert witness.seen() == [torch.float32, dtype]
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    correlations = [np.corrcoef(one, two)[0, 1] for one, two in zip(found.flatten(1), exact.flatten(1), strict=True)]
    assert min(correlations) > 0.95


def test_full_precision_inside_the_trainers_autocast(net: Net) -> None:
    source = SaliencySource("gradient", precision="32-true")
    found = source.compute(net, IMAGES, CLASSES, forward_context=lambda: torch.autocast("cpu", torch.bfloat16))
    assert torch.equal(found.saliency, gradient_saliency(net, IMAGES, CLASSES).saliency)


@pytest.fixture
def probes(net: Net) -> Witness:
    """The batch sizes that the net is called with."""
    sizes = Witness()
    net.finish = lambda logits: sizes.add(len(logits)) or logits
    return sizes


def test_the_number_of_classes_is_asked_for_once(net: Net, probes: Witness) -> None:
    mixer = PuzzleMix(CONFIG, saliency="spectral")
    for _ in range(2):
        assert mixer(net, IMAGES, CLASSES).targets.shape == (6, 5)
    assert probes.seen() == [1]
    copied = pickle.loads(pickle.dumps(PuzzleMix(CONFIG, saliency="spectral")))
    for again in (copy.deepcopy(mixer), copied):
        assert again(net, IMAGES, CLASSES).targets.shape == (6, 5)
    assert probes.seen() == [1, 1, 1]


@pytest.mark.parametrize("num_classes", [None, 7])
def test_the_number_of_classes_of_probabilities(num_classes: int | None, net: Net, probes: Witness) -> None:
    soft = torch.softmax(torch.randn(6, 7), 1)
    mixer = PuzzleMix(CONFIG, saliency="spectral", num_classes=num_classes)
    assert mixer(net, IMAGES, soft).targets.shape == (6, 7)
    assert probes.seen() == []


def test_the_number_of_classes_given(net: Net, probes: Witness) -> None:
    mixer = PuzzleMix(CONFIG, saliency="spectral", num_classes=9)
    assert mixer(net, IMAGES, CLASSES).targets.shape == (6, 9)
    assert probes.seen() == []
    with pytest.raises(ValueError, match="num_classes=9, but the model returns 5 logits"):
        PuzzleMix(CONFIG, num_classes=9)(net, IMAGES, CLASSES)


class NoForward(Net):
    forward = nn.Module.forward


@pytest.mark.parametrize("model", [Net, NoForward])
def test_the_number_of_classes_cannot_be_known(model: type[Net]) -> None:
    net = model()
    net.finish = no_logits
    mixer = PuzzleMix(CONFIG, saliency_loss="mean_loss")
    with pytest.raises(ValueError, match=r"number of classes is unknown.*pass num_classes, or \(B, classes\) prob"):
        mixer(net, IMAGES, CLASSES)
    assert mixer(net, IMAGES, F.one_hot(CLASSES, 5).float()).targets.shape == (6, 5)


def test_facts_are_forgotten_with_their_model() -> None:
    facts: PerModel[int] = PerModel()
    model = nn.Identity()
    facts[model] = 3
    del model
    gc.collect()
    assert len(facts) == 0


@pytest.mark.parametrize("source", ["spectral", lambda module, images, targets: images.abs().mean(1)])
def test_targets_are_checked_without_logits(source: Any, net: Net) -> None:
    mixer = PuzzleMix(CONFIG, saliency=source)
    with pytest.raises(ValueError, match=r"classes in \[0, 4\], got 1 to 5"):
        mixer(net, IMAGES, CLASSES + 1)
    with pytest.raises(ValueError, match=r"targets must be \(6,\) integer.*shape \(5,\)"):
        mixer(net, IMAGES, CLASSES[:5])
    with pytest.raises(TypeError, match=r"targets must be a tensor.*list"):
        mixer(net, IMAGES, CLASSES.tolist())  # type: ignore[arg-type]


def test_noise_needs_the_gradient_at_the_images(net: Net) -> None:
    draw = MixDraw(
        torch.arange(6), 0.5, 2, adversarial_first=True, noise_start=torch.zeros_like(IMAGES), noise_scale=1.0
    )
    with pytest.raises(ValueError, match="needs the gradient at the images, which saliency='feature' does not compute"):
        PuzzleMix(CONFIG, saliency="feature")(net, IMAGES, CLASSES, draw)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"saliency": "features"},
            ValueError,
            r"saliency must be one of \('gradient', 'feature', 'spectral'\) or a call",
        ),
        ({"saliency": None}, ValueError, "saliency must be one of.*got None"),
        (
            {"saliency_layer": "body"},
            ValueError,
            "saliency_layer='body' belongs to saliency='feature', got.*'gradient'",
        ),
        ({"saliency": "feature", "saliency_layer": 3}, TypeError, "saliency_layer must be the name.*got 3"),
        ({"saliency": "feature", "saliency_layer": ""}, TypeError, "saliency_layer must be the name.*got ''"),
        ({"saliency_loss": 3}, TypeError, "saliency_loss must be a callable.*got 3"),
        ({"saliency_loss": "my loss"}, TypeError, "saliency_loss must be.*name of a method.*got 'my loss'"),
        ({"saliency_loss": "training_step"}, ValueError, "saliency_loss='training_step' would log.*name a method"),
        ({"saliency": "spectral", "saliency_loss": "mean_loss"}, ValueError, "saliency_loss has no use.*'spectral'"),
        (
            {"saliency_precision": "bf16"},
            ValueError,
            r"saliency_precision must be None or one of.*'bf16-mixed'.*'bf16'",
        ),
        ({"saliency": "spectral", "saliency_precision": "bf16-mixed"}, ValueError, "no use with saliency='spectral'"),
        ({"saliency": "feature", "clean_weight": 1.0}, ValueError, "clean_weight=1.0 needs the gradients of all param"),
        (
            {"saliency": "spectral", "adversarial_prob": 0.1},
            ValueError,
            "adversarial_prob=0.1 needs the gradient at the im",
        ),
        ({"saliency": losses_of, "clean_weight": 1.0}, ValueError, "clean_weight=1.0.*saliency='gradient'"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"num_classes": True}, TypeError, "num_classes must be an integer or None, got True"),
    ],
)
def test_refused_at_construction(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PuzzleMix(CONFIG, **arguments)


def test_every_message_ends_in_a_way_out() -> None:
    with pytest.raises(ValueError, match=re.escape("use saliency='gradient', or clean_weight=0")):
        PuzzleMix(CONFIG, saliency="feature", clean_weight=2.0)
