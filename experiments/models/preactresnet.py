"""Pre-activation residual networks (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016)."""

from collections.abc import Sequence

from torch import Tensor, nn

from experiments.models.staged import ResidualBlock, StagedNet


class PreActBlock(ResidualBlock):
    """Two 3x3 convolutions, the first with the stride, each behind BatchNorm and ReLU, and an identity path (figure 4e).

    Where the shape changes, the shortcut is a 1x1 convolution of the pre-activated input, so that the first BatchNorm
    and ReLU serve both paths.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the identity path."""
        activated = self.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        return identity + self.conv2(self.relu(self.norm2(self.conv1(activated))))


class PreActBottleneck(ResidualBlock):
    """As `PreActBlock` with three convolutions: 1x1, 3x3 (with the stride) and a 1x1 to four times the channels."""

    kernels, strided, expansion = (1, 3, 1), 2, 4

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the identity path."""
        activated = self.relu(self.norm1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        inner = self.conv2(self.relu(self.norm2(self.conv1(activated))))
        return identity + self.conv3(self.relu(self.norm3(inner)))


BLOCKS = {"basic": PreActBlock, "bottleneck": PreActBottleneck}


class PreActResNet(StagedNet):
    """PreActResNet for small images. The published figures of Puzzle Mix come from `final_norm=False, init="torch"`.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        width: Channels of the first stage; the next ones have 2, 4 and 8 times as many. 64 is the published network.
        stem_stride: Stride of the first convolution: 1 at 32 px, 2 at 64 px (Tiny-ImageNet).
        depths: Blocks in each of the four stages. Basic blocks: (2, 2, 2, 2) has 18 layers, (3, 4, 6, 3) 34. Bottlenecks:
            (3, 4, 6, 3) has 50, (3, 4, 23, 3) 101, (3, 8, 36, 3) 152.
        block: "basic" or "bottleneck", whose stages have four times the channels.
        final_norm: Whether BatchNorm and ReLU follow the last stage, as in the paper of He et al.
        init: "he" or "torch", see `StagedNet`.
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
        stem = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False)
        stages = [[width * 2**index] * depth for index, depth in enumerate(depths)]
        super().__init__(stem, width, BLOCKS[block], stages, num_classes, final_norm=final_norm, init=init)
