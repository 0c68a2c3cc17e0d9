"""Values of the config are checked here, before anything is built or downloaded.

Types are those of the constructors that the config names (`_target_`); ranges are listed for what these do not check.
"""

import difflib
import functools
import inspect
import json
import operator
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Interval
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AllowInfNan, ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from experiments.common.errors import UserError
from experiments.common.extras import require
from experiments.common.masking import mask_settings
from experiments.common.plain_yaml import flatten

# Types of the keys that belong to no constructor.
TRAIN: dict[str, Any] = {
    "name": str, "seed": int, "epochs": int, "milestones": list[int], "base_batch_size": int | None,
    "decay_norm": bool, "loss": Literal["ce", "bce_softmax"], "consistency_weight": float, "clean_stop_epoch": int | None,
    "resume": str | None,
}  # fmt: skip
EVALUATE: dict[str, Any] = {
    "checkpoint": str | None, "limit": int | None, "batch_size": int | None, "seed": int, "device": str, "output_dir": str,
    "name": str | None, "corruptions": dict, "corruptions.root": str | None, "corruptions.types": list[str] | None,
}  # fmt: skip
INTERVALS = {
    Interval(ge=0, lt=2**32): "seed data.seed data.split_seed mix.seed",
    Interval(ge=0, le=1024): "data.num_workers",
    Interval(ge=-1, le=256): "trainer.devices",
    Interval(ge=0, lt=1): "optimizer.momentum",
    Gt(0): "optimizer.lr trainer.limit_train_batches trainer.limit_test_batches trainer.val_check_interval",
    Ge(0): "clean_stop_epoch milestones scheduler.milestones scheduler.gamma scheduler.points scheduler.warmup_epochs "
    "data.max_shift data.crop_padding data.jitter data.lighting trainer.gradient_clip_val consistency_weight",
    Ge(1): "epochs base_batch_size limit batch_size data.batch_size data.image_size data.eval_size data.eval_resize "
    "model.width model.stem_stride model.widen_factor trainer.accumulate_grad_batches trainer.check_val_every_n_epoch",
}
RANGES = {key: interval for interval, keys in INTERVALS.items() for key in keys.split()}
SET_BY_THE_STUDY = {
    "trainer.callbacks": "the study makes them; its own settings are mix, clean_stop_epoch and the trainer's",
    "trainer.logger": "choose one by logger=csv, tensorboard, wandb or none",
    "model.num_classes": "it is that of the data",
    "model.in_channels": "they are those of the data",
}
# Functions that pass settings on, and the constructor that takes them.
PASSED_ON = {"experiments.data.build_imagenet_phases": "experiments.data.ImageNetDataModule"}
# Constructors that need a package which may not be installed.
NEEDED = {"experiments.models.build_timm": "timm", "pytorch_lightning.loggers.TensorBoardLogger": "tensorboard"}


def check_settings(cfg: DictConfig, typed: Mapping[str, Any]) -> None:
    """Refuse the first wrong value of a composed config by a UserError; `typed` is `TRAIN` or `EVALUATE`."""
    try:
        content: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"A setting refers to what is not there: {' '.join(str(error).split())}") from error
    for key, hint in typed.items():
        _check_type(key, functools.reduce(operator.getitem, key.split("."), content), hint)
    # Those of the whole run first: others refer to them.
    values = sorted(flatten(content), key=lambda item: item[0].count("."))
    for key, value in values:
        if key in SET_BY_THE_STUDY:
            raise UserError(f"{key} cannot be given: {SET_BY_THE_STUDY[key]}")
        if key.endswith(".solver") and value == "gco":
            require("gco-wrapper", f"{key}=gco", "gco")
        _check_range(key, value)
    for key, name in values:
        if key.endswith("._target_") and name is not None:
            owner = key.removesuffix("._target_")
            _check_constructor(owner, name, functools.reduce(operator.getitem, owner.split("."), content))


def _check_range(key: str, value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _check_range(key, each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_type(key, value, Annotated[float, AllowInfNan(False), RANGES.get(key)])


def _check_type(key: str, value: Any, hint: Any) -> None:
    errors = _type_errors(value, hint)
    # A name that looks like a number was meant as a name.
    is_name = isinstance(value, int | float) and not isinstance(value, bool) and not _type_errors(str(value), hint)
    if errors and not is_name and "_target_" not in str(value):
        allowed = [*dict.fromkeys(errors), *([] if _type_errors(None, hint) else ["null"])]
        given = json.dumps(mask_settings(value, key), default=str)
        raise UserError(f"{key} must be {' or '.join(allowed)}, got {given}")


def _type_errors(value: Any, hint: Any) -> list[str]:
    """What the hint allows instead of the value, in words; empty: the value is allowed, or not for pydantic to judge."""
    try:
        # As JSON, where lists stand for tuples and strings for paths; in a tuple, as not every type takes a config itself.
        adapter = TypeAdapter(tuple[hint], config=ConfigDict(arbitrary_types_allowed=True))  # type: ignore[valid-type]
        adapter.validate_json(json.dumps([value], default=str), strict=True)
    except ValidationError as error:
        # Not those about objects, which a config does not hold: it names what makes them.
        errors = [each for each in error.errors() if not re.search("object|callable|instance", each["type"])]
        return [each["msg"].removeprefix("Input should be ") for each in errors]
    except PydanticUserError:
        pass
    return []


def _check_constructor(key: str, name: str, settings: Mapping[str, Any]) -> None:
    if name in NEEDED:
        require(NEEDED[name], f"{key}={NEEDED[name]}")
    try:
        target: Any = get_object(PASSED_ON.get(name, name))
        parameters = inspect.signature(target).parameters
        hints = {**dict.fromkeys(parameters, Any), "until": int}
        # What a class passes on as `**options` is that of the class that it inherits from.
        for function in [each.__init__ for each in reversed(target.__mro__)] if inspect.isclass(target) else [target]:
            hints |= get_type_hints(function)
    # Of another package, whose hints cannot be read: it checks its settings itself.
    except (ImportError, ValueError, TypeError, NameError, AttributeError):
        return
    is_open_ended = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    # Those that are passed on may be of one phase: phases.first.batch_size, phases.first.until.
    for path, value in flatten(settings) if name in PASSED_ON else settings.items():
        field = path.rpartition(".")[2]
        if field in hints:
            _check_type(f"{key}.{path}", value, hints[field])
        elif not is_open_ended and not field.startswith("_"):
            near = difflib.get_close_matches(field, parameters, n=1)
            advice = f"did you mean {near[0]}?" if near else f"it takes {', '.join(sorted(parameters))}"
            raise UserError(f"{key}.{path} is no setting of {name.rpartition('.')[2]}; {advice}")


def names_a_setting(error: BaseException) -> bool:
    """Whether an error begins with the setting that it is about, which makes its message all that a user needs."""
    setting = r"(data|model|optimizer|scheduler|mix|trainer|logger|clean_stop_epoch)[.=]\w+"
    return isinstance(error, ValueError) and re.match(setting, str(error)) is not None


def explain(error: InstantiationException) -> str:
    """The message of a constructor that Hydra has called, in one sentence that names the settings."""
    message = " ".join(str(error.__cause__ or error).split())
    group = str(error).partition("full_key: ")[2].strip()
    return message if message.startswith(group.split(".")[0]) else f"{group}: {message}"
