"""Copies between a device and the host, through pinned memory on CUDA, so that only what is asked for is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor on its way to the host.

    On CUDA it is queued behind the work that makes the tensor; the host goes on. On other devices it is made at once.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._event: Any = None
        if tensor.device.type != "cuda":
            self._values = tensor.cpu()
            return
        self._values = _pinned(tensor).copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(tensor.device))

    @property
    def arrived(self) -> bool:
        """Whether the copy is complete; asking does not wait."""
        return self._event is None or self._event.query()

    def numpy(self) -> np.ndarray:
        """Return the values, once they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.numpy()


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copy float32 tensors that share their first dimension B to the host in a single transfer, and wait for it alone.

    Args:
        tensors: Each (B, ...), on one device.

    Returns:
        float32 arrays of the same shapes, each contiguous.
    """
    batch = len(tensors[0])
    # Flat and not (B, -1), so that each array is contiguous.
    packed = HostCopy(torch.cat([tensor.detach().reshape(-1) for tensor in tensors])).numpy()
    sizes = [tensor.numel() for tensor in tensors]
    parts = np.split(packed, np.cumsum(sizes)[:-1])
    return [part.reshape(batch, *tensor.shape[1:]) for part, tensor in zip(parts, tensors, strict=True)]


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy integer arrays to a device in a single transfer, as int32 tensors of the same shapes."""
    packed = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.int32, copy=False)
    parts = send(torch.from_numpy(packed), device).split([array.size for array in arrays])
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device; on CUDA without waiting for the work that is queued there."""
    if device.type != "cuda":
        return values.to(device)
    # From memory that is not pinned the copy would wait.
    return _pinned(values).copy_(values).to(device, non_blocking=True)


def _pinned(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
