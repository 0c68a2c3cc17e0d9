"""Wide residual networks (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016) as Puzzle Mix used them."""

from torch import Tensor, nn

from experiments.models.staged import ResidualBlock, StagedNet


class WideBlock(ResidualBlock):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU; the second one has the stride.

    Where the shape changes, the shortcut is a 1x1 convolution of the input itself, without BatchNorm and ReLU.
    """

    strided, bias = 2, True

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the identity path."""
        identity = x if self.shortcut is None else self.shortcut(x)
        inner = self.conv1(self.relu(self.norm1(x)))
        return identity + self.conv2(self.relu(self.norm2(inner)))


class WideResNet(StagedNet):
    """WRN-depth-k for small images: the network of the published Puzzle Mix results.

    It differs from that of Zagoruyko and Komodakis: convolutions have a bias; a block's second convolution has the stride,
    not its first; the shortcut sees the block's input before BatchNorm and ReLU; the last BatchNorm has a momentum of 0.9,
    so its running statistics are nearly those of the last batch; weights have torch's default initialization; there is no
    dropout.

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
        stem = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1)
        stages = [[width * widen_factor * 2**index] * (depth // 6) for index in range(3)]
        super().__init__(stem, width, WideBlock, stages, num_classes, init="torch")
        self.norm.momentum = 0.9
