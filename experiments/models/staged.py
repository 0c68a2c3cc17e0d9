"""What the networks for small images share: a stem without pooling, stages of blocks, global average pooling, a head."""

from collections.abc import Iterable

from torch import Tensor, nn

INITS = ("he", "torch")


class StagedNet(nn.Module):
    """Stem, stages, BatchNorm and ReLU, global average pooling, linear head.

    `stages` is a list whose entries map (B,C,H,W) to (B,C',H',W'), so that `stages.0`, `stages.1`, ... name the layers
    behind which manifold mixup may blend.

    Args:
        stem: Maps images (B,in_channels,H,W) to the input of the first stage.
        stages: The stages, in their order.
        norm: BatchNorm behind the last stage, followed by a ReLU; None: neither of the two.
        head: Maps pooled features (B,C) to logits (B,num_classes).
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


def initialize(net: nn.Module, init: str) -> None:
    """Set the weights of all convolutions of `net` in place.

    Args:
        net: The network.
        init: "he": normal with variance 2 / fan-out (He et al., ICCV 2015); "torch": as torch has made them.

    Raises:
        ValueError: If `init` is neither.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {INITS}, got {init!r}")
    if init == "he":
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
