"""A device that does not exist: tensors "on" it live on the CPU, and every crossing between the two is counted.

To torch's C++ side such a tensor is one on the meta device, so that no driver is asked for; to Python code its device is
``cuda:0``, so that code under test takes its accelerator branches. What a CUDA device would answer by waiting for all of its
work (``item``, ``nonzero``, boolean masks) is refused, and so is mixing its tensors with plain ones.
"""

from __future__ import annotations

from typing import Any

import pytest
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


class FakeEvent:
    """An event of the device, which is behind the host: the last one has not passed until the host waits for it."""

    waits = 0
    latest: FakeEvent | None = None

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        """Mark this moment."""
        FakeEvent.latest = self

    def query(self) -> bool:
        """Tell whether it has passed."""
        return self is not FakeEvent.latest

    def synchronize(self) -> None:
        """Wait for it."""
        FakeEvent.waits += 1
        FakeEvent.latest = None

    def elapsed_time(self, other: FakeEvent) -> float:
        """Return the milliseconds up to another."""
        return 0.0


class FakeDevice(TorchDispatchMode):
    """Runs what is called inside on CPU tensors.

    Attributes:
        out: Copies to the host.
        back: Copies to the device.
        doubles: What made float64 tensors on the device, which Apple's GPUs do not have.
        waits: How often the host waited for the device: for an event, or for a copy that is not ``non_blocking``.
    """

    # In the place of torch's fake tensors, because only then factory functions do not look for a driver.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self) -> None:
        super().__init__()
        self.out = 0
        self.back = 0
        self.doubles: list[str] = []
        self._blocking = 0
        self._patches = pytest.MonkeyPatch()

    @property
    def waits(self) -> int:
        return self._blocking + FakeEvent.waits

    def __enter__(self) -> FakeDevice:
        FakeEvent.waits = 0
        self.catch_up()
        self._patches.setattr(torch.cuda, "Event", FakeEvent)
        self._patches.setattr(torch.cuda, "current_stream", lambda *_: None)
        self._patches.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        return super().__enter__()

    @staticmethod
    def catch_up() -> None:
        """Let all events pass, as between two batches."""
        FakeEvent.latest = None

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.undo()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        wrapped = {id(each.inner): each for each in tensors if isinstance(each, DeviceTensor)}
        name = func._schema.name.split("::")[1].removesuffix("_")
        # Memory that a driver would pin is plain memory here.
        kwargs.pop("pin_memory", None)
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        on_device = torch.device(target).type in (DEVICE.type, "meta") if target is not None else bool(wrapped)
        if name in ("_to_copy", "copy"):
            destination = on_device if name == "_to_copy" else isinstance(tensors[0], DeviceTensor)
            blocking = not (kwargs.get("non_blocking") or (name == "copy" and len(args) > 2 and args[2]))
            self._count(isinstance(tensors[-1], DeviceTensor), destination, blocking)
        elif wrapped:
            self._refuse(func, args, tensors)
        inner = tree_map(lambda each: each.inner if isinstance(each, DeviceTensor) else each, (args, kwargs))
        result = func(*inner[0], **inner[1])

        def wrap(each: Any) -> Any:
            if not isinstance(each, torch.Tensor):
                return each
            if on_device and each.dtype == torch.float64:
                self.doubles.append(name)
            return wrapped.get(id(each)) if id(each) in wrapped else DeviceTensor(each) if on_device else each

        return tree_map(wrap, result)

    def _count(self, from_device: bool, to_device: bool, blocking: bool) -> None:
        self.out += from_device and not to_device
        self.back += to_device and not from_device
        self._blocking += blocking and from_device != to_device

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
