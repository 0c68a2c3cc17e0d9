"""Values of the config are checked here, before anything is built or downloaded.

Types are those of the constructors that the config names (`_target_`), as pydantic reads them. Ranges are listed below for what
the constructors do not check themselves.
"""

import difflib
import inspect
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import Unpack, is_typeddict

from experiments.common.errors import UserError
from experiments.common.masking import MASK, is_secret_key
from experiments.common.plain_yaml import flatten

# Types of the keys that belong to no constructor.
TRAIN: dict[str, Any] = {
    "name": str, "seed": int, "epochs": int, "milestones": list[int], "base_batch_size": int | None,
    "decay_norm": bool, "loss": Literal["ce", "bce_softmax"], "clean_stop_epoch": int | None,
    "resume": str | None,
}  # fmt: skip
EVALUATE: dict[str, Any] = {
    "checkpoint": str | None, "limit": int | None, "batch_size": int | None, "seed": int, "device": str, "output_dir": str,
    "name": str | None, "corruptions.root": str | None, "corruptions.types": list[str] | None,
}  # fmt: skip
# Intervals: "[" and "]" include the bound, "(" and ")" do not.
RANGES: dict[str, str] = {
    **dict.fromkeys(("seed", "data.seed", "data.split_seed", "mix.seed"), "[0, 4294967295]"),
    **dict.fromkeys((
        "epochs", "base_batch_size", "limit", "batch_size", "data.batch_size", "data.image_size", "data.eval_size",
        "data.eval_resize",
        "model.width", "model.stem_stride", "model.depths", "model.depth", "model.widen_factor", "model.alpha",
        "trainer.num_nodes", "trainer.check_val_every_n_epoch", "trainer.accumulate_grad_batches",
    ), "[1, inf)"),
    **dict.fromkeys((
        "clean_stop_epoch", "data.max_shift", "data.crop_padding", "data.jitter", "data.lighting", "model.head_std",
        "milestones", "optimizer.weight_decay", "scheduler.milestones", "scheduler.gamma", "scheduler.warmup_epochs",
         "scheduler.points",
        "trainer.min_epochs", "trainer.min_steps", "trainer.limit_val_batches", "trainer.limit_predict_batches",
        "trainer.overfit_batches", "trainer.log_every_n_steps", "trainer.gradient_clip_val",
        "trainer.reload_dataloaders_every_n_epochs",
    ), "[0, inf)"),
    **dict.fromkeys((
        "optimizer.lr", "trainer.limit_train_batches", "trainer.limit_test_batches", "trainer.val_check_interval",
    ), "(0, inf)"),
    **dict.fromkeys(("trainer.max_steps", "trainer.num_sanity_val_steps"), "[-1, inf)"),
    "data.num_workers": "[0, 1024]",
    "optimizer.momentum": "[0, 1)",
}  # fmt: skip
SET_BY_THE_STUDY = {
    "trainer.callbacks": "the study makes them; its own settings are mix, clean_stop_epoch and the trainer's",
    "trainer.logger": "choose one by logger=csv, tensorboard, wandb or none",
    "model.num_classes": "it is that of the data",
    "model.in_channels": "they are those of the data",
}
# Functions that pass settings on, and the constructor that takes them.
TAKERS: dict[str, str] = {"experiments.data.build_imagenet_phases": "experiments.data.ImageNetDataModule"}
GROUPS = ("data", "model", "optimizer", "scheduler", "mix", "trainer", "logger", "clean_stop_epoch")
# Processes on the CPU that are allowed on a machine with fewer cores: enough to try out what several do.
FEW_PROCESSES = 8
# Errors of pydantic about objects, which a config does not hold: it names what makes them.
OBJECT_ERRORS = ("needs_python_object", "callable_type", "is_instance_of")
# Names up to which a message lists all of them.
LISTED = 24


def check_settings(cfg: DictConfig, typed: Mapping[str, Any]) -> None:
    """Check every value of a composed config without missing values; `typed` is `TRAIN` or `EVALUATE`.

    Raises:
        UserError: At the first value that is refused.
    """
    try:
        content = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"A setting refers to what is not there: {' '.join(str(error).split())}") from error
    assert isinstance(content, dict)
    for parent in {key.rpartition(".")[0] for key in typed} - {""}:
        if not isinstance(content.get(parent, {}), dict):
            members = ", ".join(f"{key}=..." for key in typed if key.startswith(f"{parent}."))
            raise UserError(f"{parent} has settings of its own ({members}), got {_shown(content[parent])}")
    # Those of the whole run first: others refer to them.
    for key, value in sorted(flatten(content), key=lambda item: item[0].count(".")):
        if key in SET_BY_THE_STUDY:
            raise UserError(f"{key} cannot be given: {SET_BY_THE_STUDY[key]}")
        if key in typed:
            _check_type(key, value, typed[key])
        _check_numbers(key, value)
    for key, node in _find_targets(content):
        _check_target(key, node)
    _check_devices(content.get("trainer", {}))


