"""Specs of the dashboard as its dry run writes them, for tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from experiments.dashboard import main

Spec = dict[str, Any]


def write_specs(folder: Path, *arguments: str) -> dict[str, Spec]:
    """Run `--dry-run` and return workspace and report by name; asking W&B for anything is an error."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("asked W&B")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "Api", refuse)
        main(["--dry-run", "--output", str(folder / "spec.json"), *arguments])
    specs: dict[str, Spec] = json.loads((folder / "spec.json").read_text())
    return specs


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def panels(specs: Any, kind: str) -> list[dict[str, Any]]:
    """The settings of all panels of a kind, in W&B's words."""
    return [node["config"] for node in walk(specs) if node.get("viewType") == kind]
