"""Overrides in Hydra's grammar: `key=value`."""

import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


def key_of(text: str) -> str:
    """The key of an override, without the sign before it and the package behind it."""
    return text.split("=")[0].lstrip("+~").split("@")[0]


def parse_value(text: str) -> Any:
    """The plain value of an override, its references as text; None also where it is no override or sets several values."""
    try:
        parsed = OverridesParser.create().parse_override(text)
        return None if parsed.is_sweep_override() else parsed.value()
    except (HydraException, OmegaConfBaseException, ValueError):
        return None


def override(key: str, value: str | Path) -> str:
    """`key=value` such that Hydra reads exactly this text: in quotes where it would take it for anything else."""
    text = str(value)
    return f"{key}={text if '${' not in text and parse_value(f'{key}={text}') == text else quote(text)}"


def quote(text: str) -> str:
    """A text in Hydra's quotes, which neither its grammar nor OmegaConf's interpolations read anything into."""
    quoted = QuotedString(text, Quote.single).with_quotes()
    # Of the backslashes before "${", each has to be doubled as well.
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", quoted)
