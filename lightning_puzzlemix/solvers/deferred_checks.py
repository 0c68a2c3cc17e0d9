"""Checks of values that lie on a device, made when they have arrived on the host, never by waiting for them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_puzzlemix.config import PuzzleMixConfig
from lightning_puzzlemix.solvers.transfer import HostCopy
from lightning_puzzlemix.solvers.value_checks import check_values


class DeferredChecks:
    """The checks of batches that were solved on a device.

    What is wrong with a batch is raised with a later one, or by :meth:`finish`; the message names the batch.

    Attributes:
        batch: Name of the batch that is mixed next, such as ``"batch 3 of epoch 0"``.
    """

    def __init__(self) -> None:
        self.batch = "an earlier batch"
        self._pending: deque[tuple[str, HostCopy, np.ndarray | np.float64 | None, PuzzleMixConfig]] = deque()

    def add(self, extremes: Tensor, lam: float | Tensor, config: PuzzleMixConfig) -> None:
        """Queue the check of a batch (see ``check_values``), and make those whose values have arrived.

        Raises:
            ValueError: If an earlier batch holds values out of range.
        """
        while self._pending and self._pending[0][1].arrived:
            self._check_first()
        if extremes.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # A captured copy would run at each replay, and nobody would look at it.
            return
        if isinstance(lam, Tensor) and lam.device == extremes.device:
            # In the same copy.
            shares = None
            extremes = torch.cat([extremes, lam.detach().to(extremes.dtype).expand(len(extremes))[:, None]], dim=1)
        else:
            shares = lam.detach().double().numpy() if isinstance(lam, Tensor) else np.float64(lam)
        self._pending.append((self.batch, HostCopy(extremes), shares, config))

    def finish(self) -> None:
        """Make all checks that are left, waiting for their values.

        Raises:
            ValueError: If a batch holds values out of range.
        """
        while self._pending:
            self._check_first()

    def clear(self) -> None:
        """Forget all checks that are left."""
        self._pending.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the copies on their way."""
        return {"batch": self.batch, "_pending": deque()}

    def _check_first(self) -> None:
        batch, copy, lam, config = self._pending.popleft()
        values = copy.numpy()
        try:
            check_values(values[:, :4], values[:, 4] if lam is None else lam, config)
        except ValueError as error:
            # Of the batches that were mixed since, the user need not hear.
            self._pending.clear()
            raise ValueError(f"{batch}, which has been mixed since: {error}") from error
