"""Networks of torchvision and timm by their name, with the classes and channels of the data."""

import difflib
from collections.abc import Sequence
from typing import Any

import torchvision
from torch import nn


def build_torchvision(
    name: str, num_classes: int, in_channels: int = 3, head_std: float | None = None, **options: Any
) -> nn.Module:
    """Build a classification network of torchvision, without pretrained weights unless `options` names some.

    Args:
        name: One of `torchvision.models.list_models(module=torchvision.models)`.
        num_classes: Number of logits.
        in_channels: Channels of the images. Other than 3 they replace the first convolution, initialized as by He et al.
        head_std: Initial standard deviation of the last linear layer's weights; None: the library's initialization.
        **options: Further arguments of the network, e.g. `zero_init_residual=True` of the ResNets.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(_unknown_name("torchvision", name, known))
    net = torchvision.models.get_model(name, num_classes=num_classes, **options)
    if getattr(net, "aux_logits", False):
        raise ValueError(
            f"model.name={name} gives auxiliary logits in training; switch them off: model.aux_logits=false"
        )
    if in_channels != 3:
        _replace_first_convolution(net, in_channels)
    return _initialize_head(net, head_std)


def build_timm(
    name: str, num_classes: int, in_channels: int = 3, head_std: float | None = None, **options: Any
) -> nn.Module:
    """Build a network of timm, without pretrained weights unless `options` asks for them.

    As `build_torchvision`; the options are those of `timm.create_model`, e.g. `pretrained=True` (downloads), `img_size=32`.
    """
    # Needs Hydra, which the other networks do not.
    from experiments.common import require

    require("timm", "model=timm")
    import timm

    if not timm.is_model(name):
        raise ValueError(_unknown_name("timm", name, timm.list_models()))
    return _initialize_head(timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options), head_std)


def _unknown_name(library: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name).lower(), known, n=5)
    hint = f"close ones: {', '.join(close)}" if close else f"it has {len(known)}, for instance {', '.join(known[:5])}"
    return f"model.name must be a network of {library}, got {name!r}; {hint}"


def _replace_first_convolution(net: nn.Module, in_channels: int) -> None:
    path, old = next((path, each) for path, each in net.named_modules() if isinstance(each, nn.Conv2d))
    shape = {name: getattr(old, name) for name in ("out_channels", "kernel_size", "stride", "padding", "dilation")}
    new = nn.Conv2d(in_channels, **shape, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, child = path.rpartition(".")
    setattr(net.get_submodule(parent), child, new)


def _initialize_head(net: nn.Module, std: float | None) -> nn.Module:
    if std is None:
        return net
    layers = [each for each in net.modules() if isinstance(each, nn.Linear)]
    if not layers:
        raise ValueError(f"model.head_std={std} needs a linear layer, and {type(net).__name__} has none; drop it")
    nn.init.normal_(layers[-1].weight, std=std)
    return net
