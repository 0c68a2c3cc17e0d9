"""Common base of the networks for small images: a stem without pooling, stages, global average pooling, a head."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

INITS = ("he", "torch")


class StagedNet(nn.Module):
    """Stem, stages, BatchNorm and ReLU, global average pooling, linear head.

    Manifold mixup may blend behind `stages.0`, `stages.1`, ...; without `norm` there is no ReLU behind the stages either.
    """

    def __init__(
        self, stem: nn.Module, stages: Iterable[nn.Module], norm: nn.BatchNorm2d | None, head: nn.Linear
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norm: nn.Module = nn.Identity() if norm is None else norm
        self.relu: nn.Module = nn.Identity() if norm is None else nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B,in_channels,H,W) to logits (B,num_classes)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.pool(self.relu(self.norm(x))).flatten(1))


def make_stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    channels: Sequence[int],
    stride: int,
    expansion: int = 1,
) -> tuple[nn.Sequential, int]:
    """Stack one block for each of `channels`, the first with `stride`; return them and their output channels."""
    blocks = []
    for index, inner in enumerate(channels):
        blocks.append(block(in_channels, inner, stride if index == 0 else 1))
        in_channels = inner * expansion
    return nn.Sequential(*blocks), in_channels


def initialize(net: nn.Module, init: str) -> None:
    """Initialize all convolutions: "he": normal with variance 2 / fan-out (He et al., ICCV 2015); "torch": torch's default."""
    if init not in INITS:
        raise ValueError(f"init must be one of {INITS}, got {init!r}")
    if init == "he":
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
