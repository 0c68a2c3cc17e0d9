"""Compiled kernels on disk: whatever happens to their folder, a run goes on, with the right kernels, and says so once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from platforms import needs_posix

from lightning_puzzlemix.solvers import kernel_cache
from lightning_puzzlemix.solvers.kernel_cache import DamagedKernelError, KernelCache, KernelFiles

KEY = (("float64", "int32"), ("x86_64", "cpu", "+avx"), ("digest of the bytecode",))
# A small kernel of our own: it compiles in a fraction of a second where those of the solver take 10 s.
MODULE = """
from lightning_puzzlemix.solvers.numba_runtime import kernel

@kernel
def double(value):
    return 2 * value
"""


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "_warned", set())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(MODULE)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Numba keeps kernels in this test."""
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def fresh(source: Path) -> Any:
    """Return the kernel of the module, as a process that has not compiled it yet has it."""
    names: dict[str, Any] = {"__name__": "small", "__file__": str(source)}
    exec(compile(source.read_text(), str(source), "exec"), names)
    return names["double"]


def hits(function: Any) -> int:
    return sum(function.stats.cache_hits.values())


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.kernel"))


def test_a_kept_kernel_is_read_and_not_compiled(source: Path, folder: Path) -> None:
    first, again = fresh(source), fresh(source)
    assert first(3) == 6
    assert (len(kept(folder)), hits(first)) == (1, 0)
    assert again(3) == 6
    assert hits(again) == 1
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".kernel"]


@pytest.mark.parametrize("left", [0, 1, 31, 64, 65, 0.5, 0.99])
def test_a_truncated_file_is_compiled_anew_and_said_once(left: float, source: Path, folder: Path) -> None:
    whole = fresh(source)
    whole(3), whole(1.5)
    for path in kept(folder):
        path.write_bytes(path.read_bytes()[: left if isinstance(left, int) else int(left * path.stat().st_size)])
    damaged = fresh(source)
    with pytest.warns(UserWarning, match="Puzzle Mix: a compiled kernel in .*kernels.* cannot be used"):
        assert damaged(3) == 6
    # The file of another signature, damaged too, is no news.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert damaged(1.5) == 3.0
    assert hits(damaged) == 0
    renewed = fresh(source)
    assert renewed(3) == 6
    assert hits(renewed) == 1


def test_no_flipped_bit_is_ever_executed(source: Path, folder: Path) -> None:
    """In the digests, in the pickle and in the machine code: all bits of a stride through the whole file."""
    fresh(source)(3)
    (path,) = kept(folder)
    whole = path.read_bytes()
    files = KernelFiles(path.parent, "any", source, {})
    files._path = lambda key: path  # type: ignore[method-assign]
    for bit in range(0, 8 * len(whole), 997):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedKernelError, match="is damaged"):
            files.load(KEY)


def test_a_whole_file_that_cannot_be_unpickled_is_compiled_anew(source: Path, folder: Path) -> None:
    """As after a change inside Numba that its version does not show."""
    compiled = fresh(source)
    compiled(3)
    cache = compiled._cache
    (key,) = [cache._index_key(signature, compiled.targetctx.codegen()) for signature in compiled.overloads]
    cache._cache_file.save(key, ("not", "a", "kernel"))
    again = fresh(source)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert again(3) == 6


