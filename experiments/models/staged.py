"""What the networks for small images share: the layers of a residual block, and a network of stages of blocks."""

from collections.abc import Sequence

from torch import Tensor, nn

INITS = ("he", "torch")


class ResidualBlock(nn.Module):
    """Layers of a block: `norm1`, `conv1`, `norm2`, `conv2`, ..., a ReLU, and a 1x1 convolution where the shape changes.

    Subclasses choose by class attributes, and connect the layers in `forward`. (B,in_channels,H,W) becomes
    (B,expansion*channels,H/stride,W/stride); between the convolutions there are `channels`.
    """

    kernels: Sequence[int] = (3, 3)
    # Number of the convolution that has the stride.
    strided = 1
    expansion = 1
    bias = False
    projection = True

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


class StagedNet(nn.Module):
    """Stem without pooling, stages of blocks, BatchNorm and ReLU, global average pooling, linear head.

    Every stage but the first halves the size. Manifold mixup may blend behind `stages.0`, `stages.1`, ...

    Args:
        stem: Maps images to `channels` channels.
        channels: Those of the stem.
        block: Kind of the blocks.
        stages: Inner channels of each block, stage by stage.
        num_classes: Number of logits.
        final_norm: Whether BatchNorm and ReLU follow the last stage.
        init: Of convolutions, "he": normal with variance 2 / fan-out (He et al., ICCV 2015); "torch": torch's default.
    """

    def __init__(
        self,
        stem: nn.Module,
        channels: int,
        block: type[ResidualBlock],
        stages: Sequence[Sequence[int]],
        num_classes: int,
        *,
        final_norm: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__()
        if init not in INITS:
            raise ValueError(f"init must be one of {INITS}, got {init!r}")
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
