"""Tasks other than one label of several, and models with another forward: a fitting saliency, or an error that helps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from distributed_cases import config, quiet
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_puzzlemix as pm

pl = pytest.importorskip("pytorch_lightning")
IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(4))
ZERO_ONE = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
SEVERAL = torch.tensor([[0, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 1, 0]]).float()


def network(outputs: int) -> nn.Sequential:
    torch.manual_seed(outputs)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, outputs))


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).squeeze(1)


def by_hand(model: nn.Module, loss: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model(leaf)), leaf)
    return gradient.square().mean(1).sqrt()


DRAW = pm.MixDraw(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), 0.5, 2)


@pytest.mark.parametrize("model", [lambda: network(1), Squeezed])
@pytest.mark.parametrize(
    "targets",
    [
        ZERO_ONE.float()[:, None],
        ZERO_ONE[:, None],
        ZERO_ONE,
        ZERO_ONE.float(),
        torch.rand(8, 1),
        ZERO_ONE.to(torch.uint8),
    ],
    ids=["(B,1) floats", "(B,1) integers", "(B,) integers", "(B,) floats", "soft", "uint8"],
)
def test_one_logit(targets: Tensor, model: Callable[[], nn.Module]) -> None:
    built = model()
    mixed = pm.PuzzleMix(config())(built, IMAGES, targets, DRAW)
    wanted = targets.float().view(8)
    expected = by_hand(built, lambda out: F.binary_cross_entropy_with_logits(out.view(8), wanted, reduction="mean"))
    torch.testing.assert_close(mixed.saliency, expected)
    assert mixed.targets.shape == targets.shape
    ratio = mixed.ratio.view(-1, *[1] * (targets.ndim - 1))
    torch.testing.assert_close(mixed.targets, ratio * targets.float() + (1 - ratio) * targets.float()[DRAW.permutation])


@pytest.mark.parametrize("mixer", [pm.MixUp(), pm.CutMix(), pm.PuzzleMix(config(), saliency="spectral")])
@pytest.mark.parametrize("targets", [ZERO_ONE, ZERO_ONE.float()[:, None], ZERO_ONE.float()])
def test_one_logit_without_saliency(mixer: Any, targets: Tensor) -> None:
    mixed = mixer(network(1), IMAGES, targets)
    assert mixed.targets.shape == targets.shape
    assert mixed.targets.is_floating_point()


@pytest.mark.parametrize("source", ["gradient", "feature"])
def test_several_labels(source: str) -> None:
    model = network(3)
    mixed = pm.PuzzleMix(config(), saliency=source, saliency_layer="0" if source == "feature" else None)(
        model, IMAGES, SEVERAL, DRAW
    )
    assert mixed.saliency.flatten(1).amax(1).min() > 0, "rows without a label have saliency too"
    if source == "gradient":
        expected = by_hand(model, lambda out: F.binary_cross_entropy_with_logits(out, SEVERAL))
        torch.testing.assert_close(mixed.saliency, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_that_sum_to_one_are_one_label(dtype: torch.dtype) -> None:
    targets = torch.softmax(torch.randn(8, 3), 1).to(dtype)
    model = network(3)
    found = pm.PuzzleMix(config())(model, IMAGES, targets, DRAW).saliency
    torch.testing.assert_close(found, by_hand(model, lambda out: F.cross_entropy(out, targets.float())))


def test_clean_regularization_of_several_labels() -> None:
    model = network(3)
    mixed = pm.PuzzleMix(config(), clean_weight=0.5)(model, IMAGES, SEVERAL, DRAW)
    mixed.clean.surrogate_loss().backward()
    expected = torch.autograd.grad(0.5 * F.binary_cross_entropy_with_logits(model(IMAGES), SEVERAL), model[3].weight)
    torch.testing.assert_close(model[3].weight.grad, expected[0])


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (1, 9 * ZERO_ONE.float()[:, None], "one output must be between 0 and 1.*saliency_loss"),
        (1, 40 * torch.rand(8), "between 0 and 1.*saliency_loss"),
        (1, torch.arange(8), "one output must be classes 0 and 1, got values from 0 to 7.*one output each"),
        (3, 9 * torch.rand(8, 3), r"probabilities in \[0, 1\].*saliency_loss"),
        (3, ZERO_ONE.float()[:, None], r"\(8, 3\) float"),
    ],
)  # fmt: skip
def test_regression_names_the_way_out(outputs: int, targets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pm.PuzzleMix(config())(network(outputs), IMAGES, targets)


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_by_a_loss_of_its_own(outputs: int) -> None:
    model, targets = network(outputs), 40 * torch.rand(8, outputs)
    mixer = pm.PuzzleMix(config(), saliency_loss=lambda module, images, targets: F.mse_loss(module(images), targets))
    mixed = mixer(model, IMAGES, targets, DRAW)
    torch.testing.assert_close(mixed.saliency, by_hand(model, lambda out: F.mse_loss(out, targets)))
    ratio = mixed.ratio[:, None]
    torch.testing.assert_close(mixed.targets, ratio * targets + (1 - ratio) * targets[DRAW.permutation])


def test_no_saliency_is_said() -> None:
    dead = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    nn.init.constant_(dead[0].bias, -100.0)
    with pytest.warns(
        UserWarning, match="saliency is zero, NaN or infinite everywhere in a whole batch.*saliency_loss"
    ):
        pm.PuzzleMix(config())(dead, IMAGES, ZERO_ONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pm.PuzzleMix(config())(network(2), IMAGES, ZERO_ONE)


class Features(nn.Module):
    """Returns what ``finish`` makes of features (B, 144) and logits (B, 4)."""

    def __init__(self, finish: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.finish = network(4), finish

    def forward(self, images: Tensor) -> Any:
        features = self.net[:3](images)
        return self.finish(features, self.net[3](features))


class Named(NamedTuple):
    features: Tensor
    logits: Tensor


CLASSES = torch.arange(8) % 4


@pytest.mark.parametrize("finish", [lambda f, z: (f, z), lambda f, z: [z, f], lambda f, z: (f, z[:, 0])])
@pytest.mark.parametrize("mixer", [pm.PuzzleMix(config()), pm.PuzzleMix(config(), saliency="spectral"), pm.MixUp()])
def test_several_outputs_that_could_be_logits(mixer: Any, finish: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"(?s)several outputs.*\(.*144\)") as caught:
        mixer(Features(finish), IMAGES, CLASSES)
    assert "pass num_classes" in str(caught.value)
    # Only where a loss is differentiated there is one to pass.
    differentiates = isinstance(mixer, pm.PuzzleMix) and mixer.source.source == "gradient"
    assert ("saliency_loss" in str(caught.value)) == differentiates


@pytest.mark.parametrize(
    ("finish", "options", "targets"),
    [
        (lambda f, z: (f, z), {"num_classes": 4}, CLASSES),
        (lambda f, z: (f, z), {}, F.one_hot(CLASSES, 4).float()),
        (lambda f, z: (z, 2 * z), {}, CLASSES),
        (Named, {}, CLASSES),
        (lambda f, z: {"features": f, "logits": z}, {}, CLASSES),
    ],
    ids=["num_classes", "probabilities", "auxiliary logits", "named tuple", "dict"],
)
def test_logits_among_several_outputs(finish: Any, options: dict[str, Any], targets: Tensor) -> None:
    model = Features(finish)
    mixed = pm.PuzzleMix(config(), **options)(model, IMAGES, targets)
    assert mixed.targets.shape == (8, 4)
    torch.testing.assert_close(mixed.saliency, by_hand(model.net, lambda out: F.cross_entropy(out, CLASSES)))


class Forward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network(4)


def refusing(body: Callable[..., Any]) -> nn.Module:
    model = Forward()
    model.forward = lambda *args, **kwargs: body(model.net, *args, **kwargs)  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize(
    "body",
    [
        lambda net, batch: net(batch["image"]),
        lambda net, *, image: net(image),
        lambda net, image, age: net(image) + age,
        lambda net, batch: (lambda x, y: net(x))(*batch),
        lambda net, batch: net(batch[0]),
        lambda net, batch: net(batch.image),
        lambda net, x: torch.from_numpy(x.numpy() * 2).sum((2, 3)) @ torch.ones(3, 4),
        lambda net, x: net(x.detach()),
    ],
    ids=["batch", "keyword", "second", "unpacked", "first entry", "attribute", "numpy", "detached"],
)
def test_a_forward_of_another_kind_names_the_way_out(body: Callable[..., Any]) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"(?s)saliency_loss.*spectral") as caught:
        pm.PuzzleMix(config())(refusing(body), IMAGES, CLASSES)
    assert "saliency" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        lambda net, x: net(x.sub_(0.5).div_(0.25)),
        lambda net, x: net(x.__setitem__((slice(None), 0), x[:, 0] * 0.5) or x),
        lambda net, x: net(F.relu_(x)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"clean_weight": 1.0}])
def test_input_may_be_worked_on_in_place(body: Callable[..., Any], options: dict[str, Any]) -> None:
    images = IMAGES.clone()
    mixed = pm.PuzzleMix(config(), **options)(refusing(body), images, CLASSES)
    assert mixed.saliency.max() > 0
    assert torch.equal(images, IMAGES)


class Aged(pl.LightningModule):
    """Needs an age beside each image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(4)

    def forward(self, image: Tensor, age: Tensor) -> Tensor:
        return self.net(image) * age[:, None]

    def aged_loss(self, images: Tensor, targets: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(self(images, batch["age"]), targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch["image"], batch["age"]), batch["label"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    "loss", ["aged_loss", lambda module, images, targets, *, batch: module.aged_loss(images, targets, batch)]
)
@pytest.mark.parametrize("source", ["gradient", "feature"])
def test_saliency_loss_may_ask_for_the_whole_batch(source: str, loss: Any) -> None:
    batch = {"image": IMAGES, "label": CLASSES, "age": torch.rand(8)}
    callback = pm.PuzzleMixCallback(config(), saliency=source, saliency_loss=loss, num_classes=4, seed=1)
    quiet(callback).fit(Aged(), DataLoader([batch], batch_size=None))
    assert callback.last.saliency.max() > 0
    with pytest.raises(ValueError, match=r"saliency_loss has a parameter batch.*pass batch="):
        callback.mixer(Aged(), IMAGES, CLASSES)


@pytest.mark.parametrize("source", ["gradient", "feature", "spectral"])
def test_a_model_for_one_size_of_batch(source: str) -> None:
    class Fixed(Features):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) == 8, "made for eight images"
            return self.net(images.reshape(8, 3, 8, 8))

    assert pm.PuzzleMix(config(), saliency=source)(Fixed(lambda f, z: z), IMAGES, CLASSES).targets.shape == (8, 4)


