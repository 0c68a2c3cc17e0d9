"""Secrets in the settings: those of the command line move into the environment; in whatever is written they are masked."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.common.errors import UserError
from experiments.common.overrides import parse_value, write_value
from experiments.common.plain_yaml import flatten

MASK = "***"
# The environment variable that holds a secret of the command line: this, and the key.
VARIABLE = "PUZZLEMIX_SECRET_"
# Of a key in lower case, its words joined by "_": `group_key` and `num_tokens` hold no secrets.
SECRET_KEY = re.compile(
    r"password|passphrase|passwd|(^|_)(secrets?|credentials?|authorization)(_|$)|(^|_)(token|auth|pwd|pass|pw|cookie)$"
    r"|(api|access|private|secret|account|auth|ssh|signing|encryption|master|license|service|subscription|shared|session"
    r"|wandb|comet|neptune)_?(key|token)$|^key$"
)
# Refers to a secret without holding it: an environment variable without a default, or another setting.
REFERENCE = re.compile(r"\$\{(?:oc\.env:\w+|[\w.]+)\}")
OVERRIDE = re.compile(r"([+~]*[\w./@-]+)=(.*)", re.DOTALL)
PAIR = re.compile(
    r"([\w.-]*(?:pass|pwd|pw|secret|credential|auth|token|cookie|key)[\w-]*)"
    r"([\"']?\s*[=:]\s*)(\$\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^\s,;&(){}\[\]\"']+)",
    re.IGNORECASE,
)
LOGIN = re.compile(r"(\b[A-Za-z][\w+.-]*://)([^\s/?#\"'<>]+)@")
# Secrets that are recognized by their form.
FORMS = re.compile(
    r"\b(?:sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{16,}|AKIA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|wandb_v\d_\w{16,}|AIza[\w-]{30,})"
    r"|(?<=Bearer )[\w.~+/=-]{8,}|(?<=Basic )[\w.~+/=-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# Shorter secrets would be found within other words; a login without a password is a token from this length on.
SHORTEST, LONG_LOGIN = 6, 16

_known: set[str] = set()


def is_secret_key(key: object) -> bool:
    """Whether a setting of this name holds a secret, by its last part: `logger.api_key`, `dbPassword`."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(key).rpartition(".")[2])
    return SECRET_KEY.search(name.lower().replace("-", "_")) is not None


def mask_text(text: str) -> str:
    """A text without secrets: after a key that names one, in a URL, of a known form, or of the environment."""
    override = None if "\n" in text else OVERRIDE.fullmatch(text)
    if override and is_secret_key(override[1]):
        return f"{override[1]}={_mask_value(override[2])}"
    text = FORMS.sub(MASK, LOGIN.sub(_mask_login, text))
    text = PAIR.sub(_mask_pair, text)
    of_environment = {
        value
        for name, value in os.environ.items()
        # Paths are none: the working directory is in PWD, and a file of credentials may be named.
        if len(value) > SHORTEST and not value.startswith(("/", "~")) and is_secret_key(name)
    }
    for secret in sorted(_known | of_environment, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def mask_texts(texts: Iterable[object]) -> list[str]:
    """Each text masked, such as the overrides of a command line, as they were typed: references are not resolved."""
    texts = OmegaConf.to_container(texts) if isinstance(texts, ListConfig) else texts
    return [mask_text(str(text)) for text in texts]


def mask_settings(node: Any, *, secret: bool = False) -> Any:
    """Nested plain mappings and lists with masked values; `secret`: they belong to a key that names a secret."""
    if isinstance(node, Mapping):
        return {key: mask_settings(value, secret=secret or is_secret_key(key)) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [mask_settings(value, secret=secret) for value in node]
    if secret and node is not None and not isinstance(node, bool):
        return _mask_value(node)
    return mask_text(node) if isinstance(node, str) else node


def mask_config(cfg: DictConfig) -> DictConfig:
    """The resolved config with masked values, to be written, shown, or compared with one that was written."""
    return OmegaConf.create(mask_settings(OmegaConf.to_container(cfg, resolve=True)))


def hide_secrets(arguments: Sequence[str]) -> list[str]:
    """Command line arguments in which secrets are replaced by references to environment variables, which are set.

    So whatever records the command line records the reference, and the processes that it is passed on to find the secret
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
    content = dict(flatten({"": OmegaConf.to_container(cfg)}))
    masked = sorted(key for key, value in content.items() if re.search(r"^\*{3}$|'\*{3}'|:\*{3}@", str(value)))
    if masked:
        raise UserError(
            f"{', '.join(key.lstrip('.') for key in masked)} is masked ({MASK}), as run folders keep no secrets; give it "
            "again, or leave it to the environment (W&B reads WANDB_API_KEY)"
        )


def _hide(argument: str) -> str:
    found = OVERRIDE.fullmatch(argument)
    if found is None:
        return argument
    key = found[1].lstrip("+~")
    for variable in re.findall(rf"\$\{{oc\.env:({VARIABLE}\w+)\}}", argument):
        if variable not in os.environ:
            raise UserError(
                f"{key} was kept out of the run's files, and is asked for again: give {key}=..., or set the environment "
                f"variable {variable}"
            )
    value = parse_value(argument)
    if is_secret_key(key):
        check_masked(OmegaConf.create({key: value}))
    hidden = _hide_value(value, mask_settings({key: value})[key], key)
    return argument if hidden == value else f"{found[1]}={write_value(hidden)}"


def _hide_value(value: Any, masked: Any, key: str) -> Any:
    """The value with references in place of what differs from the masked value."""
    if isinstance(value, dict):
        return {name: _hide_value(each, masked[name], f"{key}.{name}") for name, each in value.items()}
    if isinstance(value, list):
        return [_hide_value(each, masked[place], f"{key}.{place}") for place, each in enumerate(value)]
    # What refers to another place is resolved there.
    if value == masked or "${" in str(value):
        return value
    variable = VARIABLE + re.sub(r"\W+", "_", key).strip("_").upper()
    os.environ[variable] = str(value)
    if len(str(value)) >= SHORTEST:
        _known.add(str(value))
    return f"${{oc.env:{variable}}}"


def _mask_value(value: object) -> str:
    text = str(value)
    return text if REFERENCE.fullmatch(text.strip("'\"")) or text in ("", "null", "true", "false") else MASK


def _mask_pair(pair: re.Match[str]) -> str:
    key, separator, value = pair.groups()
    if not is_secret_key(key):
        return pair[0]
    # In prose, "token: ..." may be followed by any word; a secret has digits.
    is_prose = (
        "=" not in separator and "{" not in pair.string[: pair.start()] and not re.search("pass.{3}|secret|cred", key)
    )
    if value == MASK or (is_prose and not re.search(r"^(?=.*\d).{6,}", value)):
        return pair[0]
    return f"{key}{separator}{_mask_value(value)}"


def _mask_login(url: re.Match[str]) -> str:
    name, colon, _ = url[2].partition(":")
    # Without a password, a long name is a token.
    return f"{url[1]}{name}:{MASK}@" if colon else f"{url[1]}{MASK if len(name) >= LONG_LOGIN else name}@"
