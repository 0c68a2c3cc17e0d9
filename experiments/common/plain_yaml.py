"""Nested settings as plain values, and YAML files of run folders, which may be somebody else's."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from experiments.common.errors import UserError

# Reads 1e-3 as Hydra does, and no objects of Python.
LOADER = get_yaml_loader()


def read_plain_yaml(path: Path) -> Any:
    """Plain values of a YAML file, references as text; no tags, aliases, megabytes or links out of its folder: a UserError."""
    try:
        if leads_out(path):
            raise ValueError(f"it is a link to {path.resolve()}, out of its folder; put the file itself there")
        if path.stat().st_size > 4_000_000:
            raise ValueError("it has more than 4 MB")
        text = path.read_text("utf-8")
        # By aliases, a few lines stand for billions.
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, LOADER)):
            raise ValueError("it holds an alias (*name), which no run writes")
        return yaml.load(text, LOADER)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        # Without the lines themselves, which YAML would quote.
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read: {reason}") from error


def leads_out(path: Path) -> bool:
    """Whether a file or folder is a link to somewhere else than below the folder that it lies in."""
    return path.is_symlink() and not path.resolve().is_relative_to(path.absolute().parent.resolve())


def flatten(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested mappings by dotted key; a list is one value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
