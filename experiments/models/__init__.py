"""Networks of the study."""

from experiments.models.preactresnet import PreActResNet

__all__ = ["PreActResNet"]
