"""FGSM and PGD against foolbox on a small trained network; AutoAttack through its package."""

from collections.abc import Iterator
from typing import Any

import foolbox
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.common.errors import UserError
from experiments.robustness import FGSM, PGD, Attack, AutoAttack, build_attacks
from experiments.robustness.attacks import Model
from experiments.robustness.evaluator import attacked, score
from lightning_puzzlemix.normalization import from_pixels

# Two unlike channels, so that exchanged channels would show.
MEAN, STD = (0.3, 0.6), (0.35, 0.2)
COUNT = 150


def make_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )


def digit_pixels() -> tuple[Tensor, Tensor]:
    """Scans and their negatives as the two channels (N,2,8,8), double, and the digits."""
    scans = torch.from_numpy(load_digits().images)[:, None] / 16
    return torch.cat([scans, 1 - scans], dim=1), torch.from_numpy(load_digits().target)


def of_pixels(net: nn.Module) -> Model:
    """The network of normalized images as one of pixels in [0,1], frozen and in evaluation mode."""
    net.eval().requires_grad_(False)
    return lambda pixels: net(from_pixels(pixels, MEAN, STD))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A network of doubles, trained on digits."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = make_net().double()
        pixels, targets = digit_pixels()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(40):
            for start in range(COUNT, len(pixels), 256):
                part = slice(start, start + 256)
                optimizer.zero_grad()
                F.cross_entropy(net(from_pixels(pixels[part], MEAN, STD)), targets[part]).backward()
                optimizer.step()
        optimizer.zero_grad()
    return net


@pytest.fixture(scope="module")
def model(net: nn.Module) -> Model:
    """The classifier of pixels that is attacked."""
    return of_pixels(net)


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    """Pixels that the network has not seen, and their classes."""
    pixels, targets = digit_pixels()
    return pixels[:COUNT], targets[:COUNT]


def accuracy(model: Model, pixels: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return float((model(pixels).argmax(dim=1) == targets).double().mean())


def by_foolbox(attack: Any, net: nn.Module, pixels: Tensor, targets: Tensor, eps: float) -> Tensor:
    preprocessing = {"mean": list(MEAN), "std": list(STD), "axis": -3}
    wrapped = foolbox.PyTorchModel(net.eval(), bounds=(0, 1), preprocessing=preprocessing, device="cpu")
    # run() attacks all images; calling the attack would leave those alone that are wrong already.
    return attack.run(wrapped, pixels, foolbox.criteria.Misclassification(targets), epsilon=eps)


@pytest.mark.parametrize("eps", [4 / 255, 8 / 255, 0.1])
def test_fgsm_is_foolbox_s(eps: float, net: nn.Module, model: Model, batch: tuple[Tensor, Tensor]) -> None:
    attacked = FGSM(eps=eps)(model, *batch)
    expected = by_foolbox(foolbox.attacks.LinfFastGradientAttack(), net, *batch, eps=eps)
    torch.testing.assert_close(attacked, expected.double(), atol=1e-6, rtol=0)
    assert (attacked - batch[0]).abs().max() == pytest.approx(eps)


@pytest.mark.parametrize(("eps", "step", "steps"), [(4 / 255, 2 / 255, 20), (0.1, 0.03, 7)])
def test_pgd_without_random_start_is_foolbox_s(
    eps: float, step: float, steps: int, net: nn.Module, model: Model, batch: tuple[Tensor, Tensor]
) -> None:
    attacked = PGD(eps=eps, step=step, steps=steps, random_start=False)(model, *batch)
    oracle = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps, random_start=False)
    expected = by_foolbox(oracle, net, *batch, eps=eps)
    torch.testing.assert_close(attacked, expected.double(), atol=1e-6, rtol=0)


def test_random_starts_fill_the_ball_uniformly() -> None:
    """With a gradient of zero nothing but the start is left."""
    constant = nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 4))
    nn.init.zeros_(constant[1].weight)
    pixels, targets = torch.full((200, 2, 8, 8), 0.5), torch.zeros(200, dtype=torch.long)
    moved = PGD(eps=0.1, step=0.05)(constant, pixels, targets) - 0.5
    shares = torch.histc(moved, bins=4, min=-0.1, max=0.1) / moved.numel()
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.01)


@pytest.mark.parametrize("attack", [FGSM(eps=0.05), PGD(eps=0.05, step=0.02, steps=5)], ids=["fgsm", "pgd"])
def test_attacked_pixels_stay_in_the_ball_and_in_the_range(
    attack: Attack, model: Model, batch: tuple[Tensor, Tensor]
) -> None:
    pixels, targets = batch
    attacked = attack(model, pixels, targets)
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (attacked - pixels).abs().max() <= 0.05 + 1e-12
    assert accuracy(model, attacked, targets) < accuracy(model, pixels, targets)


def test_larger_attacks_hurt_more_and_pgd_more_than_fgsm(model: Model, batch: tuple[Tensor, Tensor]) -> None:
    images, targets = batch
    sizes = (0.01, 0.05, 0.15)
    fgsm = [accuracy(model, FGSM(eps=eps)(model, images, targets), targets) for eps in sizes]
    pgd = [PGD(eps=eps, step=eps / 4, steps=20)(model, images, targets) for eps in sizes]
    iterated = [accuracy(model, attacked, targets) for attacked in pgd]
    assert accuracy(model, images, targets) > 0.9
    assert sorted(fgsm, reverse=True) == fgsm
    assert sorted(iterated, reverse=True) == iterated
    assert all(strong <= weak for strong, weak in zip(iterated, fgsm, strict=True))
    assert iterated[-1] < 0.2 < fgsm[0]


