"""How the authors' code names the parameters of the networks, and what they are called here."""

import re

from torch import nn

from experiments.models import PreActResNet, PyramidNet, WideResNet

Rules = tuple[tuple[str, str], ...]

# Of the layers outside the stages, by network; a pattern matches the beginning of a name.
OUTER: dict[type[nn.Module], Rules] = {
    PreActResNet: ((r"conv1\.", "stem."), (r"linear\.", "head.")),
    WideResNet: ((r"conv1\.", "stem."), (r"bn1\.", "norm."), (r"linear\.", "head.")),
    PyramidNet: ((r"conv1\.", "stem.0."), (r"bn1\.", "stem.1."), (r"bn_final\.", "norm."), (r"fc\.", "head.")),
}
BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(.+)")
INNER: Rules = ((r"bn(\d+)\.", r"norm\1."), (r"shortcut\.0\.", "shortcut."))


def rename(name: str, net: nn.Module) -> str:
    """What `net` calls the parameter or buffer that is `name` in the authors' code; unknown names stay as they are.

    Torchvision's networks, which the authors use for ImageNet, have the same names on both sides.
    """
    rules = next((rules for kind, rules in OUTER.items() if isinstance(net, kind)), None)
    if rules is None:
        return name
    block = BLOCK.fullmatch(name)
    if block:
        return f"stages.{int(block[1]) - 1}.{block[2]}.{_replace_start(block[3], INNER)}"
    return _replace_start(name, rules)


def _replace_start(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name
