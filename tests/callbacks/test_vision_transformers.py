"""Vision transformers of timm and torchvision: their saliency against autograd by hand, and a fit of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from callback_cases import Cached, trainer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import lightning_puzzlemix as pm
from lightning_puzzlemix.saliency import SaliencySource, find_default_layer

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

CLASSES = torch.arange(6) % 5
SMALL = {"num_classes": 5, "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
DROPPED = {"drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.2}
# 14 x 14 positions of 24 channels are in the proportion of 56 x 56 and 96, the first stage of Swin-T at 224 pixels.
SWIN = {"num_classes": 5, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2), "img_size": 28, "patch_size": 2}


def images(side: int = 32, count: int = 6) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def vit(**options: Any) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", **SMALL | options)


def deit(**options: Any) -> nn.Module:
    return timm.create_model("deit_tiny_distilled_patch16_224", **SMALL | options)


def swin(**options: Any) -> nn.Module:
    return timm.create_model("swin_tiny_patch4_window7_224", **SWIN | {"window_size": 7} | options)


def torchvision_vit(head_std: float = 0.1) -> nn.Module:
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.2, attention_dropout=0.2, num_classes=5)
    nn.init.normal_(net.heads.head.weight, std=head_std)
    return net


def torchvision_swin(width: int = 24) -> nn.Module:
    return torchvision.models.SwinTransformer(
        [2, 2], width, [1, 1], [2, 2], [7, 7], dropout=0.2, stochastic_depth_prob=0.5, num_classes=5
    )


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ViT": (lambda: vit(**DROPPED), 32),
    "ViT with registers": (lambda: vit(dynamic_img_size=True, reg_tokens=4), 40),
    "DeiT": (lambda: deit(**DROPPED), 32),
    "Swin": (lambda: swin(drop_path_rate=0.5), 28),
    "torchvision ViT": (torchvision_vit, 32),
    "torchvision Swin": (torchvision_swin, 28),
}


def by_hand(net: nn.Module, batch: Tensor) -> Tensor:
    """Root mean square over channels of the loss's gradient at the images, of a copy in evaluation mode."""
    net, leaf = copy.deepcopy(net).eval(), batch.clone().requires_grad_()
    F.cross_entropy(net(leaf), CLASSES).backward()
    assert leaf.grad is not None
    return leaf.grad.square().mean(1).sqrt()


@pytest.mark.parametrize("name", NETS)
def test_saliency_is_autograds_gradient_without_dropout(name: str) -> None:
    torch.manual_seed(0)
    make, side = NETS[name]
    net, batch = make().train(), images(side)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    mixer = pm.PuzzleMix(pm.PuzzleMixConfig(grid_sizes=(2, 4)))
    mixed = mixer(net, batch, CLASSES, mixer.draw(batch, key=(1,)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert mixed.saliency is not None
    torch.testing.assert_close(mixed.saliency, by_hand(net, batch))
    assert mixed.targets.shape == (6, 5)


class Classifier(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Tensor) -> Any:
        return self.net(batch)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch)
        output = self(batch[0])
        # With a second head for the distillation.
        heads = output if isinstance(output, tuple) else (output,)
        return torch.stack([F.cross_entropy(logits, batch[1]) for logits in heads]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 3e-3)


@pytest.mark.parametrize("name", NETS)
def test_training(name: str) -> None:
    torch.manual_seed(0)
    make, side = NETS[name]
    module, batch = Classifier(make()), images(side)
    if name == "DeiT":
        module.net.set_distilled_training(True)

    def loss() -> float:
        module.eval()
        with torch.no_grad():
            return float(F.cross_entropy(module(batch), CLASSES))

    before = loss()
    module.train()
    # Five patches a side and blocks of two, four and eight: the grid of the mixing needs no regard to that of the patches.
    mixing = pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(2, 4, 8), alpha=10), seed=1)
    trainer(mixing, max_epochs=1).fit(module, Cached(*[(batch, CLASSES)] * 8))
    for mixed, targets in module.seen:
        assert not torch.equal(mixed, batch)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
    # Those of the last batch, by hand.
    last, one_hot = mixing.last, F.one_hot(CLASSES, 5).float()
    assert last is not None
    ratio = last.ratio[:, None]
    torch.testing.assert_close(module.seen[-1][1], ratio * one_hot + (1 - ratio) * one_hot[last.draw.permutation])
    assert loss() < before


def test_saliency_of_a_distilled_transformer_is_that_of_both_heads() -> None:
    net = deit().train()
    net.set_distilled_training(True)
    batch = images()
    assert isinstance(net(batch), tuple)
    leaf = batch.clone().requires_grad_()
    inside = copy.deepcopy(net)
    F.cross_entropy(torch.stack(inside(leaf)).mean(0), CLASSES).backward()
    assert leaf.grad is not None
    found = SaliencySource().compute(net, batch, CLASSES)
    assert found.num_classes == 5
    torch.testing.assert_close(found.saliency, leaf.grad.square().mean(1).sqrt())


