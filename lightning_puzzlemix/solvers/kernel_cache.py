"""Compiled kernels on disk: a damaged, foreign or outdated file is compiled again, and an unusable folder is not used.

Numba's own cache trusts what it reads: a truncated file fails every later run, a flipped bit is executed as machine code, two
processes that write at once may swap the kernels of two signatures, and compile options are ignored. Here each file holds
the kernel of one signature and CPU, named after both, after the digests of its inputs and of itself.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core import config
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

_DIGEST_BYTES = hashlib.sha256().digest_size
# Settings of Numba that change no kernel. All others count, as a setting that is forgotten here costs one compilation and
# one that is wrongly left out would run the wrong kernel.
_WITHOUT_EFFECT = ("CACHE", "CUDA", "THREAD", "COLOR", "DUMP", "WARNING")

WAY_OUT = (
    "If this comes in every run, each compiles them once more: set NUMBA_CACHE_DIR to a folder of your own that has room and "
    "may be written to."
)

_warned: set[str] = set()


class DamagedKernelError(Exception):
    """A kept kernel is not what was written."""


class KernelCache(FunctionCache):
    """Numba's cache of one function, which never fails a run.

    Args:
        function: The Python function that is compiled.
        options: The options that it is compiled with.

    Raises:
        RuntimeError: If Numba finds no folder that may be written to.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__(function)
        folder: str = getattr(config, "CACHE_DIR", "")
        if folder and Path(folder) not in Path(self.cache_path).parents:
            unused = f"NUMBA_CACHE_DIR={folder} cannot be written to"
            warn_once("setting", f"{unused}: compiled kernels are kept in {self.cache_path} instead.")
        source = Path(function.__code__.co_filename)
        self._cache_file = KernelFiles(Path(self.cache_path), self._impl.filename_base, source, options)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the kept kernel for a signature, or ``None``, which has Numba compile it."""
        try:
            return super().load_overload(signature, target_context)
        except Exception as error:
            warn_once(
                f"load {self.cache_path}",
                f"a compiled kernel in {self.cache_path} cannot be used ({error!r}) and is compiled anew. {WAY_OUT}",
            )
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a kernel; where that fails this process goes on with the one in memory."""
        try:
            super().save_overload(signature, compiled)
        except Exception as error:
            warn_once(
                f"save {self.cache_path}",
                f"compiled kernels cannot be kept in {self.cache_path} ({error!r}) and stay in memory. {WAY_OUT}",
            )


class KernelFiles:
    """The files of one function's kernels, one for each signature and CPU.

    Args:
        folder: Where they lie.
        name: How their names begin.
        source: The file of the function, whose content decides whether a kernel is outdated.
        options: The options that the function is compiled with.
    """

    def __init__(self, folder: Path, name: str, source: Path, options: dict[str, Any]) -> None:
        self._folder, self._name = folder, name
        self._owners = _trusted_owners(source)
        content = source.read_bytes() if source.is_file() else b""
        made_from = (numba.__version__, llvmlite.__version__, _settings(), sorted(options.items()), content)
        self._made_from = repr(made_from)

    def load(self, key: Any) -> Any:
        """Return what was kept for Numba's key of signature, CPU and bytecode; ``None`` where nothing that still holds is.

        Raises:
            DamagedKernelError: If the file is damaged.
            OSError: If it cannot be read.
        """
        path = self._path(key)
        try:
            with path.open("rb") as file:
                if self._owners and os.fstat(file.fileno()).st_uid not in self._owners:
                    raise DamagedKernelError(f"{path} belongs to another user, whose code is not run")
                kept = file.read()
        except FileNotFoundError:
            return None
        made_from, digest, content = (
            kept[:_DIGEST_BYTES],
            kept[_DIGEST_BYTES:][:_DIGEST_BYTES],
            kept[2 * _DIGEST_BYTES :],
        )
        if len(kept) <= 2 * _DIGEST_BYTES or hashlib.sha256(made_from + content).digest() != digest:
            raise DamagedKernelError(f"{path} is damaged")
        return pickle.loads(content) if made_from == self._digest(key) else None

    def save(self, key: Any, data: Any) -> None:
        """Keep data for a key, whole or not at all; of several processes that do so at once the last one's stays."""
        made_from, content = self._digest(key), dumps(data)
        path = self._path(key)
        unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.tmp")
        try:
            unfinished.write_bytes(made_from + hashlib.sha256(made_from + content).digest() + content)
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def flush(self) -> None:
        """Forget all kernels of this function."""
        for path in self._folder.glob(f"{self._name}.*.kernel"):
            path.unlink(missing_ok=True)

    def _digest(self, key: Any) -> bytes:
        return hashlib.sha256(f"{key!r} {self._made_from}".encode()).digest()

    def _path(self, key: Any) -> Path:
        # Without what the kernel was made from, so that a new one takes the outdated one's place.
        signature, cpu, *_ = key
        return self._folder / f"{self._name}.{hashlib.sha256(repr((signature, cpu)).encode()).hexdigest()[:16]}.kernel"


def _settings() -> list[tuple[str, str]]:
    """Return Numba's settings, of environment and configuration file, that may change a kernel."""
    return [
        (name, repr(value))
        for name, value in sorted(vars(config).items())
        if name.isupper()
        and isinstance(value, (bool, int, float, str, type(None)))
        and not any(word in name for word in _WITHOUT_EFFECT)
    ]


def _trusted_owners(source: Path) -> set[int]:
    """Return whose files are run: this user's, root's, and those of the owner of the source, whose code runs anyway."""
    if not hasattr(os, "geteuid"):
        return set()
    return {os.geteuid(), 0} | ({source.stat().st_uid} if source.is_file() else set())


def warn_once(fault: str, sentence: str) -> None:
    """Warn on rank zero, once a process for each ``fault``: every kernel meets the same one."""
    if fault not in _warned:
        _warned.add(fault)
        rank_zero_warn(f"Puzzle Mix: {sentence}")
