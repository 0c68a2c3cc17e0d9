"""Residual networks for small images, whose stem has no pooling: PreActResNet, WideResNet, PyramidNet."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Convolutions, each behind BatchNorm and ReLU (`norm1`, `conv1`, `norm2`, ...), and an identity path.

    Where the shape changes, the identity path is a 1x1 convolution. Between the convolutions there are `channels`. As it is
    here, it is the basic block of He et al. (ECCV 2016, figure 4e).
    """

    kernels: Sequence[int] = (3, 3)  # Kernel sizes of the convolutions.
    strided = 1  # Number of the convolution with the stride.
    expansion = 1  # Output channels as a multiple of `channels`.
    bias = False  # Whether convolutions have one.
    preactivated = True  # Whether the 1x1 convolution sees its input behind the first BatchNorm and ReLU.
    projection = True  # Whether there is one.

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        widths = [in_channels, *[channels] * (len(self.kernels) - 1), out_channels]
        for number, kernel in enumerate(self.kernels, start=1):
            before, after = widths[number - 1 : number + 1]
            step = stride if number == self.strided else 1
            self.add_module(f"norm{number}", nn.BatchNorm2d(before))
            self.add_module(f"conv{number}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=self.bias))
        self.relu = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if self.projection and (stride != 1 or in_channels != out_channels):
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in_channels,H,W) to (B,expansion*channels,H/stride,W/stride)."""
        activated = self.relu(self.norm1(x))
        inner = self.conv1(activated)
        for number in range(2, len(self.kernels) + 1):
            norm, conv = getattr(self, f"norm{number}"), getattr(self, f"conv{number}")
            inner = conv(self.relu(norm(inner)))
        if self.shortcut is None:
            return x + inner
        return self.shortcut(activated if self.preactivated else x) + inner


class StagedNet(nn.Module):
    """Stem, stages of blocks, BatchNorm and ReLU, global average pooling, linear head.

    Every stage but the first halves the size; `stages` are the inner channels of each block, and manifold mixup blends behind
    `stages.0`, `stages.1`, ... With `final_norm`, BatchNorm and ReLU follow the last one. `init` of convolutions: "he", normal
    with variance 2 / fan-out (He et al., ICCV 2015), or "torch".
    """

    def __init__(
        self, stem: nn.Module, channels: int, block: type[ResidualBlock], stages: Sequence[Sequence[int]],
        num_classes: int, *, final_norm: bool = True, init: str = "he",
    ) -> None:  # fmt: skip
        super().__init__()
        if init not in ("he", "torch"):
            raise ValueError(f"init must be 'he' or 'torch', got {init!r}")
        self.stem = stem
        self.stages = nn.ModuleList()
        for number, widths in enumerate(stages):
            blocks = []
            for index, width in enumerate(widths):
                blocks.append(block(channels, width, 2 if number > 0 and index == 0 else 1))
                channels = width * block.expansion
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels) if final_norm else nn.Identity()
        self.relu = nn.ReLU() if final_norm else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        if init == "he":
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B,in_channels,H,W) to logits (B,num_classes)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.pool(self.relu(self.norm(x))).flatten(1))


class PreActBottleneck(ResidualBlock):
    """Three convolutions: 1x1, 3x3 (with the stride) and a 1x1 to four times the channels."""

    kernels, strided, expansion = (1, 3, 1), 2, 4


BLOCKS = {"basic": ResidualBlock, "bottleneck": PreActBottleneck}


class PreActResNet(StagedNet):
    """Pre-activation ResNet (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016).

    The published figures of Puzzle Mix come from `final_norm=False, init="torch"`.

    Args:
        width: Channels of the first stage; the next ones have 2, 4 and 8 times as many. 64 is the published network.
        stem_stride: Stride of the first convolution: 1 at 32 px, 2 at 64 px (Tiny-ImageNet).
        depths: Blocks in each of the four stages. Basic blocks: (2, 2, 2, 2) has 18 layers, (3, 4, 6, 3) 34. Bottlenecks:
            (3, 4, 6, 3) has 50, (3, 4, 23, 3) 101, (3, 8, 36, 3) 152.
        block: "basic" or "bottleneck", whose stages have four times the channels.
        final_norm: As in the paper of He et al.; see `StagedNet`, also for `init`.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width: int = 64, stem_stride: int = 1,
        depths: Sequence[int] = (2, 2, 2, 2), block: str = "basic", final_norm: bool = True, init: str = "he",
    ) -> None:  # fmt: skip
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths must hold four block counts of at least 1, got {list(depths)}")
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {list(BLOCKS)}, got {block!r}")
        stem = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False)
        stages = [[width * 2**index] * depth for index, depth in enumerate(depths)]
        super().__init__(stem, width, BLOCKS[block], stages, num_classes, final_norm=final_norm, init=init)


