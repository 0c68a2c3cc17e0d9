"""Threads for the compiled kernels: made at first use, shared by all callers, remade after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

# Up to here a whole batch is solved sooner than a second thread has started.
_SERIAL_BLOCKS_PER_SIDE = 4


def available_threads() -> int:
    """Return this process's share of the cores: those it may run on, divided among the processes of the machine.

    The number of training processes on the machine is read from ``LOCAL_WORLD_SIZE`` (set by torchrun); the callback
    knows it from its Trainer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cores // int(processes)) if processes.isdigit() and int(processes) > 0 else cores


def solver_threads(wished: int | None, blocks_per_side: int) -> int:
    """Return how many threads work on a batch with this grid; ``None`` wishes for this process's share of the cores."""
    if blocks_per_side <= _SERIAL_BLOCKS_PER_SIDE:
        return 1
    return available_threads() if wished is None else wished


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # The process is part of the key: after a fork the parent's pool is a husk without threads and must not be used.
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="puzzlemix")


def run_slices(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Call ``work(start, stop)`` for slices that cover ``range(count)``, on several threads at once.

    Args:
        work: Releases the GIL to gain anything; an exception in it is raised here.
        count: Number of items.
        threads: At most so many slices; with one the caller's own thread does the work.
    """
    threads = min(threads, count)
    if threads <= 1:
        work(0, count)
        return
    borders = [count * index // threads for index in range(threads + 1)]
    pool = _pool(threads - 1, os.getpid())
    futures = [pool.submit(work, start, stop) for start, stop in pairwise(borders[1:])]
    try:
        work(borders[0], borders[1])
    finally:
        for future in futures:
            future.result()
