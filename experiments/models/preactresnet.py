"""Pre-activation residual networks (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016)."""

from collections.abc import Sequence

from torch import Tensor, nn

from experiments.models.staged import StagedNet, initialize, make_stage


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, the first with the stride, each behind BatchNorm and ReLU, and an identity path (figure 4e).

    Where the shape changes, the shortcut is a 1x1 convolution of the pre-activated input, so that the first BatchNorm
    and ReLU serve both paths.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut = _make_shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in_channels,H,W) to (B,channels,H/stride,W/stride)."""
        activated = self.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        return identity + self.conv2(self.relu(self.norm2(self.conv1(activated))))


class PreActBottleneck(nn.Module):
    """As `PreActBlock` with three convolutions: 1x1, 3x3 (with the stride) and a 1x1 to four times the channels."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut = _make_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in_channels,H,W) to (B,4*channels,H/stride,W/stride)."""
        activated = self.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        inner = self.conv2(self.relu(self.norm2(self.conv1(activated))))
        return identity + self.conv3(self.relu(self.norm3(inner)))


BLOCKS: dict[str, type[PreActBlock | PreActBottleneck]] = {"basic": PreActBlock, "bottleneck": PreActBottleneck}


class PreActResNet(StagedNet):
    """PreActResNet for small images: a 3x3 stem without pooling, four stages, global average pooling.

    The published figures of Puzzle Mix come from `final_norm=False, init="torch"`.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        width: Channels of the first stage; the next ones have 2, 4 and 8 times as many. 64 is the published network.
        stem_stride: Stride of the first convolution: 1 at 32 px, 2 at 64 px (Tiny-ImageNet).
        depths: Blocks in each of the four stages. Basic blocks: (2, 2, 2, 2) has 18 layers, (3, 4, 6, 3) 34. Bottlenecks:
            (3, 4, 6, 3) has 50, (3, 4, 23, 3) 101, (3, 8, 36, 3) 152.
        block: "basic" or "bottleneck", whose stages have four times the channels.
        final_norm: Whether BatchNorm and ReLU follow the last stage, as in the paper of He et al.
        init: "he" (normal, variance 2 / fan-out) or "torch" (torch's default).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        stem_stride: int = 1,
        depths: Sequence[int] = (2, 2, 2, 2),
        block: str = "basic",
        final_norm: bool = True,
        init: str = "he",
    ) -> None:
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths must hold four block counts of at least 1, got {list(depths)}")
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {list(BLOCKS)}, got {block!r}")
        stem = nn.Conv2d(in_channels, width, 3, stride=stem_stride, padding=1, bias=False)
        kind, stages, channels = BLOCKS[block], [], width
        for index, depth in enumerate(depths):
            stage, channels = make_stage(kind, channels, [width * 2**index] * depth, min(index + 1, 2), kind.expansion)
            stages.append(stage)
        norm = nn.BatchNorm2d(channels) if final_norm else None
        super().__init__(stem, stages, norm, nn.Linear(channels, num_classes))
        initialize(self, init)


def _make_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
