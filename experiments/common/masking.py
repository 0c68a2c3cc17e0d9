"""Secrets among the settings: those of the command line travel by the environment; whatever is written has them masked."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.common.errors import UserError

MASK = "***"
# Of the environment variable that holds a secret of the command line, in front of its key.
VARIABLE = "PUZZLEMIX_SECRET_"
# Words of a key that tell a secret wherever they stand, or as its last one.
TELLING = {
    "password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "apikey", "authorization",
}  # fmt: skip
LAST = {"token", "auth", "pwd", "pass", "pw", "key", "cookie"}
JOINED = (
    "apikey",
    "secretkey",
    "accesskey",
    "privatekey",
    "authkey",
    "apitoken",
    "authtoken",
    "accesstoken",
    "password",
)
# `key` with one of these, or alone; `group_key` is none.
KEYS_OF = {
    "api", "access", "private", "secret", "account", "auth", "ssh", "signing", "encryption", "master", "license", "service",
    "subscription", "shared", "session", "wandb", "comet", "neptune",
}  # fmt: skip
WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
# Refers to a secret without holding it: an environment variable without a default, or another setting.
REFERENCE = re.compile(r"\$\{(?:oc\.env:\w+|[\w.]+)\}")
OURS = re.compile(rf"\$\{{oc\.env:({VARIABLE}\w+)\}}")
OVERRIDE = re.compile(r"([+~]*[\w./@-]+)=(.*)", re.DOTALL)
PAIR = re.compile(
    rf"([\w.-]*(?:{'|'.join([*TELLING, *LAST])})[\w-]*)"
    r"([\"']?\s*[=:]\s*)(\$\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^\s,;&(){}\[\]\"']+)",
    re.IGNORECASE,
)
LOGIN = re.compile(r"(\b[A-Za-z][\w+.-]*://)([^\s/?#\"'<>]+)@")
# Secrets that are known by how they look.
SHAPES = re.compile(
    r"\b(?:sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{16,}|AKIA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|wandb_v\d_\w{16,}|AIza[\w-]{30,})"
    r"|(?<=Bearer )[\w.~+/=-]{8,}|(?<=Basic )[\w.~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# Shorter ones would be found within other words.
SHORTEST = 6
LONG_LOGIN = 16

_known: set[str] = set()


class MaskingFormatter(logging.Formatter):
    """Masks what looks like a secret in a line of a log, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        """The masked line."""
        return mask_text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The masked message, which some handlers ask for by itself."""
        return mask_text(super().formatMessage(record))


def is_secret_key(key: object) -> bool:
    """Whether a setting of this name holds a secret, by its last part: `logger.api_key`, `dbPassword`."""
    words = [word.lower() for word in WORDS.findall(str(key).rpartition(".")[2])]
    if not words:
        return False
    if TELLING & set(words) or words[-1].endswith(JOINED):
        return True
    if words[-1] == "key":
        return len(words) == 1 or words[-2] in KEYS_OF
    return words[-1] in LAST


def remember(*secrets: str) -> None:
    """Have these texts masked in everything, wherever they turn up."""
    _known.update(secret for secret in secrets if len(secret) >= SHORTEST)


def mask_text(text: str) -> str:
    """A text without what looks like a secret: after a telling key, in a URL, of a known form, or known from elsewhere."""
    # A text of several lines is none.
    override = None if "\n" in text else OVERRIDE.fullmatch(text)
    if override and is_secret_key(override[1]):
        return f"{override[1]}={_mask_value(override[2])}"
    strict = override is not None and override[2].lstrip("'\"").startswith("{")
    text = SHAPES.sub(MASK, LOGIN.sub(_mask_login, text))
    text = PAIR.sub(lambda pair: _mask_pair(pair, strict=strict), text)
    for secret in sorted({*_known, *_secrets_of_environment()}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def mask_texts(texts: Iterable[object]) -> list[str]:
    """Each of them masked, such as the overrides of a command line, as they were typed: references are not resolved."""
    texts = OmegaConf.to_container(texts) if isinstance(texts, ListConfig) else texts
    return [mask_text(str(text)) for text in texts]


def mask_settings(node: Any, *, secret: bool = False) -> Any:
    """The same nested mappings and lists, with masked values.

    Args:
        node: Plain, without interpolations that are to be resolved.
        secret: Whether the key that it stands below tells that it is a secret.
    """
    if isinstance(node, Mapping):
        return {key: mask_settings(value, secret=secret or is_secret_key(key)) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [mask_settings(value, secret=secret) for value in node]
    if node is None or isinstance(node, bool):
        return node
    if secret:
        return _mask_value(node)
    return mask_text(node) if isinstance(node, str) else node


def mask_config(cfg: DictConfig) -> DictConfig:
    """The resolved config with masked values, to be written, shown, or compared with one that was written."""
    return OmegaConf.create(mask_settings(OmegaConf.to_container(cfg, resolve=True)))


def hide_secrets(arguments: Sequence[str]) -> list[str]:
    """Command line arguments in which secrets are replaced by references to environment variables, which are set.

    So whatever writes the command line down writes the reference, and the processes that it is handed on to find the secret
    in their environment: jobs of a sweep, processes of a training.

    Args:
        arguments: Overrides for Hydra, and its options.

    Raises:
        UserError: If an argument is the mask of a secret, or refers to one that an earlier command hid.
    """
    return [_hide(argument) for argument in arguments]


def check_masked(cfg: DictConfig | ListConfig) -> None:
    """Refuse settings that hold a mask instead of a secret.

    Raises:
        UserError: If there are some; it names them.
    """
    masked = sorted(_find_masked(OmegaConf.to_container(cfg), ""))
    if masked:
        raise UserError(
            f"{', '.join(masked)} is masked ({MASK}), as run folders keep no secrets; give it again, or leave it to the "
            "environment (W&B reads WANDB_API_KEY)"
        )


def _hide(argument: str) -> str:
    found = OVERRIDE.fullmatch(argument)
    if found is None:
        return argument
    key = found[1].lstrip("+~")
    for variable in OURS.findall(argument):
        if variable not in os.environ:
            raise UserError(
                f"{key} was kept out of the run's files, and is asked for again: give {key}=..., or set the environment "
                f"variable {variable}"
            )
    try:
        override = OverridesParser.create().parse_override(argument)
        value = None if override.is_sweep_override() else override.value()
    except (HydraException, ValueError):
        return argument
    hidden = _hide_value(value, key, secret=is_secret_key(key))
    if hidden == value:
        return argument
    # Hydra's own way of writing a value, quotes included; it takes the references for text.
    written = Override._get_value_element_as_str(hidden)
    return f"{found[1]}=" + re.sub(r"\$\\\{oc\.env\\:(\w+)\\\}", r"${oc.env:\1}", written)


def _hide_value(value: Any, key: str, *, secret: bool) -> Any:
    if isinstance(value, dict):
        return {
            name: _hide_value(each, f"{key}.{name}", secret=secret or is_secret_key(name))
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_hide_value(each, f"{key}.{place}", secret=secret) for place, each in enumerate(value)]
    if secret and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    text = value.text if isinstance(value, QuotedString) else value
    # What refers to another place is resolved there.
    if not isinstance(text, str) or not text or "${" in text:
        return value
    if text == MASK and secret:
        check_masked(OmegaConf.create({key: text}))
    if not secret and mask_text(text) == text:
        return value
    variable = VARIABLE + re.sub(r"\W+", "_", key).strip("_").upper()
    os.environ[variable] = text
    remember(text)
    return f"${{oc.env:{variable}}}"


def _mask_value(value: object) -> str:
    text = str(value)
    return text if not text or REFERENCE.fullmatch(text.strip("'\"")) or text in ("null", "true", "false") else MASK


def _mask_pair(pair: re.Match[str], *, strict: bool) -> str:
    key, separator, value = pair.groups()
    if not is_secret_key(key) or value == MASK:
        return pair[0]
    # In prose, "token: ..." may be followed by any word; a secret has digits.
    words = {word.lower() for word in WORDS.findall(key.rpartition(".")[2])}
    if (
        "=" not in separator
        and not strict
        and words <= LAST
        and not (len(value) >= SHORTEST and re.search(r"\d", value))
    ):
        return pair[0]
    return f"{key}{separator}{_mask_value(value)}"


def _mask_login(url: re.Match[str]) -> str:
    name, colon, _ = url[2].partition(":")
    if colon:
        return f"{url[1]}{name}:{MASK}@"
    # A token in place of a name.
    return f"{url[1]}{MASK if len(name) >= LONG_LOGIN else name}@"


def _secrets_of_environment() -> Iterable[str]:
    for name, value in os.environ.items():
        # Paths are none: the working directory is in PWD, and a file of credentials may be named.
        if len(value) > SHORTEST and not value.startswith(("/", "~")) and is_secret_key(name):
            yield value


def _find_masked(node: Any, prefix: str) -> Iterable[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _find_masked(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from _find_masked(value, f"{prefix}.{place}")
    elif isinstance(node, str) and (node == MASK or f":{MASK}@" in node):
        yield prefix
