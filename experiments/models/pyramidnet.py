"""Additive bottleneck PyramidNet for small images (Han, Kim, Kim, "Deep Pyramidal Residual Networks", CVPR 2017)."""

from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models.staged import StagedNet, initialize, make_stage

STEM_CHANNELS = 16


class PyramidBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a BatchNorm before, between and behind them; ReLU only between (paper, figure 6d).

    The 3x3 convolution has the stride, the output four times `channels`. The identity path has no weights: new channels
    are zero, and where the size is halved it is averaged over 2x2 pixels.
    """

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
        self.norm4 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        # ceil_mode: an odd size is halved as the 3x3 convolution does it.
        self.shrink: nn.Module = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in_channels,H,W) to (B,4*channels,H/stride,W/stride)."""
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
        stem = nn.Sequential(
            nn.Conv2d(in_channels, STEM_CHANNELS, 3, stride=stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(STEM_CHANNELS),
        )
        per_stage = depth // 9
        widths = [round(STEM_CHANNELS + number * alpha / (3 * per_stage)) for number in range(1, 3 * per_stage + 1)]
        stages, channels = [], STEM_CHANNELS
        for index in range(3):
            inner = widths[index * per_stage : (index + 1) * per_stage]
            stage, channels = make_stage(
                PyramidBottleneck, channels, inner, min(index + 1, 2), PyramidBottleneck.expansion
            )
            stages.append(stage)
        super().__init__(stem, stages, nn.BatchNorm2d(channels), nn.Linear(channels, num_classes))
        initialize(self, "he")
