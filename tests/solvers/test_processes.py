"""The solver among threads, forks, pickles and folders that cannot be written to; and what an import must not do."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_puzzlemix import MixDraw, MixResult, PuzzleMix, PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.solvers.threads import available_threads, run_slices


def run(code: str, expect: int = 0, **options: Any) -> str:
    """Run code in a Python of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=170, check=False, **options
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout.strip()


def batch(seed: int = 0, count: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((count, 3, 32, 32), generator=generator)
    saliency = torch.rand((count, 32, 32), generator=generator) ** 4
    return images, saliency, torch.randperm(count, generator=generator)


def mix(seed: int = 0, threads: int | None = 2) -> MixResult:
    """Mix a batch on 16 x 16 blocks."""
    images, saliency, permutation = batch(seed)
    config = PuzzleMixConfig(threads=threads, transport_size=1)
    return puzzle_mix(images, saliency, permutation=permutation, lam=0.5, blocks_per_side=16, config=config)


@pytest.mark.parametrize("threads", [2, 3, 7, 64, None])
def test_threads_do_not_change_the_result(threads: int | None) -> None:
    one, several = mix(threads=1), mix(threads=threads)
    assert torch.equal(one.mask, several.mask)
    assert torch.equal(one.images, several.images)


def _child(queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put(mix().mask.numpy())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_works_in_a_forked_child_after_the_parent_did() -> None:
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = mix().mask.numpy()
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_child, args=(queue,))
        child.start()
        child.join(60)
        alive = child.is_alive()
        if alive:
            child.kill()
            child.join()
        assert not alive, "the child hangs"
        assert child.exitcode == 0
        np.testing.assert_array_equal(queue.get(), expected)
    finally:
        torch.set_num_threads(torch_threads)


def test_works_from_several_threads_at_once() -> None:
    expected = [mix(seed).mask for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: mix(seed).mask, range(8)))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_works_from_several_threads_that_wish_for_different_numbers_of_threads() -> None:
    """More kinds of pools than are kept: those in use must live on."""
    expected = [mix(seed).mask for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda seed: mix(seed, threads=2 + seed % 6).mask, range(12)))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_child_forked_while_the_parent_solves_has_threads_of_its_own() -> None:
    """As the workers of a DataLoader are; only the solver, since torch's own threads do not survive a fork."""
    working, leave = threading.Event(), threading.Event()

    def wait(start: int, stop: int) -> None:
        if start:
            working.set()
        leave.wait(60)

    busy = threading.Thread(target=run_slices, args=(wait, 4, 2))
    busy.start()
    assert working.wait(60)
    child = os.fork()
    if child == 0:
        seen: list[int] = []
        try:
            run_slices(lambda start, stop: seen.extend(range(start, stop)), 6, 2)
        finally:
            # Never back into pytest, which runs in the parent.
            os._exit(0 if sorted(seen) == list(range(6)) else 1)
    leave.set()
    busy.join(60)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copied_mixer_mixes_alike(duplicate: Callable[[PuzzleMix], PuzzleMix]) -> None:
    images, _, permutation = batch()
    mixer = PuzzleMix(PuzzleMixConfig(threads=2), clean_weight=0.5, adversarial_prob=0.1)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    draw, targets = MixDraw(permutation, 0.5, 16), torch.arange(7) % 3
    expected = mixer(model, images, targets, draw)
    again = duplicate(mixer)
    assert again.config == mixer.config
    assert again.config.threads == 2
    assert (again.clean_weight, again.adversarial_prob) == (0.5, 0.1)
    assert torch.equal(again(model, images, targets, draw).images, expected.images)


@pytest.mark.parametrize(("count", "threads"), [(0, 2), (1, 4), (5, 1), (5, 2), (5, 5), (5, 9), (100, 3)])
def test_slices_cover_everything_once(count: int, threads: int) -> None:
    seen, lock = [], threading.Lock()

    def work(start: int, stop: int) -> None:
        with lock:
            seen.extend(range(start, stop))

    run_slices(work, count, threads)
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("bad", [0, 3, 9])
def test_an_error_in_any_slice_is_raised(bad: int) -> None:
    def work(start: int, stop: int) -> None:
        if start <= bad < stop:
            raise KeyError(bad)

    with pytest.raises(KeyError):
        run_slices(work, 10, 3)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes before")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("bad", [0, 4, 9])
def test_an_error_names_its_sample(bad: int, threads: int) -> None:
    def work(start: int, stop: int) -> None:
        if start <= bad < stop:
            raise ZeroDivisionError("division by zero")

    with pytest.raises(ZeroDivisionError, match=r"^division by zero\n.*sample") as caught:
        run_slices(work, 10, threads)
    assert caught.value.__notes__ == [f"Puzzle Mix: raised while solving sample {bad} of the batch"]


def test_of_several_errors_the_first_samples_is_raised_after_all_have_ended() -> None:
    ended = []

    def work(start: int, stop: int) -> None:
        time.sleep(0.05 * start)
        ended.append(start)
        raise KeyError(start)

    with pytest.raises(KeyError, match="0"):
        run_slices(work, 3, 3)
    assert {0, 1, 2} <= set(ended)


def test_an_interrupt_is_not_repeated_sample_by_sample() -> None:
    calls = []

    def work(start: int, stop: int) -> None:
        calls.append((start, stop))
        if start == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_slices(work, 10, 2)
    assert sorted(calls) == [(0, 5), (5, 10)]


@pytest.mark.parametrize("allowed", [0, 1])
def test_where_no_thread_can_be_started_the_callers_own_does_the_work(
    allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def limited(self: threading.Thread) -> None:
        if len(started) >= allowed:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    seen = np.zeros(12, np.int64)

    def work(begin: int, end: int) -> None:
        seen[begin:end] = 1

    # A number of threads that no other test has made a pool for.
    run_slices(work, 12, 11 - allowed)
    assert seen.all()


@pytest.mark.parametrize(("world", "divisor"), [("1", 1), ("2", 2), ("1000", 1000), ("", 1), ("0", 1), ("two", 1)])
def test_cores_are_shared_among_local_processes(world: str, divisor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", world)
    assert available_threads() == max(1, cores // divisor)


def test_the_import_is_light() -> None:
    code = """
import sys, threading
import lightning_puzzlemix
heavy = ("numba", "matplotlib", "hydra", "wandb", "torchvision", "sklearn", "lightning", "gco")
print([name for name in heavy if name in sys.modules and name not in before])
print([thread.name for thread in threading.enumerate() if "puzzlemix" in thread.name])
"""
    # What pytorch_lightning itself imports is not this package's doing.
    found = run("import sys, torch, pytorch_lightning, torchmetrics\nbefore = set(sys.modules)\n" + code)
    assert found.splitlines() == ["[]", "[]"]
