"""Pre-activation residual networks (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016)."""

from collections.abc import Sequence

from torch import Tensor, nn


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU, added to an untouched identity path (paper, figure 4e).

    Where the shape changes, the shortcut is a 1x1 convolution of the pre-activated input, so that the first BatchNorm
    and ReLU serve both paths.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in_channels,H,W) to (B,channels,H/stride,W/stride)."""
        activated = self.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        return identity + self.conv2(self.relu(self.norm2(self.conv1(activated))))


class PreActResNet(nn.Module):
    """PreActResNet for small images: a 3x3 stem without pooling, four stages, global average pooling.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        width: Channels of the first stage; the next ones have 2, 4 and 8 times as many. 64 is the published network.
        stem_stride: Stride of the first convolution: 1 at 32 px, 2 at 64 px (Tiny-ImageNet).
        depths: Blocks in each of the four stages; (2, 2, 2, 2) is the 18-layer network, (3, 4, 6, 3) the 34-layer one.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        stem_stride: int = 1,
        depths: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths must hold four block counts of at least 1, got {list(depths)}")
        self.stem = nn.Conv2d(in_channels, width, 3, stride=stem_stride, padding=1, bias=False)
        self.stages = nn.ModuleList()
        channels = width
        for index, depth in enumerate(depths):
            stage, channels = _make_stage(channels, width * 2**index, depth, stride=1 if index == 0 else 2)
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B,in_channels,H,W) to logits (B,num_classes)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.pool(self.relu(self.norm(x))).flatten(1))


def _make_stage(in_channels: int, channels: int, depth: int, *, stride: int) -> tuple[nn.Sequential, int]:
    """Stack `depth` blocks, the first with `stride`; return them and their output channels."""
    blocks = []
    for index in range(depth):
        blocks.append(PreActBlock(in_channels, channels, stride if index == 0 else 1))
        in_channels = channels * PreActBlock.expansion
    return nn.Sequential(*blocks), in_channels
