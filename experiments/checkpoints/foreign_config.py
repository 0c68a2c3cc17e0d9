"""Settings of run folders, which may be somebody else's: read as plain values, and checked for what may be built from them.

Foreign is every `config.yaml` beside a checkpoint, also one's own: who wrote it is unknown. Trusted are the command line and
the options of `conf/` that it names.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments.common import UserError

# What may be built from each group of a foreign config, as it is named in `conf/`.
ALLOWED = {
    "data": [f"experiments.data.{name}" for name in (
        "CIFAR10DataModule", "CIFAR100DataModule", "DigitsDataModule", "FolderDataModule", "ImageNetDataModule", "Phase",
        "PhasedDataModule", "TinyImageNetDataModule", "build_imagenet_phases",
    )],
    "model": [f"experiments.models.{name}" for name in (
        "PreActResNet", "PyramidNet", "WideResNet", "build_timm", "build_torchvision",
    )],
}  # fmt: skip
TARGET = "_target_"
# Of pretrained weights, which those of the checkpoint replace: nothing is downloaded or read for them.
PRETRAINED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights")
# torchvision gives these networks another input where it gives them weights.
TRANSFORMING = ("googlenet", "inception_v3")
DOWNLOADING = ("CIFAR10DataModule", "CIFAR100DataModule", "TinyImageNetDataModule")


def checked_group(path: Path, group: str, node: Any, *, allow: Collection[str] = ()) -> dict[str, Any]:
    """The group "data" or "model" of the foreign config `path`, without what would download or write anything.

    `node` is its content, as `read_plain_yaml` gives it; `allow` names further classes and functions that may be built. A
    UserError if it names anything else that is to be built or called, or holds interpolations.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise UserError(f"{path}: {group} must name what is built, as {group}.{TARGET}; give {group}=NAME")

    def check(key: str, value: Any) -> Any:
        name = key.rpartition(".")[2]
        # Whole names: an attribute of an allowed module is something else.
        if name == TARGET and value not in [*allow, *ALLOWED[group]]:
            raise UserError(
                f"{path}: {key} is {value!r}, which is not built from a run folder, and nothing of it was run. Allowed are "
                f"only {', '.join(ALLOWED[group])}. If you know and trust it, allow it by name (allow=[{value}], of "
                f"show_mixing --allow {value}), or give evaluate {group}=NAME, an option of conf/{group}"
            )
        if name.startswith("_") and name.endswith("_") and name not in (TARGET, "_convert_"):
            raise UserError(f"{path}: {key} is not taken from a run folder; give {group}=NAME and its settings")
        if "${" in key or (isinstance(value, str) and "${" in value):
            raise UserError(
                f"{path}: {key}: {value} is an interpolation, not resolved for a run folder; give {key}=..."
            )
        if isinstance(value, Mapping):
            return _without_side_effects({name: check(f"{key}.{name}", each) for name, each in value.items()})
        if isinstance(value, list):
            return [check(f"{key}[{place}]", each) for place, each in enumerate(value)]
        return value

    return dict(check(group, node))


def _without_side_effects(node: dict[str, Any]) -> dict[str, Any]:
    builder = str(node.get(TARGET)).rpartition(".")[2]
    if builder in DOWNLOADING:
        # Never into a folder that a foreign config names; the command line may say data.download=true.
        return {**node, "download": False}
    if builder not in ("build_timm", "build_torchvision"):
        return node
    if node.get("weights") and node.get("name") in TRANSFORMING:
        node.setdefault("transform_input", True)
    return {key: value for key, value in node.items() if key not in PRETRAINED}
