"""Nested settings as plain values, and YAML files of run folders, which may be somebody else's."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from experiments.common.errors import UserError

MOST_BYTES, MOST_LEVELS = 4_000_000, 40


class _PlainLoader(get_yaml_loader()):  # type: ignore[misc]
    """Reads values alone: no tags of Python, and no aliases, by which a few lines could stand for billions.

    From OmegaConf's loader, which has no public name: numbers such as 1e-3 are read as Hydra reads them.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is neither an alias nor nested too deep."""
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name), which no run writes")
        if self.depth > MOST_LEVELS:
            raise yaml.YAMLError(f"it is nested in more than {MOST_LEVELS} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_plain_yaml(path: Path) -> Any:
    """Nested mappings, lists and values of a YAML file; interpolations (`${...}`) stay text.

    Raises:
        UserError: If it cannot be read, or holds what no run writes: tags, aliases, megabytes, a link out of its
            folder.
    """
    try:
        if leads_out(path):
            raise ValueError(f"it is a link to {path.resolve()}, out of its folder; put the file itself there")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        return yaml.load(content.decode(), Loader=_PlainLoader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        # Without the lines themselves, which YAML would quote.
        reason = " ".join(str(getattr(error, "problem", None) or str(error).partition("\n")[0]).split())
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