def _find_targets(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All nodes that name what they make, by dotted key."""
    if node.get("_target_") is not None:
        yield prefix.rstrip("."), node
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _find_targets(value, f"{prefix}{key}.")


def _check_numbers(key: str, value: Any) -> None:
    """All numbers of a value are finite, and in their range where there is one."""
    if isinstance(value, list):
        for each in value:
            _check_numbers(key, each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f"{key} must be a finite number, got {_shown(value)}")
        interval = RANGES.get(key, "(-inf, inf)")
        least, most = map(float, interval[1:-1].split(","))
        is_bound = (interval[0] == "[" and value == least) or (interval[-1] == "]" and value == most)
        if not (least < value < most or is_bound):
            raise UserError(f"{key} must be in {interval}, got {_shown(value)}")


def _check_type(key: str, value: Any, hint: Any) -> None:
    # A name that looks like a number was meant as a name.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if "_target_" in str(value) or any(_type_errors(each, hint) == [] for each in [value, str(value)][: 1 + is_number]):
        return
    wanted = " or ".join(
        [*dict.fromkeys(_type_errors(value, hint)), *(["null"] if not _type_errors(None, hint) else [])]
    )
    raise UserError(f"{key} must be {wanted}, got {_shown(value, key)}")


def _type_errors(value: Any, hint: Any) -> list[str]:
    """What the hint allows instead of the value, in words; empty: the value is allowed, or not for pydantic to judge."""
    try:
        # As JSON, where lists stand for tuples and strings for paths; in a tuple, as not every type takes a config itself.
        adapter = TypeAdapter(tuple[hint], config=ConfigDict(arbitrary_types_allowed=True))  # type: ignore[valid-type]
        adapter.validate_json(json.dumps([value], default=str), strict=True)
    except ValidationError as error:
        errors = [each for each in error.errors() if each["type"] not in OBJECT_ERRORS]
        return [each["msg"].removeprefix("Input should be ") for each in errors]
    except PydanticUserError:
        pass
    return []


def _check_target(key: str, node: Mapping[str, Any]) -> None:
    """Check names and types of the settings of one constructor."""
    try:
        target = get_object(str(node["_target_"]))
        hints, open_ended = _parameters_of(target)
        if node["_target_"] in TAKERS:
            taken, open_ended = _parameters_of(get_object(TAKERS[node["_target_"]]))
            hints = {**taken, **hints}
            phases = node.get("phases")
            for name, phase in phases.items() if isinstance(phases, dict) else ():
                if isinstance(phase, dict):
                    _check_parameters(f"{key}.phases.{name}", phase, {**taken, "until": int}, "a phase")
    # Of another package, whose hints cannot be read: it checks its settings itself.
    except (ImportError, ValueError, TypeError, NameError, AttributeError, InstantiationException) as error:
        if isinstance(error, UserError):
            raise
        return
    owner = target.__name__ if len(hints) <= LISTED else f"{target.__module__}.{target.__name__}"
    _check_parameters(key, node, hints, owner, open_ended=open_ended)


def _check_parameters(
    key: str, node: Mapping[str, Any], hints: Mapping[str, Any], owner: str, *, open_ended: bool = False
) -> None:
    for name, value in node.items():
        if name in hints:
            _check_type(f"{key}.{name}", value, hints[name])
        elif not open_ended and name not in ("_target_", "_convert_", "_recursive_", "_partial_", "_args_"):
            near = difflib.get_close_matches(name, hints, n=1)
            known = f"; it takes {', '.join(sorted(hints))}" if len(hints) <= LISTED else ""
            advice = f"; did you mean {key}.{near[0]}?" if near else known
            raise UserError(f"{key}.{name} is no setting of {owner}{advice}")


def _parameters_of(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Type hints of what a class or function takes by name, and whether it may take more.

    What a class passes on as `**options` is looked up in the class that it inherits from.
    """
    classes = target.__mro__ if inspect.isclass(target) else ()
    found: dict[str, Any] = {}
    for function in [each.__init__ for each in classes if "__init__" in vars(each)] or [target]:
        hints, others = get_type_hints(function), None
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                others = hints.get(name, Any)
            elif name != "self":
                found.setdefault(name, hints.get(name, Any))
        if others is None:
            return found, False
        if get_origin(others) is Unpack and is_typeddict(get_args(others)[0]):
            return {**get_type_hints(get_args(others)[0]), **found}, False
    return found, True


def _check_devices(trainer: Mapping[str, Any]) -> None:
    """No more processes than the machine can run: Lightning would start them all, and wait for all of them."""
    devices, accelerator = str(trainer.get("devices")).strip(), trainer.get("accelerator", "auto")
    if not re.fullmatch(r"-?\d+", devices):
        return
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if int(devices) < 1 and not (devices == "-1" and on_gpu):
        raise UserError(f"trainer.devices must be auto, a list of GPUs or at least 1, got {devices}")
    cores = os.cpu_count() or 1
    most = torch.cuda.device_count() if on_gpu else max(cores, FEW_PROCESSES)
    # Without any GPU, Lightning itself reports that.
    if most and accelerator in ("gpu", "cuda", "cpu", "auto") and int(devices) > most:
        kind = f"{most} GPUs" if on_gpu else f"{cores} cores, on which at most {most} processes are started"
        raise UserError(f"trainer.devices must be at most {most}, got {devices}: this machine has {kind}")


def _shown(value: Any, key: str = "") -> str:
    if is_secret_key(key):
        return MASK
    return json.dumps(value) if isinstance(value, bool) or value is None else repr(value)


def names_a_setting(error: BaseException) -> bool:
    """Whether an error begins with the setting that it is about, which makes its message all that a user needs."""
    return isinstance(error, ValueError) and re.match(rf"({'|'.join(GROUPS)})[.=]\w+", str(error)) is not None


def explain(error: InstantiationException) -> str:
    """The message of a constructor that Hydra has called, in one sentence that names the settings."""
    cause: BaseException = error
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    group = str(error).partition("full_key: ")[2].strip() if cause is not error else ""
    message = " ".join(str(cause).split())
    return message if not group or message.startswith(group.split(".")[0]) else f"{group}: {message}"