@pytest.mark.parametrize("mixer", [pm.MixUp(), pm.PuzzleMix(config(), saliency="spectral")])
def test_a_new_head_is_counted_anew(mixer: Any) -> None:
    model = network(4)
    assert mixer(model, IMAGES, CLASSES).targets.shape == (8, 4)
    model[3] = nn.Linear(144, 7)
    assert mixer(model, IMAGES, CLASSES).targets.shape == (8, 7)

    class Growing(Features):
        shown = 4

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)[:, : self.shown]

    growing = Growing(lambda f, z: z)
    growing.net = network(9)
    assert mixer(growing, IMAGES, CLASSES).targets.shape == (8, 4)
    growing.shown = 6
    assert mixer(growing, IMAGES, CLASSES + 2).targets.shape == (8, 6)


@pytest.mark.parametrize(
    "hook",
    [
        lambda grad: 0.1 * grad,
        lambda grad: grad.clamp(-1e-3, 1e-3),
        lambda grad: grad * (torch.arange(grad.numel()) % 2).view_as(grad),
    ],
    ids=["scale", "clamp", "mask"],
)
def test_clean_regularization_passes_gradient_hooks_once(hook: Callable[[Tensor], Tensor]) -> None:
    class Shared(nn.Module):
        """The same layer twice."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(192, 192)
            self.head = nn.Linear(192, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.layer(torch.tanh(self.layer(images.flatten(1)))))

    model = Shared()
    model.layer.weight.register_hook(hook)
    accumulated: list[Tensor] = []
    model.head.weight.register_post_accumulate_grad_hook(lambda parameter: accumulated.append(parameter.grad.clone()))
    mixed = pm.PuzzleMix(config(), clean_weight=0.5)(model, IMAGES, CLASSES, DRAW)
    (F.cross_entropy(model(mixed.images), mixed.targets) + mixed.clean.surrogate_loss()).backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    (F.cross_entropy(model(mixed.images), mixed.targets) + 0.5 * F.cross_entropy(model(IMAGES), CLASSES)).backward()
    for one, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)
    assert len(accumulated) == 2
    torch.testing.assert_close(*accumulated)


@pytest.mark.parametrize("source", ["spectral", lambda module, images, targets: images.mean(1)])
def test_regression_where_no_loss_looks_at_the_targets(source: Any) -> None:
    targets = 40 * torch.rand(8, 1)
    mixed = pm.PuzzleMix(config(), saliency=source)(network(1), IMAGES, targets, DRAW)
    ratio = mixed.ratio[:, None]
    torch.testing.assert_close(mixed.targets, ratio * targets + (1 - ratio) * targets[DRAW.permutation])


def test_an_ordinal_head_names_the_ways_out_and_they_work() -> None:
    """K - 1 outputs for K classes (CORN): which of them are above a threshold."""
    model, classes = network(2), torch.arange(8) % 3
    with pytest.raises(ValueError, match=r"classes in \[0, 1\], got 0 to 2.*num_classes.*saliency_loss"):
        pm.PuzzleMix(config())(model, IMAGES, classes, DRAW)

    def loss(module: Any, images: Tensor, targets: Tensor) -> Tensor:
        above = (targets[:, None] > torch.arange(2)).float()
        return F.binary_cross_entropy_with_logits(module(images), above)

    assert pm.PuzzleMix(config(), saliency_loss=loss, num_classes=3)(model, IMAGES, classes, DRAW).targets.shape == (
        8,
        3,
    )
