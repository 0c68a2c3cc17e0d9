"""Plots the saliency of a convolutional network beside that of a vision transformer, for docs/saliency.md.

python -m docs.vit_saliency          (run by `make pictures`; two minutes on two cores, nothing is downloaded)

Both networks learn for a moment which of six photographs a crop is from. Beside the picture, the pattern that patches leave in
the saliency is measured on new crops, and written to experiments/results/vit_saliency.json.
"""

import json
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.models import PreActResNet
from experiments.show import example_images, read_pixels
from lightning_puzzlemix import MixDraw, MixedBatch, PuzzleMix
from lightning_puzzlemix.monitoring import mix_metrics, show_image, show_saliency

# A patch of the transformer holds 2 x 2 blocks of the finest grid, of 16 x 16.
SIDE, PATCH, BLOCK, STEPS, CROPS = 64, 8, 4, 200, 384
PICTURE, NUMBERS = Path("docs/images/saliency_vit.png"), Path("experiments/results/vit_saliency.json")


def crops(photographs: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (count, 3, SIDE, SIDE) crops, half of them mirrored, and the numbers of their photographs."""
    labels = torch.arange(count) % len(photographs)
    room = photographs.shape[-1] - SIDE + 1
    places = torch.randint(room, (count, 2), generator=generator).tolist()
    found = [photographs[label, :, y : y + SIDE, x : x + SIDE] for label, (y, x) in zip(labels, places, strict=True)]
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.stack([each.flip(2) if flip else each for each, flip in zip(found, mirrored, strict=True)]), labels


def train(net: nn.Module, photographs: Tensor, generator: torch.Generator) -> nn.Module:
    """Train a network for STEPS batches of 48 crops."""
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    for _ in range(STEPS):
        images, labels = crops(photographs, 48, generator)
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def measure(mixed: MixedBatch) -> dict[str, float]:
    """Return numbers of a batch's saliency.

    `pixels`, `blocks`: how much more salient the most salient place inside a patch is than the least, on average over all
    patches; places are single pixels, or the blocks of the finest grid. `top_tenth`: share of the saliency in the most
    salient tenth of the blocks. The others are metrics of the callback.
    """
    assert mixed.saliency is not None
    shares = mixed.saliency / mixed.saliency.sum((1, 2), keepdim=True)
    names = ("retained_saliency", "retained_saliency_cutmix", "moved_blocks")
    found = {name: round(float(value), 3) for name, value in mix_metrics(mixed).items() if name in names}
    blocks = F.avg_pool2d(shares, BLOCK).flatten(1) * BLOCK**2
    found["top_tenth"] = round(float(blocks.topk(round(0.1 * blocks.shape[1])).values.sum(1).mean()), 3)
    for name, side in (("pixels", 1), ("blocks", BLOCK)):
        inside = PATCH // side
        maps = F.avg_pool2d(shares, side)
        profile = maps.unflatten(2, (-1, inside)).unflatten(1, (-1, inside)).mean((0, 1, 3))
        found[name] = round(float(profile.max() / profile.min()), 2)
    return found


def main() -> None:
    """Train, plot and measure."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    photographs = torch.stack([read_pixels(path, height=128, width=128, channels=3) for path in example_images()])
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=PATCH, embed_dim=96, depth=4, num_heads=3, num_classes=6
    )
    cnn = PreActResNet(num_classes=6, width=8)
    nets = {"CNN": train(cnn, photographs, generator), "ViT": train(vit, photographs, generator)}
    images, labels = crops(photographs, CROPS, generator)
    rows: dict[str, tuple[str, dict[str, str]]] = {
        "CNN": ("CNN", {}),
        "ViT": ("ViT", {}),
        "ViT, at its patches": ("ViT", {"saliency": "feature", "saliency_layer": "patch_embed.proj"}),
    }
    draw = MixDraw(torch.arange(CROPS).roll(-1), 0.5, SIDE // BLOCK)
    numbers, figure = {}, Figure((15, 7), layout="constrained")
    panels = figure.subplots(len(rows), 7)
    for line, (name, (net, options)) in zip(panels, rows.items(), strict=True):
        with torch.no_grad():
            accuracy = float((nets[net](images).argmax(1) == labels).float().mean())
        mixed = PuzzleMix(**options)(nets[net], images, labels, draw)
        numbers[name] = {"accuracy": round(accuracy, 3)} | measure(mixed)
        assert mixed.saliency is not None
        blocks = F.avg_pool2d(mixed.saliency, BLOCK)
        for which, title in enumerate(("first", "second")):
            show_image(line[which], images[which].movedim(0, 2).numpy(), title)
            show_saliency(line[2 + which], mixed.saliency[which].numpy(), f"saliency of the {title}")
            show_saliency(line[4 + which], blocks[which].numpy(), "its 16 x 16 blocks")
        show_image(line[6], mixed.images[0].movedim(0, 2).numpy(), "mixed")
        line[0].set_ylabel(name, weight="bold")
        for panel in line:
            panel.set(xticks=[], yticks=[])
    figure.savefig(PICTURE, dpi=70)
    NUMBERS.write_text(json.dumps(numbers, indent=2) + "\n")
    print(NUMBERS.read_text())  # noqa: T201


if __name__ == "__main__":
    main()
