"""The decorators of the project's compiled functions; importing this module imports Numba, so import it late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

# For the functions that kernels call. They are compiled into each kernel and cached with it; cached by themselves they could
# not be inlined, which costs a quarter of the mask solver's speed.
inlined = numba.njit(nogil=True)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call, without the GIL, and keep the result on disk where a folder allows it.

    Kernels are serial on purpose: they run on plain Python threads over slices of a batch, which is as fast as Numba's
    own parallel loops and, unlike those, safe with forked DataLoader workers and with calls from several threads. All that
    a kernel calls must stand in its own file: Numba renews a cached result when that file has changed, and only then.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Numba found no folder that it may write to (read-only install and no home directory): compile in memory.
        return numba.njit(nogil=True, cache=False)(function)
