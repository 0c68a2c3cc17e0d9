"""The one copy to the host and the one copy back of each batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Copy float32 tensors that share their first dimension B to the host in a single transfer.

    Args:
        tensors: Each (B, ...), on one device.

    Returns:
        float32 arrays of the same shapes, each contiguous.
    """
    batch = len(tensors[0])
    # Flat and not (B, -1), so that each array is contiguous.
    packed = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).cpu().numpy()
    sizes = [tensor.numel() for tensor in tensors]
    parts = np.split(packed, np.cumsum(sizes)[:-1])
    return [part.reshape(batch, *tensor.shape[1:]) for part, tensor in zip(parts, tensors, strict=True)]


def to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy integer arrays to a device in a single transfer, as int32 tensors of the same shapes."""
    packed = torch.from_numpy(np.concatenate([array.reshape(-1) for array in arrays]).astype(np.int32, copy=False))
    parts = packed.to(device, non_blocking=True).split([array.size for array in arrays])
    return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
