"""The networks of the Puzzle Mix authors' code, with their names for the layers, and the files that it writes.

Written from a description of the layout, apart from the networks of the study: an oracle for reading the files.
"""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Basic(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        short = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + short


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(planes), nn.Conv2d(planes, 4 * planes, 1, bias=False)
        if stride != 1 or inputs != 4 * planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        short = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        return self.conv3(F.relu(self.bn3(out))) + short


class PreAct(nn.Module):
    def __init__(self, block: type, planes: int, numbers: list[int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes, 3, 1, 1, bias=False)
        inputs, times = planes, 4 if block is Bottleneck else 1
        for index, number in enumerate(numbers):
            blocks = []
            for stride in [1 if index == 0 else 2] + [1] * (number - 1):
                blocks.append(block(inputs, planes * 2**index, stride))
                inputs = planes * 2**index * times
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.avg_pool2d(out, 4).flatten(1))


class WideBasic(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, stride, padding=1)
        # An empty Sequential has no names.
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))) + self.shortcut(x)


class Wide(nn.Module):
    def __init__(self, number: int, factor: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        inputs = 16
        for index in range(3):
            blocks = []
            for stride in [1 if index == 0 else 2] + [1] * (number - 1):
                blocks.append(WideBasic(inputs, 16 * factor * 2**index, stride))
                inputs = 16 * factor * 2**index
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.bn1 = nn.BatchNorm2d(inputs, momentum=0.9)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.layer3(self.layer2(self.layer1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(out, 8).flatten(1))


class PyramidBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(planes), nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn4, self.stride = nn.BatchNorm2d(4 * planes), stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.bn2(self.conv1(self.bn1(x)))))
        out = self.bn4(self.conv3(F.relu(self.bn3(out))))
        short = x if self.stride == 1 else F.avg_pool2d(x, 2)
        zeros = torch.zeros(len(x), out.shape[1] - x.shape[1], *out.shape[2:])
        return out + torch.cat((short, zeros), dim=1)


class Pyramid(nn.Module):
    def __init__(self, number: int, alpha: float, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        inputs, width = 16, 16.0
        for index in range(3):
            blocks = []
            for stride in [1 if index == 0 else 2] + [1] * (number - 1):
                width += alpha / (3 * number)
                blocks.append(PyramidBlock(inputs, round(width), stride))
                inputs = 4 * round(width)
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.bn_final, self.fc = nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return self.fc(F.avg_pool2d(F.relu(self.bn_final(out)), 8).flatten(1))


def warm_up(net: nn.Module) -> nn.Module:
    """One step of training on noise, so that no weight or statistic is at its start; evaluation mode."""
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias, std=0.2)
    net(torch.randn(4, 3, 32, 32)).logsumexp(dim=1).mean().backward()
    optimizer.step()
    return net.eval()


@contextmanager
def recorder(module: str = "logger") -> Iterator[Any]:
    """The authors' record of 5 epochs, 3 of which are done, of the class `RecorderMeter` that exists only within."""

    def init(self: Any) -> None:
        self.total_epoch, self.current_epoch = 5, 3
        self.epoch_losses = np.full((5, 2), -1, dtype=np.float32)
        self.epoch_accuracy = np.zeros((5, 2), dtype=np.float32)
        self.epoch_accuracy[:3] = [[90, 70.5], [95, 80.25], [97, 79.75]]

    kind = type("RecorderMeter", (), {"__init__": init, "__module__": module})
    made = types.ModuleType(module)
    made.RecorderMeter = kind  # type: ignore[attr-defined]
    before = sys.modules.get(module)
    sys.modules[module] = made
    try:
        yield kind()
    finally:
        del sys.modules[module]
        if before is not None:
            sys.modules[module] = before


def data_parallel(net: nn.Module) -> dict[str, Tensor]:
    """The weights as DataParallel names them."""
    return {f"module.{name}": value for name, value in net.state_dict().items()}
