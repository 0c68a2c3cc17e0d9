"""A device that does not exist: tensors "on" it live on the CPU, and every crossing between the two is counted.

To torch's C++ side such a tensor is one on the meta device, so that no driver is asked for; to Python code its device is
``cuda:0``, so that code under test takes its accelerator branches. What a CUDA device would answer by waiting for all of its
work (``item``, ``nonzero``, boolean masks) is refused, and so is mixing its tensors with plain ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero")


class DeviceTensor(torch.Tensor):
    """Wraps the CPU tensor ``inner``."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device="meta"
        )  # fmt: skip
        wrapper.inner = inner
        return wrapper

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of FakeDevice")


class FakeDevice(TorchDispatchMode):
    """Runs what is called inside on CPU tensors; ``out`` and ``back`` count the copies to the host and to the device."""

    # In the place of torch's fake tensors, because only then factory functions do not look for a driver.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self) -> None:
        super().__init__()
        self.out = 0
        self.back = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        wrapped = {id(each.inner): each for each in tensors if isinstance(each, DeviceTensor)}
        name = func._schema.name.split("::")[1].removesuffix("_")
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        on_device = torch.device(target).type in (DEVICE.type, "meta") if target is not None else bool(wrapped)
        if name in ("_to_copy", "copy"):
            destination = on_device if name == "_to_copy" else isinstance(tensors[0], DeviceTensor)
            self._count(from_device=isinstance(tensors[-1], DeviceTensor), to_device=destination)
        elif wrapped:
            self._refuse(func, args, tensors)
        inner = tree_map(lambda each: each.inner if isinstance(each, DeviceTensor) else each, (args, kwargs))
        result = func(*inner[0], **inner[1])

        def wrap(each: Any) -> Any:
            if not isinstance(each, torch.Tensor):
                return each
            return wrapped.get(id(each)) if id(each) in wrapped else DeviceTensor(each) if on_device else each

        return tree_map(wrap, result)

    def _count(self, *, from_device: bool, to_device: bool) -> None:
        self.out += from_device and not to_device
        self.back += to_device and not from_device

    @staticmethod
    def _refuse(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
        name = func._schema.name.split("::")[1]
        if name in _WAITING:
            raise RuntimeError(f"{func} makes the host wait for the device")
        masks = [each for each in tree_leaves(args[1:]) if isinstance(each, torch.Tensor) and each.dtype == torch.bool]
        if name in ("index", "index_put", "index_put_") and masks:
            raise RuntimeError(f"{func} with a boolean mask makes the host wait for the device")
        if any(not isinstance(each, DeviceTensor) and each.ndim for each in tensors):
            raise RuntimeError(f"{func} mixes tensors of the host and of the device")
