"""Networks of torchvision and timm by their name."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from experiments.models import build_timm, build_torchvision


def test_torchvision_networks_take_classes_channels_and_their_own_arguments() -> None:
    with torch.device("meta"):
        published = build_torchvision("resnet50", 1000)
    assert round(sum(each.numel() for each in published.parameters()) / 1e6, 2) == 25.56
    net = build_torchvision("resnet50", 7, in_channels=1, zero_init_residual=True)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert (net.conv1.weight.shape, net.conv1.stride, net.conv1.bias) == ((64, 1, 7, 7), (2, 2), None)
    # He's, as torchvision has it for the layer that was replaced: fan-out 64 * 49.
    assert net.conv1.weight.std().item() == pytest.approx((2 / 3136) ** 0.5, rel=0.1)
    assert torch.equal(net.layer1[0].bn3.weight, torch.zeros(256))
    # Some keep their first convolution in a Sequential, with a bias.
    assert build_torchvision("vgg11", 7, in_channels=1).features[0].weight.shape == (64, 1, 3, 3)


def test_nothing_is_downloaded_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download")

    pytest.importorskip("timm")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    assert build_torchvision("resnet18", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert build_timm("resnet18", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(AssertionError, match="a download"):
        build_torchvision("resnet18", 1000, weights="DEFAULT")
    with pytest.raises(AssertionError, match="a download"):
        build_timm("resnet18", 5, pretrained=True)


def test_timm_networks_take_classes_channels_and_their_own_arguments() -> None:
    pytest.importorskip("timm")
    net = build_timm("vit_tiny_patch16_224", 7, in_channels=1, img_size=32, patch_size=4, depth=1)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert net.patch_embed.num_patches == 64


@pytest.mark.parametrize("build", [build_torchvision, build_timm])
def test_the_last_layer_can_be_initialized_anew(build: Callable[..., nn.Module]) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    weight = build("resnet18", 100, head_std=0.01).fc.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    # Uniform weights of this deviation would end at 0.017.
    assert weight.abs().max() > 0.03


def test_what_the_libraries_do_not_have_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"must be a network of torchvision, got 'Resnet_50'; close ones: .*resnet50"):
        build_torchvision("Resnet_50", 10)
    with pytest.raises(
        ValueError, match=r"must be a network of timm, got 'convnext_tyni'; close ones: .*convnext_tiny"
    ):
        build_timm("convnext_tyni", 10)
    with pytest.raises(ValueError, match=r"got '!'; it has \d+, for instance"):
        build_torchvision("!", 10)
    # Not a classifier of images.
    with pytest.raises(ValueError, match="must be a network of torchvision, got 'fcn_resnet50'"):
        build_torchvision("fcn_resnet50", 10)
    with pytest.raises(ValueError, match=r"auxiliary logits in training; switch them off: model\.aux_logits=false"):
        build_torchvision("googlenet", 10, init_weights=False)
    with pytest.raises(ValueError, match=r"head_std=0.1 needs a linear layer, and SqueezeNet has none"):
        build_torchvision("squeezenet1_1", 10, head_std=0.1)
