"""Which submodule ends the first third of a network, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_feature import CLASSES, IMAGES, Net
from torch import Tensor, nn
from witness import Witness

from lightning_puzzlemix.saliency.feature import feature_saliency, find_default_layer
from lightning_puzzlemix.saliency.source import SaliencySource


def conv(width: int, stride: int = 1, inputs: int = 8) -> nn.Module:
    return nn.Conv2d(inputs, width, 3, stride, padding=1)


def head(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class Wrapped(nn.Module):
    """As a LightningModule holds its network, beside something that is never called."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.metric = nn.Identity()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class Stages(nn.Module):
    """Its stages lie in a list, which is never called itself."""

    def __init__(self, *stages: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = head(8)

    def forward(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            images = stage(images)
        return self.head(images)


class Branch(nn.Module):
    """A residual block, whose inside is no place to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(8), conv(8)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.conv2(torch.relu(self.conv1(images)))


class ChannelsLast(nn.Module):
    """Returns (B, h, w, channels), which is no map of the kind that is looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Conv2d(3, 24, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images).permute(0, 2, 3, 1).contiguous()


class Swap(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2)


def equal_convs(count: int) -> list[nn.Module]:
    return [conv(8, inputs=8 if index else 3) for index in range(count)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # The first convolution costs 3/8 of each of the others: 3 of 43 parts, then 11, 19.
        (lambda: nn.Sequential(*equal_convs(6), head(8)), "1"),
        # Where a ReLU or a pool adds nothing to the work, the last of the highest resolution counts.
        (lambda: nn.Sequential(conv(8, inputs=3), conv(8), nn.ReLU(), nn.MaxPool2d(2), *equal_convs(0), conv(32), conv(32, inputs=32), head(32)), "2"),  # noqa: E501
        (lambda: Wrapped(nn.Sequential(*equal_convs(6), head(8))), "net.1"),
        (lambda: Wrapped(Stages(*equal_convs(6))), "net.stages.1"),
        (lambda: Stages(conv(8, inputs=3), *[Branch() for _ in range(4)]), "stages.1"),
        # Both names stand for the same map: the outer one counts.
        (lambda: nn.Sequential(nn.Sequential(*equal_convs(2)), *[conv(8) for _ in range(4)], head(8)), "0"),
        # A Sequential that spans the first third is looked into.
        (lambda: nn.Sequential(conv(8, inputs=3), nn.Sequential(*[conv(8) for _ in range(5)]), head(8)), "1.0"),
        # Nothing ends in the first third: the first map counts.
        (lambda: nn.Sequential(conv(8, inputs=3), head(8)), "0"),
        # Taken for a map, (B, h, w, channels) would have most positions.
        (lambda: nn.Sequential(ChannelsLast(), Swap(), conv(8, inputs=24), head(8)), "1"),
    ],
)  # fmt: skip
def test_default_layer(model: Callable[[], nn.Module], expected: str) -> None:
    built = model()
    assert find_default_layer(built, IMAGES, CLASSES) == expected
    assert feature_saliency(built, IMAGES, CLASSES).saliency.max() > 0


class Positions(nn.Module):
    """Adds an embedding of positions, one for all images, as XCiT does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.embedding, self.head = conv(8, inputs=3), Embedding(), head(8)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return self.head(maps + self.embedding(maps))


class Embedding(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return torch.ones(1, *maps.shape[1:])


def test_what_is_the_same_for_all_images_is_no_layer() -> None:
    assert find_default_layer(Positions(), IMAGES, CLASSES) == "stem"


def test_default_layer_of_the_studys_network() -> None:
    from experiments.models import PreActResNet

    net = PreActResNet(num_classes=5, width=8)
    assert find_default_layer(net, torch.rand(2, 3, 32, 32), CLASSES[:2]) == "stages.0"


def test_no_default_layer() -> None:
    with pytest.raises(ValueError, match=r"no submodule of Sequential returns.*\(0, 1\).*saliency='gradient'"):
        find_default_layer(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), IMAGES, CLASSES)


def test_default_layer_is_found_once_for_each_model() -> None:
    net, calls = Net(), Witness()
    net.finish = lambda logits: calls.add(len(logits)) or logits
    source = SaliencySource("feature")
    source.compute(net, IMAGES, CLASSES)
    source.compute(net, IMAGES, CLASSES)
    assert calls.seen() == [2, 6, 6]
