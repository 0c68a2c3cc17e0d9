"""Networks of the study."""

from experiments.models.libraries import build_timm, build_torchvision
from experiments.models.preactresnet import PreActResNet
from experiments.models.pyramidnet import PyramidNet
from experiments.models.wideresnet import WideResNet

__all__ = ["PreActResNet", "PyramidNet", "WideResNet", "build_timm", "build_torchvision"]
