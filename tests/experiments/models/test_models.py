"""Networks of the study: sizes as published, blocks as computed by hand."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models import PreActResNet, PyramidNet, WideResNet

CONF = Path(__file__).resolve().parents[3] / "conf" / "model"
SIZED = sorted(path for path in CONF.glob("*.yaml") if path.stem not in ("timm", "torchvision"))
AUTHORS = {"final_norm": False, "init": "torch"}


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def randomize(module: nn.Module) -> nn.Module:
    """Statistics and parameters that make every term of every layer count; evaluation mode."""
    torch.manual_seed(1)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.weight, each.bias, each.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(each.running_var, 0.5, 2.0)
    return module.eval()


def norm(x: Tensor, layer: nn.Module) -> Tensor:
    """BatchNorm from its formula."""
    scale = layer.weight / (layer.running_var + 1e-5).sqrt()
    return (x - layer.running_mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]


def test_preactresnet18_has_the_published_size() -> None:
    net = PreActResNet(100)
    # Counted by hand: stem 1,728, blocks 11,164,288, last BatchNorm 1,024, head 51,300.
    assert count(net) == 1_728 + 11_164_288 + 1_024 + 51_300
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    authors = count(PreActResNet(100, **AUTHORS))
    assert authors == count(net) - 1_024
    assert round(authors / 1e6, 2) == 11.22


@pytest.mark.parametrize(
    ("name", "depths", "block"),
    [
        ("resnet18", (2, 2, 2, 2), "basic"),
        ("resnet34", (3, 4, 6, 3), "basic"),
        ("resnet50", (3, 4, 6, 3), "bottleneck"),
        ("resnet101", (3, 4, 23, 3), "bottleneck"),
        ("resnet152", (3, 8, 36, 3), "bottleneck"),
    ],
)
def test_preactresnets_have_the_convolutions_of_torchvision_s_resnets(
    name: str, depths: tuple[int, ...], block: str
) -> None:
    """Behind the stem and up to the order within a block; the strides are in the same places too."""

    def convolutions(net: nn.Module) -> list[tuple[object, ...]]:
        found = [each for each in net.modules() if isinstance(each, nn.Conv2d)]
        assert all(each.bias is None for each in found)
        return sorted((tuple(each.weight.shape), each.stride, each.padding) for each in found[1:])

    with torch.device("meta"):
        net = PreActResNet(100, depths=depths, block=block, **AUTHORS)
        assert convolutions(net) == convolutions(torchvision.models.get_model(name))
    widths = [64, 128, 256, 512]
    expansion = 1 if block == "basic" else 4
    # A BatchNorm of the input of each convolution but the shortcut's, two numbers a channel.
    inner = sum(depth * width * (1 if block == "basic" else 2) for depth, width in zip(depths, widths, strict=True))
    outer = sum(depth * width * expansion for depth, width in zip(depths, widths, strict=True))
    # The first block of a stage sees the channels of what was before it.
    outer += (
        64
        - 64 * expansion
        - sum(width * expansion for width in widths[1:])
        + sum(width * expansion for width in widths[:-1])
    )
    weights = sum(each.weight.numel() for each in net.modules() if isinstance(each, nn.Conv2d))
    assert count(net) == weights + 2 * (inner + outer) + 100 * (512 * expansion + 1)


@pytest.mark.parametrize(("stem_stride", "side"), [(1, 8), (2, 4)])
def test_preactresnet_strides(stem_stride: int, side: int) -> None:
    net = PreActResNet(7, in_channels=1, width=4, stem_stride=stem_stride)
    features: list[Tensor] = []
    net.stages[-1].register_forward_hook(lambda *args: features.append(args[-1]))
    assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    assert features[0].shape == (2, 32, side, side)


def test_preactresnet_refuses_what_is_none() -> None:
    with pytest.raises(ValueError, match=r"depths must hold four block counts of at least 1, got \[2, 2\]"):
        PreActResNet(10, depths=(2, 2))
    with pytest.raises(ValueError, match=r"block must be one of \['basic', 'bottleneck'\], got 'wide'"):
        PreActResNet(10, width=4, block="wide")
    with pytest.raises(ValueError, match="init must be 'he' or 'torch', got 'xavier'"):
        PreActResNet(10, width=4, init="xavier")


@pytest.mark.parametrize(("block", "last"), [("basic", "conv2"), ("bottleneck", "conv3")])
def test_preactresnet_identity_path_is_untouched(block: str, last: str) -> None:
    """With the last convolution of a block at zero, the block passes its input on as it is: no ReLU after the sum."""
    net = PreActResNet(10, width=4, block=block)
    inner = net.stages[0][1]
    nn.init.zeros_(getattr(inner, last).weight)
    x = torch.randn(2, 4 if block == "basic" else 16, 8, 8)
    assert torch.equal(inner(x), x)


def test_preact_bottleneck_by_hand() -> None:
    block = randomize(PreActResNet(10, width=4, block="bottleneck").stages[1][0])
    x = torch.randn(2, 16, 8, 8)
    first = F.relu(norm(x, block.norm1))
    inner = F.relu(norm(F.conv2d(first, block.conv1.weight), block.norm2))
    inner = F.relu(norm(F.conv2d(inner, block.conv2.weight, stride=2, padding=1), block.norm3))
    expected = F.conv2d(inner, block.conv3.weight) + F.conv2d(first, block.shortcut.weight, stride=2)
    assert expected.shape == (2, 32, 4, 4)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_final_norm_is_batchnorm_and_relu_before_the_pooling() -> None:
    features = torch.randn(2, 32, 4, 4)
    for final_norm in (True, False):
        net = randomize(PreActResNet(5, width=4, final_norm=final_norm))
        net.stages[-1] = nn.Module()
        net.stages[-1].forward = lambda x: features
        before = F.relu(norm(features, net.norm)) if final_norm else features
        expected = before.mean(dim=(2, 3)) @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(net(torch.zeros(2, 3, 32, 32)), expected, rtol=1e-4, atol=1e-5)


def test_initialization_is_he_s_or_torch_s() -> None:
    for init in ("he", "torch"):
        torch.manual_seed(0)
        weight = PreActResNet(10, init=init).stages[1][0].conv1.weight
        assert weight.shape == (128, 64, 3, 3)
        # He: fan-out 128 * 9. torch: uniform within 1 / sqrt(fan-in), fan-in 64 * 9.
        expected = (2 / 1152) ** 0.5 if init == "he" else (1 / 576 / 3) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.02)
        assert (weight.abs().max() <= 1 / 24).item() == (init == "torch")


def test_wrn28_10_has_the_published_size_and_the_authors_layers() -> None:
    with torch.device("meta"):
        net = WideResNet(100)
    # By hand. Weights: stem, then per stage of width w from width i: i*w*9 + 7*w*w*9 + i*w; biases: one a channel of each.
    stages = [(16, 160), (160, 320), (320, 640)]
    convolutions = (3 * 9 + 1) * 16 + sum(9 * i * w + 63 * w * w + i * w + 9 * w for i, w in stages)
    norms = 2 * (sum(i + 7 * w for i, w in stages) + 640)
    assert count(net) == convolutions + norms + 100 * 641
    assert round(count(net) / 1e6, 1) == 36.5
    assert all(each.bias is not None for each in net.modules() if isinstance(each, nn.Conv2d))
    strides = {name: each.stride[0] for name, each in net.named_modules() if isinstance(each, nn.Conv2d)}
    assert [name for name, stride in strides.items() if stride != 1] == [
        "stages.1.0.conv2", "stages.1.0.shortcut", "stages.2.0.conv2", "stages.2.0.shortcut",
    ]  # fmt: skip
    momenta = {name: each.momentum for name, each in net.named_modules() if isinstance(each, nn.BatchNorm2d)}
    assert momenta.pop("norm") == 0.9
    assert set(momenta.values()) == {0.1}
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 4 .* got 27"):
        WideResNet(10, depth=27)


def test_wide_block_by_hand() -> None:
    block = randomize(WideResNet(10, depth=10, widen_factor=1, width=4).stages[1][0])
    x = torch.randn(2, 4, 8, 8)
    inner = F.conv2d(F.relu(norm(x, block.norm1)), block.conv1.weight, block.conv1.bias, padding=1)
    inner = F.conv2d(F.relu(norm(inner, block.norm2)), block.conv2.weight, block.conv2.bias, stride=2, padding=1)
    expected = inner + F.conv2d(x, block.shortcut.weight, block.shortcut.bias, stride=2)
    assert expected.shape == (2, 8, 4, 4)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_pyramidnet_has_the_published_size_and_widths() -> None:
    with torch.device("meta"):
        net = PyramidNet(100)
    assert round(count(net) / 1e6, 1) == 26.8
    widths = [block.conv2.out_channels for stage in net.stages for block in stage]
    # 16 + 240/66, 16 + 2 * 240/66, ..., 16 + 240: 19.6, 23.3, 26.9, 30.5, 34.2, ...
    assert widths[:5] == [20, 23, 27, 31, 34]
    assert (len(widths), widths[21], widths[43], widths[-1]) == (66, 96, 176, 256)
    # Layers: the stem, three in each block, the head.
    layers = [each for each in net.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert len(layers) == 200
    inputs = [16] + [4 * width for width in widths[:-1]]
    inner = [width for width in widths for _ in range(2)]
    convolutions = 27 * 16 + sum(i * w + 13 * w * w for i, w in zip(inputs, widths, strict=True))
    norms = 2 * (16 + sum(inputs) + sum(inner) + 4 * sum(widths) + 1024)
    assert count(net) == convolutions + norms + 100 * 1025
    with pytest.raises(ValueError, match=r"depth must be 9n \+ 2 .* got 201"):
        PyramidNet(10, depth=201)


@pytest.mark.parametrize("side", [8, 7])
def test_pyramid_block_by_hand(side: int) -> None:
    """Also at an odd size, whose last row and column are averaged over what there is."""
    block = randomize(PyramidNet(10, depth=11, alpha=9).stages[1][0])
    x = torch.randn(2, 76, side, side)
    inner = F.conv2d(norm(x, block.norm1), block.conv1.weight)
    inner = F.conv2d(F.relu(norm(inner, block.norm2)), block.conv2.weight, stride=2, padding=1)
    inner = norm(F.conv2d(F.relu(norm(inner, block.norm3)), block.conv3.weight), block.norm4)
    expected = inner.clone()
    for row in range(4):
        for column in range(4):
            window = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            expected[:, :76, row, column] += window.mean(dim=(2, 3))
    assert expected.shape == (2, 88, 4, 4)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda **kwargs: PreActResNet(5, width=4, **kwargs),
        lambda **kwargs: PreActResNet(5, width=4, block="bottleneck", **AUTHORS, **kwargs),
        lambda **kwargs: WideResNet(5, depth=10, widen_factor=2, width=4, **kwargs),
        lambda **kwargs: PyramidNet(5, depth=11, alpha=6, **kwargs),
    ],
)
@pytest.mark.parametrize(("side", "stem_stride"), [(32, 1), (64, 2)])
def test_every_network_trains_and_has_its_stages_by_name(
    make: Callable[..., nn.Module], side: int, stem_stride: int
) -> None:
    net = make(in_channels=1, stem_stride=stem_stride)
    shapes: dict[str, torch.Size] = {}
    for name in ("stages.0", "stages.1"):
        net.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: shapes.update({name: output.shape})
        )
    logits = net(torch.randn(2, 1, side, side))
    F.cross_entropy(logits, torch.tensor([0, 4])).backward()
    assert logits.shape == (2, 5)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in net.parameters())
    assert (shapes["stages.0"][0], *shapes["stages.0"][2:]) == (2, 32, 32)
    assert (shapes["stages.1"][0], *shapes["stages.1"][2:]) == (2, 16, 16)


@pytest.mark.parametrize("path", SIZED, ids=lambda path: path.stem)
def test_options_have_the_size_that_they_say(path: Path, compose_train: Callable[..., DictConfig]) -> None:
    text = path.read_text()
    cfg = compose_train(f"model={path.stem}")
    with torch.device("meta"):
        net = instantiate(cfg.model, num_classes=1000 if "ImageNet" in text else 100, in_channels=3)
    said = re.search(r"\((\d+\.\d) million parameters", text)
    assert said is not None
    assert f"{count(net) / 1e6:.1f}" == said[1]
    if path.stem.startswith("preactresnet"):
        # As the published figures' networks: neither BatchNorm nor He's initialization.
        assert isinstance(net.norm, nn.Identity)
        assert cfg.model.init == "torch"