def test_clean_regularization_of_a_distilled_transformer_is_that_of_the_first_head() -> None:
    net, batch = deit().train(), images()
    net.set_distilled_training(True)
    mixed = pm.PuzzleMix(pm.PuzzleMixConfig(grid_sizes=(4,)), clean_weight=1.0)(net, batch, CLASSES)
    assert mixed.clean is not None
    weights = [net.head.weight, net.head_dist.weight]
    found = torch.autograd.grad(mixed.clean.surrogate_loss(), weights, allow_unused=True)
    (expected,) = torch.autograd.grad(F.cross_entropy(net(batch)[0], CLASSES), weights[:1])
    torch.testing.assert_close(found[0], expected)
    assert found[1] is None


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, None])
def test_every_attention_kernel_gives_the_same_saliency(backend: SDPBackend | None) -> None:
    torch.manual_seed(0)
    net, batch = vit(), images()
    expected = by_hand(net, batch)
    if backend is None:
        for block in net.blocks:
            assert block.attn.fused_attn, "another way than the one before"
            block.attn.fused_attn = False
        found = SaliencySource().compute(net, batch, CLASSES).saliency
    else:
        with sdpa_kernel(backend):
            found = SaliencySource().compute(net, batch, CLASSES).saliency
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", [vit, swin])
def test_gradient_checkpointing(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = make().train()
    batch = images(28 if make is swin else 32)
    plain = pm.PuzzleMix(pm.PuzzleMixConfig(grid_sizes=(4,)), clean_weight=0.5)
    draw = plain.draw(batch, key=(1,))

    def gradients() -> list[Tensor]:
        # The same paths are dropped.
        torch.manual_seed(1)
        mixed = plain(net, batch, CLASSES, draw)
        assert mixed.clean is not None
        weights = [weight for weight in net.parameters() if weight.requires_grad]
        return [mixed.images, *torch.autograd.grad(mixed.clean.surrogate_loss(), weights, allow_unused=True)]

    expected = gradients()
    net.set_grad_checkpointing(True)
    torch.testing.assert_close(gradients(), expected)
    layer = "layers.0" if make is swin else "patch_embed.proj"
    again = SaliencySource("feature", layer).compute(net, batch, CLASSES).saliency
    net.set_grad_checkpointing(False)
    torch.testing.assert_close(again, SaliencySource("feature", layer).compute(net, batch, CLASSES).saliency)


@pytest.mark.slow
def test_a_compiled_transformer() -> None:
    torch.manual_seed(0)
    net, batch = vit(), images()
    found = SaliencySource().compute(torch.compile(net, backend="eager"), batch, CLASSES).saliency
    torch.testing.assert_close(found, by_hand(net, batch))


def feature_by_hand(net: nn.Module, layer: str, batch: Tensor, channels: int) -> Tensor:
    """Root mean square over channels of the gradient at a submodule's output, one value a position."""
    net, kept = copy.deepcopy(net).eval(), list[Tensor]()

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    net.get_submodule(layer).register_forward_hook(keep)
    F.cross_entropy(net(batch.clone().requires_grad_()), CLASSES).backward()
    assert kept[0].grad is not None
    return kept[0].grad.square().mean(channels).sqrt()


@pytest.mark.parametrize(
    ("make", "layer", "channels"),
    [
        (swin, "layers.0", 3),
        (swin, "patch_embed", 3),
        (swin, "patch_embed.proj", 1),
        (torchvision_swin, "features.1", 3),
        # A permutation without weights.
        (torchvision_swin, "features.0.1", 3),
        (torchvision_swin, "features.0.0", 1),
    ],
)
def test_maps_with_their_channels_last(make: Callable[[], nn.Module], layer: str, channels: int) -> None:
    torch.manual_seed(0)
    net, batch = make(), images(28)
    positions = feature_by_hand(net, layer, batch, channels).numpy()
    assert positions.shape == (6, 14, 14) if make is swin else (6, 7, 7)
    found = SaliencySource("feature", layer).compute(net, batch, CLASSES).saliency
    side = 28 // positions.shape[1]
    torch.testing.assert_close(found, torch.from_numpy(np.kron(positions, np.ones((1, side, side), np.float32))))


def test_a_map_with_two_readings_is_refused() -> None:
    net = torchvision_swin(14)
    for layer in ("features.1", "features.0.1"):
        with pytest.raises(ValueError, match=r"\(6, 14, 14, 14\) \(channels may be its second or its last dimension\)"):
            SaliencySource("feature", layer).compute(net, images(28), CLASSES)
    # Of a network without such layers it has one.
    convolutions = nn.Sequential(nn.Conv2d(3, 14, 2, 2), nn.ReLU(), nn.AvgPool2d(14), nn.Flatten(), nn.Linear(14, 5))
    found = SaliencySource("feature", "0").compute(convolutions, images(28), CLASSES).saliency
    positions = feature_by_hand(convolutions, "0", images(28), 1)
    torch.testing.assert_close(found[:, ::2, ::2], positions)


def test_tokens_have_no_positions() -> None:
    net = vit()
    with pytest.raises(ValueError, match=r"saliency_layer='blocks.0'.*\(6, 17, 16\) \(tokens.*saliency='gradient'"):
        SaliencySource("feature", "blocks.0").compute(net, images(), CLASSES)
    with pytest.raises(ValueError, match=r"pass saliency_layer \('patch_embed.proj', inside these, returns one\)"):
        find_default_layer(net, images(), CLASSES)
    found = SaliencySource("feature", "patch_embed.proj").compute(net, images(), CLASSES).saliency
    torch.testing.assert_close(found[:, ::8, ::8], feature_by_hand(net, "patch_embed.proj", images(), 1))
    assert find_default_layer(torchvision_vit(), images(), CLASSES) == "conv_proj"
