"""The decorator of the project's compiled kernels; importing this module imports Numba, so import it late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call, without the GIL, and keep the result on disk where a folder allows it.

    Kernels are serial on purpose: they run on plain Python threads over slices of a batch, which is as fast as Numba's
    own parallel loops and, unlike those, safe with forked DataLoader workers and with calls from several threads.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Numba found no folder that it may write to (read-only install and no home directory): compile in memory.
        return numba.njit(nogil=True, cache=False)(function)
