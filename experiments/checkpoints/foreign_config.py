"""Settings from a run folder that may be somebody else's: read as plain values, and checked for what may be built from them.

Foreign is every `config.yaml` that lies beside a checkpoint, also one's own: who wrote it cannot be told. Trusted is what the
command line says, and the options of `conf/` that it names.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.common.errors import UserError
from experiments.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FolderDataModule,
    ImageNetDataModule,
    Phase,
    PhasedDataModule,
    TinyImageNetDataModule,
    build_imagenet_phases,
)
from experiments.models import PreActResNet, PyramidNet, WideResNet, build_timm, build_torchvision

# What may be built from the groups of a foreign folder.
BUILDABLE: dict[str, tuple[Any, ...]] = {
    "data": (
        CIFAR10DataModule, CIFAR100DataModule, DigitsDataModule, FolderDataModule, ImageNetDataModule, Phase,
        PhasedDataModule, TinyImageNetDataModule, build_imagenet_phases,
    ),
    "model": (PreActResNet, PyramidNet, WideResNet, build_timm, build_torchvision),
}  # fmt: skip
PACKAGES = {"data": "experiments.data", "model": "experiments.models"}
KINDS = {"data": "data sets of this study", "model": "networks of this study, torchvision's and timm's"}
TARGET, CONVERT = "_target_", "_convert_"
# Where the first weights came from, which are replaced by those of the checkpoint: nothing is fetched or read for them.
FIRST_WEIGHTS = {
    "build_timm": ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    "build_torchvision": ("weights", "progress"),
}
# Data sets that are fetched where they are missing.
DOWNLOADING = {each.__name__ for each in (CIFAR10DataModule, CIFAR100DataModule, TinyImageNetDataModule)}
# torchvision gives these networks another input where it gives them weights.
TRANSFORMING = ("googlenet", "inception_v3")
MOST_WORKERS = 256

log = logging.getLogger(__name__)


def checked_group(path: Path, group: str, node: Any, *, allow: Collection[str] = ()) -> dict[str, Any]:
    """The group `data` or `model` of a foreign config, without what would fetch or write anything.

    Args:
        path: The config, for messages.
        group: "data" or "model".
        node: Its content, as `read_plain_yaml` gives it.
        allow: Names of further classes and functions that the user trusts.

    Raises:
        UserError: If it names anything else that is to be built or called, or holds interpolations.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise UserError(f"{path}: {group} must name what is built, as {group}.{TARGET}; give {group}=NAME")
    for key, value in _walk(node, group):
        name = key.rpartition(".")[2]
        if name == TARGET:
            _check_target(path, group, key, value, allow)
        elif name.startswith("_") and name.endswith("_") and name != CONVERT:
            raise UserError(f"{path}: {key} is not taken from a run folder; give {group}=NAME and its settings")
        elif isinstance(value, str) and "${" in value:
            raise UserError(
                f"{path}: {key} refers to something else ({value}), which is not looked up for a run folder; give {key}=..."
            )
        elif name == "num_workers" and isinstance(value, int) and value > MOST_WORKERS:
            raise UserError(f"{path}: {key}={value} is more than {MOST_WORKERS}; give {key}=...")
    checked: dict[str, Any] = _without_side_effects(node)
    return checked


def buildable_names(group: str) -> list[str]:
    """What may be built from a foreign folder, as it is called in `conf/`."""
    return [f"{PACKAGES[group]}.{each.__name__}" for each in BUILDABLE[group]]


def _check_target(path: Path, group: str, key: str, target: Any, allow: Collection[str]) -> None:
    # Whole names, so that no name leads through an allowed module to another one.
    known = {*buildable_names(group), *(f"{each.__module__}.{each.__qualname__}" for each in BUILDABLE[group])}
    if isinstance(target, str) and (target in known or target in allow):
        return
    raise UserError(
        f"{path}: {key} is {target!r}, which is not built from a run folder, and nothing of it was run. Built are only "
        f"{KINDS[group]}: {', '.join(buildable_names(group))}. If you know and trust it, allow it by name "
        f"(allow=[{target}], of show_mixing --allow {target}), or give evaluate {group}=NAME, an option of conf/{group}"
    )


def _walk(node: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    """Dotted keys and values, of mappings and lists too."""
    yield prefix, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{prefix} key", str(key)
            yield from _walk(value, f"{prefix}.{key}")
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _walk(value, f"{prefix}[{place}]")


def _without_side_effects(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_side_effects(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    kept = {key: _without_side_effects(value) for key, value in node.items()}
    builder = str(kept.get(TARGET)).rpartition(".")[2]
    if builder == build_torchvision.__name__ and kept.get("weights") and kept.get("name") in TRANSFORMING:
        kept.setdefault("transform_input", True)
    dropped = [key for key in FIRST_WEIGHTS.get(builder, ()) if kept.pop(key, None)]
    if dropped:
        log.info(
            f"left out, as the weights are those of the checkpoint: {', '.join(f'model.{key}' for key in dropped)}"
        )
    if builder in DOWNLOADING:
        # Into a folder that a foreign file names; data.download=true on the command line says so.
        kept["download"] = False
    return kept
