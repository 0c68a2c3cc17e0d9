"""Additive bottleneck PyramidNet for small images (Han, Kim, Kim, "Deep Pyramidal Residual Networks", CVPR 2017)."""

from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models.staged import ResidualBlock, StagedNet

STEM_CHANNELS = 16


class PyramidBottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolution with a BatchNorm before, between and behind them; ReLU only between (paper, figure 6d).

    The 3x3 convolution has the stride, the output four times `channels`. The identity path has no weights: new channels
    are zero, and where the size is halved it is averaged over 2x2 pixels.
    """

    kernels, strided, expansion, projection = (1, 3, 1), 2, 4, False

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.norm4 = nn.BatchNorm2d(channels * self.expansion)
        # ceil_mode: an odd size is halved as the 3x3 convolution does it.
        self.shrink = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        self.new_channels = channels * self.expansion - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the identity path."""
        inner = self.conv1(self.norm1(x))
        inner = self.conv2(self.relu(self.norm2(inner)))
        inner = self.norm4(self.conv3(self.relu(self.norm3(inner))))
        return inner + F.pad(self.shrink(x), (0, 0, 0, 0, 0, self.new_channels))


class PyramidNet(StagedNet):
    """PyramidNet-depth whose inner channels grow evenly from 16 to 16 + `alpha`, block by block.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        depth: Number of layers, 9n + 2: each of the three stages has n bottlenecks.
        alpha: Channels that are added over all blocks; block k of 3n has round(16 + k * alpha / 3n) inner channels.
        stem_stride: Stride of the first convolution: 1 at 32 px, 2 at 64 px.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, depth: int = 200, alpha: int = 240, stem_stride: int = 1
    ) -> None:
        if depth < 11 or depth % 9 != 2:
            raise ValueError(f"depth must be 9n + 2 with n of at least 1 (11, 20, ..., 200, ...), got {depth}")
        if alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {alpha}")
        convolution = nn.Conv2d(in_channels, STEM_CHANNELS, 3, stem_stride, padding=1, bias=False)
        stem = nn.Sequential(convolution, nn.BatchNorm2d(STEM_CHANNELS))
        n = depth // 9
        widths = [round(STEM_CHANNELS + number * alpha / (3 * n)) for number in range(1, 3 * n + 1)]
        stages = [widths[:n], widths[n : 2 * n], widths[2 * n :]]
        super().__init__(stem, STEM_CHANNELS, PyramidBottleneck, stages, num_classes)
