"""Values of the command line that cannot be are refused here, all in one place, before anything is built or downloaded.

Types are those of the constructors that the config names (`_target_`). Ranges are below for what the constructors take
without looking; all others they check themselves.
"""

import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.common.config_types import describe, fits, parameters_of
from experiments.common.errors import UserError
from experiments.common.masking import MASK, is_secret_key

# Processes on the CPU that are allowed on a machine with fewer cores: enough to try out what several do.
FEW_PROCESSES = 8


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included unless `open_below` or `open_above`."""

    least: float = -math.inf
    most: float = math.inf
    open_below: bool = False
    open_above: bool = False

    def __contains__(self, number: float) -> bool:
        above = number > self.least if self.open_below else number >= self.least
        return above and (number < self.most if self.open_above else number <= self.most)

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"{'above' if self.open_below else 'at least'} {self.least:g}"
        return f"in {'(' if self.open_below else '['}{self.least:g}, {self.most:.10g}{')' if self.open_above else ']'}"


POSITIVE, COUNT, NOT_NEGATIVE = Range(0, open_below=True), Range(1), Range(0)
SEED = Range(0, 2**32 - 1)
# Of the keys that belong to no constructor.
TRAIN: dict[str, Any] = {
    "name": str, "seed": int, "epochs": int, "milestones": list[int], "base_batch_size": int | None,
    "decay_norm": bool, "loss": str, "clean_stop_epoch": int | None, "resume": str | None
}  # fmt: skip
EVALUATE: dict[str, Any] = {
    "checkpoint": str | None, "limit": int | None, "batch_size": int | None, "seed": int, "device": str, "output_dir": str,
    "name": str | None, "corruptions.root": str | None, "corruptions.types": list[str] | None,
}  # fmt: skip
RANGES: dict[str, Range] = {
    "seed": SEED, "data.seed": SEED, "data.split_seed": SEED, "mix.seed": SEED,
    "epochs": COUNT, "clean_stop_epoch": NOT_NEGATIVE, "limit": COUNT, "batch_size": COUNT,
    "data.num_workers": Range(0, 1024), "data.batch_size": COUNT, "data.image_size": COUNT, "data.eval_size": COUNT,
    "data.eval_resize": COUNT, "data.max_shift": NOT_NEGATIVE, "data.crop_padding": NOT_NEGATIVE,
    "data.jitter": NOT_NEGATIVE, "data.lighting": NOT_NEGATIVE,
    "model.width": COUNT, "model.stem_stride": COUNT, "model.depths": COUNT, "model.depth": COUNT,
    "model.widen_factor": COUNT, "model.alpha": COUNT, "model.head_std": NOT_NEGATIVE,
    "optimizer.lr": POSITIVE, "optimizer.momentum": Range(0, 1, open_above=True), "optimizer.weight_decay": NOT_NEGATIVE,
    "milestones": NOT_NEGATIVE, "base_batch_size": COUNT, "scheduler.milestones": NOT_NEGATIVE, "scheduler.gamma": NOT_NEGATIVE,
    "scheduler.warmup_epochs": NOT_NEGATIVE, "scheduler.points": NOT_NEGATIVE,
    "trainer.num_nodes": COUNT, "trainer.max_steps": Range(-1), "trainer.min_epochs": NOT_NEGATIVE,
    "trainer.min_steps": NOT_NEGATIVE, "trainer.limit_train_batches": POSITIVE, "trainer.limit_val_batches": NOT_NEGATIVE,
    "trainer.limit_test_batches": POSITIVE, "trainer.limit_predict_batches": NOT_NEGATIVE,
    "trainer.overfit_batches": NOT_NEGATIVE, "trainer.check_val_every_n_epoch": COUNT,
    "trainer.val_check_interval": POSITIVE, "trainer.num_sanity_val_steps": Range(-1),
    "trainer.log_every_n_steps": NOT_NEGATIVE, "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": NOT_NEGATIVE, "trainer.reload_dataloaders_every_n_epochs": NOT_NEGATIVE,
}  # fmt: skip
SET_BY_THE_STUDY = {
    "trainer.callbacks": "the study makes them; its own settings are mix, clean_stop_epoch and the trainer's",
    "trainer.logger": "choose one by logger=csv, tensorboard, wandb or none",
    "model.num_classes": "it is that of the data",
    "model.in_channels": "they are those of the data",
}
# Functions that hand on settings, and what takes them.
TAKERS: dict[str, str] = {"experiments.data.build_imagenet_phases": "experiments.data.ImageNetDataModule"}
# Names up to which a message lists all of them.
LISTED = 24
GROUPS = ("data", "model", "optimizer", "scheduler", "mix", "trainer", "logger", "clean_stop_epoch")
CHOICES: dict[str, tuple[str, ...]] = {"loss": ("ce", "bce_softmax")}


def check_settings(cfg: DictConfig, typed: Mapping[str, Any]) -> None:
    """Check every value of a composed config.

    Args:
        cfg: The config, without missing values.
        typed: Types of the keys that belong to no constructor, `TRAIN` or `EVALUATE`.

    Raises:
        UserError: At the first value that cannot be.
    """
    try:
        content = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"A setting refers to what is not there: {' '.join(str(error).split())}") from error
    assert isinstance(content, dict)
    for parent in {key.rpartition(".")[0] for key in typed} - {""}:
        if parent in content and not isinstance(content[parent], dict):
            members = ", ".join(f"{key}=..." for key in typed if key.startswith(f"{parent}."))
            raise UserError(f"{parent} has settings of its own ({members}), got {_shown(content[parent])}")
    # Those of the whole run first: others refer to them.
    for key, value in sorted(_walk(content), key=lambda item: item[0].count(".")):
        if key in SET_BY_THE_STUDY:
            raise UserError(f"{key} cannot be given: {SET_BY_THE_STUDY[key]}")
        if key in typed and not fits(value, typed[key]):
            raise UserError(f"{key} must be {describe(typed[key])}, got {_shown(value)}")
        _check_number(key, value)
    for key, node in _walk_targets(content):
        _check_target(key, node)
    for key, allowed in CHOICES.items():
        if content.get(key, allowed[0]) not in allowed:
            raise UserError(f"{key} must be one of {', '.join(allowed)}, got {_shown(content[key])}")
    if "trainer" in content:
        _check_devices(content["trainer"])


def _walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values by dotted key, those of lists as lists."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _walk_targets(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All nodes that name what they make, by dotted key."""
    if node.get("_target_") is not None:
        yield prefix.rstrip("."), node
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _walk_targets(value, f"{prefix}{key}.")


