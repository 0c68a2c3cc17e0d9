"""Find the metrics of a module, also those in plain lists and dicts, which torch does not count as children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torchmetrics
from torch import nn

# Longer containers hold data and would be searched in every batch.
_MAX_LENGTH = 64
_MAX_DEPTH = 3


def find_metrics(module: nn.Module) -> dict[torchmetrics.Metric, str]:
    """Return the metrics below a module with their names, each once."""
    found = {each: name for name, each in module.named_modules() if isinstance(each, torchmetrics.Metric)}
    for name, each in module.named_modules():
        if each in found:
            continue
        for attribute, value in each.__dict__.items():
            for place, metric in _search(value, f"{name}.{attribute}" if name else attribute, _MAX_DEPTH):
                found.setdefault(metric, place)
    return found


def _search(value: Any, place: str, depth: int) -> Iterator[tuple[str, torchmetrics.Metric]]:
    """Find metrics that are not children: attributes set past torch, and entries of plain containers."""
    if isinstance(value, torchmetrics.Metric):
        yield place, value
    elif isinstance(value, torchmetrics.MetricCollection):
        inside = value.named_modules()
        yield from ((f"{place}.{name}", each) for name, each in inside if isinstance(each, torchmetrics.Metric))
    elif depth and isinstance(value, (Mapping, list, tuple)) and 0 < len(value) <= _MAX_LENGTH:
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, entry in entries:
            yield from _search(entry, f"{place}[{key!r}]", depth - 1)
