"""How it is measured: times in turns, memory, operations; and the tables that show it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Metrics = dict[str, Any]
Candidates = Mapping[str, Callable[[], object]]
# Operations that only allocate, or make a view that their schema does not call one.
WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}


def time_interleaved(rounds: int, candidates: Candidates, *, repeats: int = 1) -> dict[str, float]:
    """Run the candidates in turns, one round unmeasured, and return the median milliseconds of each.

    Of ``repeats`` calls in a row the mean counts; on a CUDA device they are queued together and then waited for.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            wait()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_device_memory(run: Callable[[], object]) -> float | None:
    """Return the most MiB that were allocated on the CUDA device during a call; None, without one: there is no device."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**20


class OperationCounter(TorchDispatchMode):
    """Counts the ATen operations that compute or copy values: on a device, each launches a kernel or more."""

    launches = 0  # views and mere allocations do not count
    largest = 0  # elements of the largest tensor that any operation returned

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        self.launches += not func.is_view and func.overloadpacket.__name__ not in WITHOUT_KERNEL
        sizes = [value.numel() for value in tree_leaves(result) if isinstance(value, Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


def print_table(title: str, rows: Mapping[str, Metrics]) -> None:
    """Print numbers by row and column; the columns are the keys of the first row."""
    # Not installed on every machine that measures.
    from rich import box, get_console
    from rich.table import Column, Table

    names = Column("", no_wrap=True)
    table = Table(names, *next(iter(rows.values())), title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    get_console().print(table)