class WideBlock(ResidualBlock):
    """Two 3x3 convolutions, the second with the stride; the shortcut sees the input before BatchNorm and ReLU."""

    strided, bias, preactivated = 2, True, False


class WideResNet(StagedNet):
    """WRN-depth-k, the network of the published Puzzle Mix results.

    It differs from that of Zagoruyko and Komodakis ("Wide Residual Networks", BMVC 2016): convolutions have a bias; a block's
    second convolution has the stride, not its first; the shortcut sees the block's input before BatchNorm and ReLU; the last
    BatchNorm has a momentum of 0.9, so its running statistics are nearly those of the last batch; weights have torch's default
    initialization; there is no dropout.

    Args:
        depth: Number of layers, 6n + 4: each of the three stages has n blocks.
        widen_factor: k: the stages have k, 2k and 4k times `width` channels, those of the stem; 16 is the published network.
        stem_stride: As of `PreActResNet`.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, depth: int = 28, widen_factor: int = 10, width: int = 16,
        stem_stride: int = 1,
    ) -> None:  # fmt: skip
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4 with n of at least 1 (10, 16, 22, 28, ...), got {depth}")
        stem = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1)
        stages = [[width * widen_factor * 2**index] * (depth // 6) for index in range(3)]
        super().__init__(stem, width, WideBlock, stages, num_classes, init="torch")
        self.norm.momentum = 0.9


class PyramidBottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolution with a BatchNorm before, between and behind them; ReLU only between.

    As in figure 6d of the paper. The 3x3 convolution has the stride, the output four times `channels`. The identity path has
    no weights: new channels are zero, and where the size is halved it is averaged over 2x2 pixels.
    """

    kernels, strided, expansion, projection = (1, 3, 1), 2, 4, False

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.norm4 = nn.BatchNorm2d(channels * self.expansion)
        # ceil_mode: an odd size is halved as the 3x3 convolution does it.
        self.shrink = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        self.new_channels = channels * self.expansion - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,in_channels,H,W) to (B,4*channels,H/stride,W/stride)."""
        inner = self.conv1(self.norm1(x))
        inner = self.conv2(self.relu(self.norm2(inner)))
        inner = self.norm4(self.conv3(self.relu(self.norm3(inner))))
        return inner + F.pad(self.shrink(x), (0, 0, 0, 0, 0, self.new_channels))


class PyramidNet(StagedNet):
    """Additive PyramidNet-depth (Han, Kim, Kim, "Deep Pyramidal Residual Networks", CVPR 2017).

    Args:
        depth: Number of layers, 9n + 2: each of the three stages has n bottlenecks.
        alpha: Channels that are added over all blocks; block k of 3n has round(16 + k * alpha / 3n) inner channels.
        stem_stride: Stride of the first convolution: 1 at 32 px, 2 at 64 px.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, depth: int = 200, alpha: int = 240, stem_stride: int = 1
    ) -> None:
        if depth < 11 or depth % 9 != 2:
            raise ValueError(f"depth must be 9n + 2 with n of at least 1 (11, 20, ..., 200, ...), got {depth}")
        stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, stem_stride, padding=1, bias=False), nn.BatchNorm2d(16))
        n = depth // 9
        widths = [round(16 + number * alpha / (3 * n)) for number in range(1, 3 * n + 1)]
        stages = [widths[:n], widths[n : 2 * n], widths[2 * n :]]
        super().__init__(stem, 16, PyramidBottleneck, stages, num_classes)
