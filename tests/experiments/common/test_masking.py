"""What is taken for a secret, how it is masked, and how one of the command line is kept out of what is written."""

import logging
import os
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.common.errors import UserError
from experiments.common.masking import (
    MASK,
    MaskingFormatter,
    check_masked,
    hide_secret,
    is_secret_key,
    mask_config,
    mask_settings,
    mask_text,
)

SECRET = "k3y-of-the-kingdom"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test hides is forgotten after it."""
    monkeypatch.setattr("experiments.common.masking._known", set())
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize(
    "key",
    ["api_key", "logger.settings.api_key", "WANDB_API_KEY", "wandb.key", "password", "db_password", "dbPassword", "PASSWD",
     "token", "github_token", "accessToken", "client_secret", "secret", "credentials", "private_key", "auth"],
)  # fmt: skip
def test_a_telling_key_is_one_of_a_secret(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    ["num_tokens", "token_dim", "sort_key", "group_key", "keys", "monkey", "tokenizer", "seed", "lr", "author", ""],
)
def test_other_keys_are_not(key: str) -> None:
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    "text",
    [
        f"logger.settings.api_key={SECRET}",
        f"+wandb.password='{SECRET}'",
        f"++a.token={SECRET} and more",
        f"https://user:{SECRET}@host/path",
        f"postgresql://user:{SECRET}@ss@host/path",
    ],
)
def test_a_text_is_masked(text: str) -> None:
    masked = mask_text(text)
    assert SECRET not in masked
    assert MASK in masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "a1" * 18,
        "sk-" + "a1" * 20,
        "hf_" + "a1" * 17,
        "AKIA" + "ABCD" * 4,
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    ],
)
def test_a_secret_is_known_by_its_form(text: str) -> None:
    assert mask_text(f"name={text}") == f"name={MASK}"


@pytest.mark.parametrize(
    "text",
    ["data=cifar100", "model.class_token=false", "model.global_pool=token", "seed=0,1,2", "data.root=/data/keys/token",
     "differing keys: lr", "Unexpected token: x", "monitor key: val_loss", "ssh://git@host/repository", "optimizer.lr=1e-3",
     "logger.settings.api_key=${oc.env:WANDB_API_KEY}", "2026-01-31 12:00:00 INFO test accuracy 0.97"],
)  # fmt: skip
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert mask_text(text) == text


def test_settings_are_masked_below_a_telling_key_and_others_keep_value_and_type() -> None:
    settings = {
        "logger": {
            "settings": {"api_key": SECRET, "x": [f"token={SECRET}"]},
            "credentials": {"user": "a", "pass": SECRET},
        },
        "model": {"class_token": False, "num_tokens": 3, "token": None, "width": 1.5},
    }
    masked = mask_settings(settings)
    assert masked["logger"] == {
        "settings": {"api_key": MASK, "x": [f"token={MASK}"]},
        "credentials": {"user": MASK, "pass": MASK},
    }
    assert masked["model"] == settings["model"]


def test_a_secret_of_the_environment_is_masked_wherever_it_was_resolved_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "WANDB_API_KEY", SECRET)
    cfg = OmegaConf.create({"name": "run of ${oc.env:WANDB_API_KEY}", "folder": str(Path.cwd())})
    assert mask_config(cfg) == {"name": f"run of {MASK}", "folder": str(Path.cwd())}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        (f"logger.settings.api_key={SECRET}", SECRET),
        ("+wandb.password='a b,{c}'", "a b,{c}"),
        ("++a.token=12345678", "12345678"),
        (r"+x.password=a\,b", "a,b"),
        (f"hydra.sweeper.storage=postgresql://user:{SECRET}@host/db", f"postgresql://user:{SECRET}@host/db"),
    ],
)
def test_a_secret_of_the_command_line_is_handed_on_by_the_environment(argument: str, value: str) -> None:
    hidden = hide_secret(argument)
    assert value not in hidden
    override = OverridesParser.create().parse_override(hidden)
    assert override.key_or_group == argument.split("=")[0].lstrip("+")
    cfg = OmegaConf.create({"node": override.value()})
    resolved = OmegaConf.to_container(cfg, resolve=True)["node"]
    assert value in (resolved.values() if isinstance(resolved, dict) else [resolved])
    # A process that is started with the hidden command line changes nothing.
    assert hide_secret(hidden) == hidden


@pytest.mark.parametrize(
    "argument",
    [
        "seed=1",
        "--multirun",
        "model.class_token=false",
        "logger.api_key=null",
        "logger.api_key=${oc.env:KEY,x}",
        "a=b=c",
        "~a",
    ],
)
def test_other_arguments_stay_as_they_are(argument: str) -> None:
    assert hide_secret(argument) == argument


def test_a_secret_among_other_settings_is_asked_for_by_itself() -> None:
    with pytest.raises(UserError, match=r"logger\.settings holds a secret.*: logger\.settings\.<name>=\.\.\."):
        hide_secret(f"logger.settings={{mode:offline,api_key:{SECRET}}}")
    assert hide_secret("db={password:'${oc.env:DB}',user:me}") == "db={password:'${oc.env:DB}',user:me}"


def test_a_hidden_secret_is_asked_for_again_in_another_shell() -> None:
    hidden = hide_secret(f"logger.settings.api_key={SECRET}")
    del os.environ["PUZZLEMIX_SECRET_LOGGER_SETTINGS_API_KEY"]
    with pytest.raises(UserError, match=r"give logger\.settings\.api_key=\.\.\., or set .*_SETTINGS_API_KEY"):
        hide_secret(hidden)


def test_a_mask_is_no_secret() -> None:
    assert hide_secret(f"logger.api_key={MASK}") == f"logger.api_key={MASK}"
    with pytest.raises(UserError, match=r"logger\.api_key, url is masked"):
        check_masked(OmegaConf.create({"logger": {"api_key": MASK}, "url": f"https://a:{MASK}@b"}))
    check_masked(OmegaConf.create({"logger": {"api_key": "other"}}))


def test_a_known_secret_is_masked_before_and_behind_an_override_in_a_text() -> None:
    mask_settings({"logger": {"api_key": SECRET}})
    assert mask_text(f"run of {SECRET} +db.password={SECRET} lr=1") == f"run of {MASK} +db.password={MASK} lr=1"


def test_a_line_of_a_log_is_masked_with_its_traceback() -> None:
    mask_settings({"api_key": SECRET})
    try:
        raise ValueError(f"api_key={SECRET} was refused")
    except ValueError as error:
        record = logging.LogRecord(
            "a", logging.ERROR, "a", 1, "refused: token=%s", (SECRET,), (type(error), error, error.__traceback__)
        )
    line = MaskingFormatter("%(message)s").format(record)
    assert SECRET not in line
    assert f"ValueError: api_key={MASK} was refused" in line