def test_random_starts_are_fixed_by_the_seed_alone(model: Model, batch: tuple[Tensor, Tensor]) -> None:
    attack = PGD(eps=0.05, step=0.01, steps=2)
    first = attack(model, *batch, seed=5)
    state = torch.get_rng_state()
    torch.rand(7)
    assert torch.equal(first, attack(model, *batch, seed=5))
    assert not torch.equal(first, attack(model, *batch, seed=6))
    torch.set_rng_state(state)
    attack(model, *batch, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_attacks_leave_no_gradients(batch: tuple[Tensor, Tensor]) -> None:
    net = make_net().double().eval()
    PGD(eps=0.05, step=0.02, steps=2)(net, *batch)
    assert not any(parameter.grad is not None for parameter in net.parameters())


class Rooted(nn.Module):
    """Finite everywhere, but the gradient of dark images is zero times infinity."""

    def forward(self, images: Tensor) -> Tensor:
        brightest = images.flatten(1).amax(dim=1)
        root = (brightest * (brightest > 0)).sqrt()
        return torch.stack([root, -root], dim=1)


def test_nan_gradients_are_an_error_not_a_failed_attack() -> None:
    pixels = torch.tensor([-0.1, 0.9, -0.2, 0.8]).view(4, 1, 1, 1).expand(4, 1, 3, 3)
    batches = [(pixels, torch.zeros(4, dtype=torch.long))] * 2
    assert score(Rooted(), batches)["images"] == 8
    for attack in (FGSM(eps=0.01), PGD(eps=0.01, step=0.01)):
        with pytest.raises(UserError, match=r"NaN for \d of 8 images.*its gradient is infinite"):
            score(Rooted(), attacked(Rooted(), batches, attack, 0))


def batched(images: Tensor, targets: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(images.split(size), targets.split(size), strict=True)


def test_accuracy_under_attack_is_that_of_the_attacked_images(model: Model, batch: tuple[Tensor, Tensor]) -> None:
    expected = FGSM(eps=0.05)(model, *batch)
    scores = score(model, attacked(model, batched(*batch, 64), FGSM(eps=0.05), 0))
    assert scores["accuracy"] == pytest.approx(accuracy(model, expected, batch[1]))
    assert scores["images"] == COUNT
    assert score(model, batched(*batch, 64))["accuracy"] == pytest.approx(accuracy(model, *batch))


def test_batches_start_at_different_points(model: Model, batch: tuple[Tensor, Tensor]) -> None:
    seen: list[int] = []

    class Spy(FGSM):
        def __call__(self, *arguments: Any, seed: int = 0) -> Tensor:
            seen.append(seed)
            return super().__call__(*arguments, seed=seed)

    for seed in (0, 0, 1):
        score(model, attacked(model, batched(*batch, 50), Spy(eps=0.1), seed))
    assert seen[:3] == seen[3:6]
    assert len(set(seen)) == 6


def test_autoattack_is_at_least_as_strong_as_pgd(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    pixels, targets = batch[0][:20].float(), batch[1][:20]
    single, eps = make_net(), 0.2
    single.load_state_dict(net.state_dict())
    model = of_pixels(single)
    attacked = AutoAttack(eps=eps)(model, pixels, targets, seed=1)
    assert not any(parameter.grad is not None for parameter in single.parameters())
    assert 0 < (attacked - pixels).abs().max() <= eps + 1e-5
    pgd = PGD(eps=eps, step=eps / 4)(model, pixels, targets)
    assert accuracy(model, attacked, targets) <= accuracy(model, pgd, targets) < accuracy(model, pixels, targets)


def test_autoattack_needs_four_classes(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="at least 4 classes, the model has 3"):
        AutoAttack(eps=0.1)(nn.Sequential(nn.Flatten(), nn.Linear(2 * 64, 3)).double(), *batch)


def test_settings_become_attacks() -> None:
    attacks = build_attacks(
        ["pgd_20", "fgsm_8", {"name": "mine", "kind": "pgd", "eps": 0.5, "step": "1/10", "random_start": False}]
    )
    assert list(attacks.items()) == [
        ("pgd_20", PGD(eps=4 / 255, step=2 / 255, steps=20, random_start=True)),
        ("fgsm_8", FGSM(eps=8 / 255)),
        ("mine", PGD(eps=0.5, step=0.1, steps=20, random_start=False)),
    ]
    assert build_attacks(None) == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("fgsm_9", r"must be among .*fgsm_8.*got 'fgsm_9'"),
        ({"name": "a", "kind": "cw", "eps": 0.1}, r"attack a, (.|\n)*'cw'(.|\n)*'pgd'"),
        ({"name": "a", "kind": "fgsm", "eps": 8}, r"attack a, (.|\n)*eps\n.*less than or equal to 1"),
        ({"name": "a", "kind": "pgd", "eps": 0.1, "step": 2}, r"attack a, (.|\n)*step\n.*less than or equal to 1"),
        ({"name": "a", "kind": "pgd", "eps": 0.1, "step": 0.1, "steps": 0}, r"steps\n.*greater than 0"),
        ({"name": "a", "kind": "pgd", "eps": 0.1}, r"attack a, (.|\n)*step\n.*required"),
        ({"name": "a", "kind": "fgsm", "eps": "x/255"}, r"attack a, (.|\n)*eps\n.*x/255"),
        ({"name": "a", "kind": "fgsm", "eps": 0.1, "stepp": 1}, r"attack a, (.|\n)*stepp\n.*not permitted"),
        ({"kind": "fgsm", "eps": 0.1}, "have a name"),
    ],
)
def test_wrong_settings_are_named(setting: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_attacks([setting])