def _check_number(key: str, value: Any) -> None:
    """Finite, and in its range where there is one."""
    for each in _flat(value):
        if isinstance(each, bool) or not isinstance(each, int | float):
            continue
        if not math.isfinite(each):
            raise UserError(f"{key} must be a finite number, got {_shown(value)}")
        allowed = RANGES.get(key)
        if allowed is not None and each not in allowed:
            raise UserError(f"{key} must be {allowed}, got {_shown(value)}")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _check_target(key: str, node: Mapping[str, Any]) -> None:
    """The settings of one constructor: their names and types."""
    try:
        target = get_object(str(node["_target_"]))
        hints, open_ended = parameters_of(target)
        if node["_target_"] in TAKERS:
            taken, open_ended = parameters_of(get_object(TAKERS[node["_target_"]]))
            hints = {**taken, **hints}
            for name, phase in (node.get("phases") or {}).items() if isinstance(node.get("phases"), dict) else ():
                if isinstance(phase, dict):
                    _check_names(f"{key}.phases.{name}", phase, {**taken, "until": int}, "a phase")
    # Of another package, whose hints cannot be read: it will say itself what it does not like.
    except (ImportError, ValueError, TypeError, NameError, AttributeError, InstantiationException) as error:
        if isinstance(error, UserError):
            raise
        return
    owner = target.__name__ if len(hints) <= LISTED else f"{target.__module__}.{target.__name__}"
    _check_names(key, node, hints, owner, open_ended=open_ended)


def _check_names(
    key: str, node: Mapping[str, Any], hints: Mapping[str, Any], owner: str, *, open_ended: bool = False
) -> None:
    for name, value in node.items():
        if name in ("_target_", "_convert_", "_recursive_", "_partial_", "_args_"):
            continue
        if name not in hints:
            if open_ended:
                continue
            near = difflib.get_close_matches(name, hints, n=1)
            known = f"; it takes {', '.join(sorted(hints))}" if len(hints) <= LISTED else ""
            advice = f"; did you mean {key}.{near[0]}?" if near else known
            raise UserError(f"{key}.{name} is no setting of {owner}{advice}")
        is_object = isinstance(value, dict) and value.get("_target_") is not None
        if not is_object and not fits(value, hints[name]):
            wanted = describe(hints[name]) or f"settings of a {getattr(hints[name], '__name__', hints[name])}"
            raise UserError(f"{key}.{name} must be {wanted}, got {_shown(value, name)}")


def _check_devices(trainer: Mapping[str, Any]) -> None:
    """No more processes than the machine can run: Lightning would start them all, and wait for all of them."""
    devices, accelerator = trainer.get("devices"), trainer.get("accelerator", "auto")
    if isinstance(devices, str) and devices.strip().lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, bool) or not isinstance(devices, int):
        return
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if devices < 1 and not (devices == -1 and on_gpu):
        raise UserError(f"trainer.devices must be auto, a list of GPUs or at least 1, got {devices}")
    cores = os.cpu_count() or 1
    most = torch.cuda.device_count() if on_gpu else max(cores, FEW_PROCESSES)
    if on_gpu and most == 0:
        # Lightning says that there is none.
        return
    if accelerator in ("gpu", "cuda", "cpu", "auto") and devices > most:
        kind = f"{most} GPUs" if on_gpu else f"{cores} cores, on which at most {most} processes are started"
        raise UserError(f"trainer.devices must be at most {most}, got {devices}: this machine has {kind}")


def _shown(value: Any, key: str = "") -> str:
    if is_secret_key(key):
        return MASK
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)


def names_a_setting(error: BaseException) -> bool:
    """Whether an error begins with the setting that it is about, which makes its message all that a user needs."""
    return isinstance(error, ValueError) and re.match(rf"({'|'.join(GROUPS)})[.=]\w+", str(error)) is not None


def explain(error: InstantiationException) -> str:
    """What a constructor said of its settings, in one sentence that names them."""
    cause = error.__cause__
    if cause is None:
        return " ".join(str(error).split())
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    group = str(error).partition("full_key: ")[2].strip()
    said = " ".join(str(cause).split())
    return said if not group or said.startswith(group.split(".")[0]) else f"{group}: {said}"
