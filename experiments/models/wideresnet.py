"""Wide residual networks (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016) as Puzzle Mix used them."""

from torch import Tensor, nn

from experiments.models.staged import StagedNet, make_stage

FINAL_MOMENTUM = 0.9


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU; the second one has the stride.

    Where the shape changes, the shortcut is a 1x1 convolution of the input itself, without BatchNorm and ReLU.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in_channels,H,W) to (B,channels,H/stride,W/stride)."""
        identity = x if self.shortcut is None else self.shortcut(x)
        inner = self.conv1(self.relu(self.norm1(x)))
        return identity + self.conv2(self.relu(self.norm2(inner)))


class WideResNet(StagedNet):
    """WRN-depth-k for small images: a 3x3 stem, three stages, BatchNorm and ReLU, global average pooling.

    The network of the published Puzzle Mix results, which differs from that of Zagoruyko and Komodakis: convolutions have a
    bias; a block's second convolution has the stride, not its first; the shortcut sees the block's input before BatchNorm
    and ReLU; the last BatchNorm has a momentum of 0.9, so its running statistics are nearly those of the last batch;
    weights have torch's default initialization; there is no dropout.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        depth: Number of layers, 6n + 4: each of the three stages has n blocks.
        widen_factor: k: the stages have k, 2k and 4k times `width` channels.
        width: Channels of the stem. 16 is the published network.
        stem_stride: Stride of the first convolution: 1 at 32 px, 2 at 64 px (Tiny-ImageNet).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        depth: int = 28,
        widen_factor: int = 10,
        width: int = 16,
        stem_stride: int = 1,
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4 with n of at least 1 (10, 16, 22, 28, ...), got {depth}")
        stem = nn.Conv2d(in_channels, width, 3, stride=stem_stride, padding=1)
        stages, channels = [], width
        for index in range(3):
            wide = [width * widen_factor * 2**index] * (depth // 6)
            stage, channels = make_stage(WideBlock, channels, wide, min(index + 1, 2))
            stages.append(stage)
        norm = nn.BatchNorm2d(channels, momentum=FINAL_MOMENTUM)
        super().__init__(stem, stages, norm, nn.Linear(channels, num_classes))
