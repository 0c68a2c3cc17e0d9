"""Compiled kernels are kept on disk; where that may write nowhere, they are compiled in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_puzzlemix

PACKAGE = Path(lightning_puzzlemix.__file__).parent
MIX_ONE = """
import torch
from lightning_puzzlemix import puzzle_mix
torch.manual_seed(0)
images, saliency = torch.rand(4, 3, 32, 32), torch.rand(4, 32, 32)
result = puzzle_mix(images, saliency, permutation=torch.tensor([1, 0, 3, 2]), lam=0.5, blocks_per_side=16)
print("mixed", f"{result.images.double().sum():.6f}")
"""
NO_LOCATORS = """
import numba.core.caching as caching
cache = getattr(caching, "CacheImpl", None) or caching._CacheImpl
locators, cache._locator_classes = cache._locator_classes, []
import numba
try:
    numba.njit(cache=True)(lambda x: x)
except RuntimeError as error:
    assert "no locator" in str(error), error
else:
    raise SystemExit("numba found a folder after all")
"""
IN_MEMORY = """
from lightning_puzzlemix.solvers.maxflow import minimize_labels
assert type(minimize_labels._cache).__name__ == "NullCache", minimize_labels._cache
"""


def run(code: str) -> str:
    """Run code in a Python of its own and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def expected() -> str:
    return run(MIX_ONE)


def test_compiles_in_memory_where_numba_finds_no_folder(expected: str) -> None:
    """Numba's own error, brought about by leaving it no place to look for."""
    assert run(NO_LOCATORS + MIX_ONE + IN_MEMORY) == expected


@pytest.mark.slow
def test_mixes_alike_with_damaged_and_with_kept_kernels(expected: str, tmp_path: Path) -> None:
    """The solver itself, in processes of their own; with small kernels test_kernel_cache.py tries all that may happen."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}

    def mix() -> tuple[str, str]:
        command = [sys.executable, "-c", MIX_ONE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=True, env=environment)
        return done.stdout.strip(), done.stderr

    assert mix() == (expected, "")
    files = list(tmp_path.rglob("*.kernel"))
    assert len(files) == 2
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    found, said = mix()
    assert (found, said.count("Puzzle Mix:")) == (expected, 1)
    assert "is damaged" in said
    assert mix() == (expected, "")


@pytest.fixture
def read_only_copy() -> Iterator[Path]:
    """A copy of the package that everyone may read and no one write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (*folder.rglob("*"), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_compiles_in_memory_for_a_user_who_may_write_nowhere(expected: str, read_only_copy: Path) -> None:
    pwd = pytest.importorskip("pwd")
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("there is no user nobody")
    # Compiled once as root, so that all modules are loaded that the other user might not be allowed to read.
    become_nobody = f"""
import os, sys
cache._locator_classes = locators
for name in [name for name in sys.modules if name.startswith("lightning_puzzlemix")]:
    del sys.modules[name]
for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.environ["HOME"] = "/nonexistent"
os.setgroups([])
os.setgid({nobody.pw_gid})
os.setuid({nobody.pw_uid})
sys.path.insert(0, {str(read_only_copy)!r})
import lightning_puzzlemix
assert lightning_puzzlemix.__file__.startswith({str(read_only_copy)!r}), lightning_puzzlemix.__file__
"""
    found = run(NO_LOCATORS + MIX_ONE + become_nobody + MIX_ONE + IN_MEMORY)
    assert found.splitlines() == [expected, expected]
