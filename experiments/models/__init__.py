"""Networks of the study."""

from experiments.models.libraries import build_timm, build_torchvision
from experiments.models.residual import PreActResNet, PyramidNet, WideResNet

__all__ = ["PreActResNet", "PyramidNet", "WideResNet", "build_timm", "build_torchvision"]
