"""Secrets in the settings: those of the command line move into the environment; in whatever is written they are masked."""

import functools
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.common.atomic_files import write_text
from experiments.common.errors import UserError
from experiments.common.overrides import parse_value
from experiments.common.plain_yaml import flatten, read_plain_yaml

MASK = "***"
# The environment variable that holds a secret of the command line: this, and the key.
VARIABLE = "PUZZLEMIX_SECRET_"
# Keys that hold a secret: `api_key`, `dbPassword`; but not `group_key`, `num_tokens`, `author`.
SECRET_KEY = re.compile(
    r"[\w-]*(passw|passphrase|pwd|secret|credential|authorization)[\w-]*|([\w-]*[_-])?(pass|pw)|[\w-]*(token|auth|cookie)"
    r"|([\w-]*(api|access|private|account|auth|ssh|signing|encryption|license|service|wandb|comet|neptune)[_-]?)?key",
    re.IGNORECASE,
)
# What stands for a secret without holding it, such as a reference to an environment variable without a default.
NO_SECRET = re.compile(r"['\"]?(\$\{(oc\.env:\w+|[\w.]+)\}|null|true|false|)['\"]?")
# The password, or a long name, in the login of a URL; and tokens of well-known services.
FORMS = (
    (r"(\w://[^\s/?#\"'<>:@]*):[^\s/?#\"'<>]+@", rf"\1:{MASK}@"),
    (r"(\w://)[^\s/?#\"'<>:@]{16,}@", rf"\1{MASK}@"),
    (r"\b(sk-|gh[pousr]_|github_pat_|glpat-|hf_|AKIA|AIza|xox[abprs]-|wandb_v\d_|eyJ)[\w.-]{16,}", MASK),
)

_known: set[str] = set()


@functools.cache
def is_secret_key(key: object) -> bool:
    """Whether a setting of this name holds a secret, by its last part: `logger.api_key`."""
    return SECRET_KEY.fullmatch(str(key).rpartition(".")[2].lstrip("+~")) is not None


def mask_text(text: str) -> str:
    """A text without secrets: all of an override whose key names one; known ones, and those of a known form."""
    override = re.fullmatch(r"(\S*?)=(.*)", text, re.DOTALL)
    if override and is_secret_key(override[1]):
        return f"{override[1]}={_mask_value(override[2])}"
    for form, masked in FORMS:
        text = re.sub(form, masked, text)
    secrets = _known | {value for name, value in os.environ.items() if is_secret_key(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        # Short ones would be found within other words; paths are none: PWD, or a file of credentials that is named.
        if len(secret) > 5 and not secret.startswith(("/", "~")):
            text = text.replace(secret, MASK)
    return text


def mask_texts(texts: Iterable[object]) -> list[str]:
    """Each text masked, such as the overrides of a command line, as they were typed: references are not resolved."""
    texts = OmegaConf.to_container(texts) if isinstance(texts, ListConfig) else texts
    return [mask_text(str(text)) for text in texts]


def mask_settings(node: Any, key: object = "") -> Any:
    """Nested plain mappings and lists with masked values; all of them if `key` names a secret."""
    if isinstance(node, Mapping):
        return {name: mask_settings(value, key if is_secret_key(key) else name) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [mask_settings(value, key) for value in node]
    if is_secret_key(key) and node is not None and not isinstance(node, bool):
        return _mask_value(str(node))
    return mask_text(node) if isinstance(node, str) else node


def mask_config(cfg: DictConfig) -> DictConfig:
    """The resolved config with masked values, to be written, shown, or compared with one that was written."""
    return OmegaConf.create(mask_settings(OmegaConf.to_container(cfg, resolve=True)))


def _mask_value(value: str) -> str:
    if NO_SECRET.fullmatch(value):
        return value
    _known.add(value.strip("'\""))
    return MASK


def hide_secret(argument: str) -> str:
    """An argument of the command line with a reference to an environment variable, which is set, in place of a secret.

    Whatever records the command line records the reference; jobs of a sweep and processes of a training inherit the secret.
    """
    key, value = argument.partition("=")[0], parse_value(argument)
    variable = VARIABLE + re.sub(r"\W+", "_", key).strip("_").upper()
    if variable in argument and variable not in os.environ:
        raise UserError(f"{key} was kept out of the run's files: give {key}=..., or set ${variable}")
    # What refers to another place is resolved there.
    if value == mask_settings(value, key) or (isinstance(value, str) and "${" in value):
        return argument
    if isinstance(value, dict | list):
        raise UserError(f"{key} holds a secret, which must be a setting of its own: {key}.<name>=...")
    os.environ[variable] = str(value)
    return f"{key}=${{oc.env:{variable}}}"


def check_masked(cfg: DictConfig) -> None:
    """Refuse settings that hold a mask instead of a secret."""
    masked = [key for key, value in flatten(OmegaConf.to_container(cfg)) if MASK in str(value)]
    if masked:
        raise UserError(f"{', '.join(masked)} is masked ({MASK}), as run folders keep no secrets; give it again")


class MaskingFormatter(logging.Formatter):
    """Masks secrets in a line of a log, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The masked line."""
        return mask_text(super().format(record))


class MaskHydraFiles(Callback):
    """Masks secrets, of an option's own YAML file, in `.hydra/` and `multirun.yaml` as soon as Hydra has written them."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Mask the files of this job, and of the sweep that it belongs to."""
        folder = Path(config.hydra.runtime.output_dir, config.hydra.output_subdir or ".hydra")
        for path in (*folder.glob("*.yaml"), *Path(config.hydra.sweep.dir).glob("multirun.yaml")):
            content = read_plain_yaml(path)
            masked = mask_settings(content)
            if masked != content:
                write_text(path, OmegaConf.to_yaml(OmegaConf.create(masked)))
