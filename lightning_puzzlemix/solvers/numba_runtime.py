"""The decorators of the project's compiled functions; importing this module imports Numba, so import it late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from lightning_puzzlemix.solvers.kernel_cache import WAY_OUT, KernelCache, warn_once

# For the functions that kernels call. They are compiled into each kernel and cached with it; cached by themselves they could
# not be inlined, which costs a quarter of the mask solver's speed.
inlined = numba.njit(nogil=True)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call, without the GIL, and keep the result on disk where a folder allows it.

    Kernels are serial on purpose: they run on plain Python threads over slices of a batch, which is as fast as Numba's
    own parallel loops and, unlike those, safe with forked DataLoader workers and with calls from several threads. All that
    a kernel calls must stand in its own file: the cached result is renewed when that file has changed, and only then.
    """
    dispatcher = numba.njit(nogil=True)(function)
    if not hasattr(dispatcher, "targetoptions"):
        # NUMBA_DISABLE_JIT: a plain function, for debugging.
        return dispatcher
    try:
        dispatcher._cache = KernelCache(function, dispatcher.targetoptions)  # type: ignore[attr-defined]
    except Exception as error:
        # No writable folder (read-only install and no home directory), or a Numba with another kind of cache: it saves
        # seconds, and nothing depends on it.
        warn_once("no cache", f"compiled kernels cannot be kept on disk ({error}) and stay in memory. {WAY_OUT}")
    return dispatcher
