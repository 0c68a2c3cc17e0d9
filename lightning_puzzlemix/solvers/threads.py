"""Threads for the compiled kernels: made at first use, shared by all callers, remade after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
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


def solver_threads(threads: int | None, blocks_per_side: int) -> int:
    """Return how many threads solve a batch with this grid; ``None`` is this process's share of the cores."""
    if blocks_per_side <= _SERIAL_BLOCKS_PER_SIDE:
        return 1
    return available_threads() if threads is None else threads


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # The process is part of the key: after a fork the parent's pool has no threads.
    del process
    return ThreadPoolExecutor(threads, thread_name_prefix="puzzlemix")


def run_slices(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Call ``work(start, stop)`` for slices that cover ``range(count)``, on several threads at once.

    Args:
        work: Releases the GIL to gain anything. It must be safe to repeat, which finds the sample that an error belongs to.
        count: Number of items.
        threads: At most so many slices; with one the caller's own thread does the work.

    Raises:
        Exception: What ``work`` raised first in the order of the samples, with a note that names the sample (from Python
            3.11 on); not before all slices have ended, so that none writes into arrays that are used again.
    """
    threads = min(threads, count)
    borders = [count * index // max(threads, 1) for index in range(threads + 1)] if threads > 1 else [0, count]
    slices = list(pairwise(borders))
    futures: list[Future[None]] = []
    try:
        for start, stop in slices[1:]:
            futures.append(_pool(threads - 1, os.getpid()).submit(work, start, stop))
    except RuntimeError:
        # No further thread can be started (a limit on processes, or Python is about to exit): the caller's own works on.
        pass
    own = [slices[0], *slices[1 + len(futures) :]]
    try:
        for start, stop in own:
            _run_slice(work, start, stop)
    finally:
        wait(futures)
    for future, (start, stop) in zip(futures, slices[1:], strict=False):
        error = future.exception()
        if error is not None:
            _name_sample(error, work, start, stop)
            raise error


def _run_slice(work: Callable[[int, int], None], start: int, stop: int) -> None:
    try:
        work(start, stop)
    except Exception as error:
        _name_sample(error, work, start, stop)
        raise


def _name_sample(error: BaseException, work: Callable[[int, int], None], start: int, stop: int) -> None:
    """Add to the error of a slice which of its samples it comes from, found by solving them one after the other."""
    where = f"samples {start} to {stop - 1}"
    for sample in range(start, stop):
        try:
            work(sample, sample + 1)
        except Exception:
            where = f"sample {sample}"
            break
    if hasattr(error, "add_note"):
        error.add_note(f"Puzzle Mix: raised while solving {where} of the batch")