def test_other_options_source_and_settings_do_not_share_kernels(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core import config

    def files(options: dict[str, Any]) -> KernelFiles:
        return KernelFiles(folder, "name", source, options)

    folder.mkdir()
    files({"nogil": True}).save(KEY, 1)
    assert files({"nogil": True}).load(KEY) == 1
    assert files({"nogil": True, "fastmath": True}).load(KEY) is None
    assert files({"nogil": True}).load((KEY[0], ("x86_64", "cpu", "+avx512"), KEY[2])) is None
    assert files({"nogil": True}).load((*KEY[:2], ("other bytecode",))) is None
    with monkeypatch.context() as patch:
        patch.setattr(config, "OPT", 1)
        assert files({"nogil": True}).load(KEY) is None
    with monkeypatch.context() as patch:
        patch.setattr("numba.__version__", "1000")
        assert files({"nogil": True}).load(KEY) is None
    with monkeypatch.context() as patch:
        # What changes no kernel costs no compilation.
        patch.setattr(config, "NUMBA_NUM_THREADS", 7)
        assert files({"nogil": True}).load(KEY) == 1
    source.write_text(MODULE + "\n# changed\n")
    assert files({"nogil": True}).load(KEY) is None
    files({"nogil": True}).save(KEY, 2)
    # The outdated one's place was taken.
    assert len(kept(folder)) == 1


def test_changed_source_is_compiled_anew_without_a_word(
    source: Path, folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert fresh(source)(3) == 6
    source.write_text(MODULE.replace("2 * value", "5 * value"))
    assert fresh(source)(3) == 15
    assert not [each for each in recwarn if "Puzzle Mix" in str(each.message)]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with no room for a kernel."""
    path = tmp_path / "full"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@needs_posix
def test_a_full_disk(source: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(full_disk))
    compiled = fresh(source)
    with pytest.warns(UserWarning, match=r"cannot be kept in .*full.*No space left.*NUMBA_CACHE_DIR"):
        assert compiled(3) == 6
    assert [path for path in full_disk.rglob("*") if path.is_file()] == []


def test_a_disk_that_fails_while_it_is_written_to(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    compiled = fresh(source)
    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.warns(UserWarning, match=r"cannot be kept in .*kernels.*No space left.*NUMBA_CACHE_DIR"):
        assert compiled(3) == 6
    assert kept(folder) == []


@needs_posix
@pytest.mark.parametrize("nonsense", ["/dev/null", "/dev/null/below", "/proc/kernels", "x" * 5000])
def test_a_nonsensical_setting(nonsense: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", nonsense)
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR=.*cannot be written to: compiled kernels are kept in"):
        compiled = fresh(source)
    assert compiled(3) == 6
    assert Path(compiled._cache.cache_path) == source.parent / "__pycache__"


def test_unknown_locators(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Numba itself gives up while it looks for a folder."""
    from numba.core import caching

    def refuses(*arguments: Any) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(caching.Cache, "__init__", refuses)
    with pytest.warns(UserWarning, match=r"cannot be kept on disk \(cannot cache function.*NUMBA_CACHE_DIR"):
        compiled = fresh(source)
    assert not isinstance(compiled._cache, KernelCache)
    assert compiled(3) == 6


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_wrote_is_not_run(source: Path, folder: Path) -> None:
    fresh(source)(3)
    (path,) = kept(folder)
    os.chown(path, 12345, 12345)
    foreign = fresh(source)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert foreign(3) == 6
    assert hits(foreign) == 0
    assert path.stat().st_uid == 0
    # The owner of the source is trusted: that code runs anyway.
    os.chown(source, 12345, 12345)
    os.chown(path, 12345, 12345)
    owned = fresh(source)
    assert owned(3) == 6
    assert hits(owned) == 1


def test_an_unreadable_file(source: Path, folder: Path) -> None:
    fresh(source)(3)
    (path,) = kept(folder)
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="Puzzle Mix") as said:
        assert fresh(source)(3) == 6
    assert any("IsADirectoryError" in str(each.message) for each in said)


def test_two_that_write_at_once(tmp_path: Path, source: Path) -> None:
    """Each reader finds nothing or the whole of what one of them wrote, and no file is left over."""
    values = [np.full(200_000, number) for number in range(4)]

    def write_and_read(value: np.ndarray) -> set[int]:
        files, found = KernelFiles(tmp_path, "name", source, {}), set()
        for _ in range(20):
            files.save(KEY, value)
            read = files.load(KEY)
            assert (read == read[0]).all()
            found.add(int(read[0]))
        return found

    with ThreadPoolExecutor(4) as pool:
        found = set().union(*pool.map(write_and_read, values))
    assert found <= {0, 1, 2, 3}
    assert len(list(tmp_path.glob("name*"))) == 1


def test_signatures_of_two_processes_are_not_exchanged(tmp_path: Path, source: Path) -> None:
    """Numba's own index gives both the same file name where each does not see the other's entry."""
    one, other = (KernelFiles(tmp_path, "name", source, {}) for _ in range(2))
    second = (("float32",), *KEY[1:])
    one.save(KEY, "of float64")
    other.save(second, "of float32")
    assert (one.load(KEY), one.load(second)) == ("of float64", "of float32")
    one.flush()
    assert (other.load(KEY), other.load(second)) == (None, None)


@pytest.mark.slow
def test_processes_that_compile_at_once(source: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(source.parent)!r})\nimport small; print(small.double(3), small.double(0.5))"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "shared")}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in started:
        out, error = process.communicate(timeout=170)
        assert process.returncode == 0, error
        assert out.split() == [b"6", b"1.0"]
        assert b"Puzzle Mix" not in error
    assert len(kept(tmp_path / "shared")) == 2


def test_the_digest_stands_before_the_pickle(tmp_path: Path, source: Path) -> None:
    """Nothing is unpickled, which may run code, before it is known to be what was written."""

    class Runs:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("was unpickled",))

    files = KernelFiles(tmp_path, "name", source, {})
    files.save(KEY, 1)
    (path,) = tmp_path.glob("name*")
    path.write_bytes(path.read_bytes()[:64] + pickle.dumps(Runs()))
    with pytest.raises(DamagedKernelError):
        files.load(KEY)
