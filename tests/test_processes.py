"""The solver among threads, forks, pickles and folders that cannot be written to; and what an import must not do."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_puzzlemix import MixDraw, MixResult, PuzzleMix, PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.threads import available_threads, run_slices


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
