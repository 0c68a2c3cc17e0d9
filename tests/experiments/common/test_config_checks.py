"""Values of the command line that cannot be: refused by name, in a sentence, before anything is built."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import launch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.common.config_checks import EVALUATE, RANGES, TRAIN, check_settings, explain
from experiments.common.errors import UserError
from experiments.sweeps.hydra_errors import explain as explain_hydra

Compose = Callable[..., DictConfig]

REFUSED = {
    "seed=abc": 'seed must be a valid integer, got "abc"',
    "seed=-1": "seed must be greater than or equal to 0, got -1",
    "seed=true": "seed must be a valid integer, got true",
    "epochs=1.5": "epochs must be a valid integer, got 1.5",
    "epochs=0": "epochs must be greater than or equal to 1, got 0",
    "epochs=null": "epochs must be a valid integer, got null",
    "loss=mse": "loss must be 'ce' or 'bce_softmax', got \"mse\"",
    "consistency_weight=-1": "consistency_weight must be greater than or equal to 0, got -1",
    "data.augment=AugMix": 'data.augment must be an object, got "AugMix"',
    "clean_stop_epoch=-1": "clean_stop_epoch must be greater than or equal to 0, got -1",
    "resume=true": "resume must be a valid string or null, got true",
    "data.batch_size=abc": 'data.batch_size must be a valid integer, got "abc"',
    "data.batch_size=true": "data.batch_size must be a valid integer, got true",
    "data.batch_size=0": "data.batch_size must be greater than or equal to 1, got 0",
    "data.num_workers=-1": "data.num_workers must be greater than or equal to 0, got -1",
    "data.batchsize=3": "data.batchsize is no setting of DigitsDataModule; did you mean batch_size?",
    "optimizer.lr=nan": "optimizer.lr must be a finite number, got NaN",
    "optimizer.lr=0": "optimizer.lr must be greater than 0, got 0",
    "optimizer.nesterov=3": "optimizer.nesterov must be a valid boolean, got 3",
    "optimizer.momentum=1": "optimizer.momentum must be less than 1, got 1",
    "milestones=[1.5]": "milestones must be a valid integer, got [1.5]",
    "base_batch_size=0": "base_batch_size must be greater than or equal to 1, got 0",
    "decay_norm=1": "decay_norm must be a valid boolean, got 1",
    "optimizer.momentun=1": "optimizer.momentun is no setting of SGD; did you mean momentum?",
    "scheduler.warmup_epochs=-1": "scheduler.warmup_epochs must be greater than or equal to 0, got -1",
    "scheduler.gamma=1": "scheduler.gamma is no setting of cosine; it takes ",
    "mix.config.beta=abc": 'mix.config.beta must be a valid number, got "abc"',
    "mix.config.grid_sizes=[x]": 'mix.config.grid_sizes must be a valid integer, got ["x"]',
    "mix.config.bet=1": "mix.config.bet is no setting of PuzzleMixConfig; did you mean beta?",
    "model.width=0": "model.width must be greater than or equal to 1, got 0",
    "model.num_classes=3": "model.num_classes cannot be given: it is that of the data",
    "trainer.devices=100000": "trainer.devices must be less than or equal to 256, got 100000",
    "trainer.precision=foo": "trainer.precision must be 64, 32 or 16 or ",
    "trainer.limit_train_batches=-1": "trainer.limit_train_batches must be greater than 0, got -1",
    "trainer.max_epoch=3": "trainer.max_epoch is no setting of Trainer; did you mean max_epochs?",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_cannot_be_is_refused_by_name(override: str, compose_train: Compose) -> None:
    with pytest.raises(UserError) as refused:
        check_settings(compose_train(override), TRAIN)
    assert str(refused.value).startswith(REFUSED[override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("value", "shown"), [("none", '"none"'), (None, "null"), (3, "3")])
def test_a_value_in_the_place_of_settings_is_refused(value: Any, shown: str) -> None:
    evaluation = {
        **dict.fromkeys(["checkpoint", "limit", "batch_size", "name"]),
        "seed": 0,
        "device": "cpu",
        "output_dir": ".",
    }
    with pytest.raises(UserError) as refused:
        check_settings(OmegaConf.create({**evaluation, "corruptions": value}), EVALUATE)
    assert str(refused.value) == f"corruptions must be an object, got {shown}"


def changed(cfg: DictConfig, key: str, value: Any) -> DictConfig:
    copy = cfg.copy()
    OmegaConf.update(copy, key, value, merge=False, force_add=True)
    return copy


def numbers(node: Any, prefix: str = "") -> list[str]:
    """Dotted keys of the numbers in a config."""
    found = []
    for key, value in node.items():
        if isinstance(value, dict):
            found += numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(f"{prefix}{key}")
    return found


@pytest.mark.parametrize(
    "group", [(), ("data=imagenet_phases",), ("model=wrn28_10", "mix=mixup"), ("mix=manifold",)], ids=str
)
def test_no_number_of_any_config_may_be_a_word_or_endless(group: tuple[str, ...], compose_train: Compose) -> None:
    cfg = compose_train(*group)
    keys = numbers(OmegaConf.to_container(cfg, resolve=True))
    assert len(keys) > 5
    for key in keys:
        for value in ("abc", math.nan, math.inf, ["a"], {"a": "b"}):
            if (key, value) == ("trainer.devices", "abc"):
                # A name, perhaps: Lightning knows.
                continue
            with pytest.raises(UserError, match=key.split(".")[-1]):
                check_settings(changed(cfg, key, value), TRAIN)


def test_every_range_belongs_to_a_key_that_a_user_can_set(compose_train: Compose) -> None:
    """A value outside is refused for its range, in a config that has the key."""
    options = {
        ("model.widen_factor",): ("model=wrn28_10",),
        ("data.crop_padding",): ("data=cifar10",),
        ("data.eval_size", "data.eval_resize", "data.jitter", "data.lighting"): ("data=imagenet",),
    }
    elsewhere = {key for keys in options for key in keys} | {"limit", "batch_size"}
    options[tuple(key for key in RANGES if key not in elsewhere)] = ()
    for keys, chosen in options.items():
        cfg = compose_train(*chosen)
        for key in keys:
            value = {
                "milestones": [-7],
                "scheduler.milestones": [-7],
                "scheduler.points": [[-7, -7]],
            }.get(key, -7)
            with pytest.raises(UserError, match=rf"^{key} must be greater than "):
                check_settings(changed(cfg, key, value), TRAIN)


def test_the_constructors_own_words_name_their_group(compose_train: Compose) -> None:
    with pytest.raises(InstantiationException) as refused:
        instantiate(compose_train("mix.config.gamma=3").mix)
    assert explain(refused.value) == "mix.config: gamma must be finite and in [0, 1], got 3"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Could not override 'sed'.\nTo append to your config use +sed=1\nKey 'sed' is not in struct",
         "There is no setting sed; did you mean seed?"),
        ("In 'train': Could not find 'data/foo'\n\nAvailable options in 'data':\n\tcifar10\n\tdigits\nConfig search path:\n\tx",
         "data=foo is no option of the group data; it is one of cifar10, digits"),
        ("something else\nConfig search path:\n\tx", "something else"),
    ],
)  # fmt: skip
def test_hydras_pages_become_a_sentence(message: str, expected: str) -> None:
    assert explain_hydra(message, TRAIN) == expected


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("train", ("data=foo",), "data=foo is no option of the group data; it is one of cifar10, "),
        ("evaluate", ("checkpoint=x", "limit=0"), "limit must be greater than or equal to 1, got 0"),
    ],
)
def test_the_command_line_ends_with_the_sentence_alone(
    module: str, words: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    result = launch(module, *words, f"paths.runs={tmp_path}")
    assert result.returncode == 1
    (line,) = (result.stdout + result.stderr).splitlines()
    assert line.startswith(expected)
