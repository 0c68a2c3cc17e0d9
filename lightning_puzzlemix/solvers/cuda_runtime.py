"""Compiling and launching the CUDA kernels: NVRTC through NVIDIA's ``cuda.core``, on torch's current stream.

Nothing is needed at the user's but the driver and the NVRTC that torch's CUDA wheels bring: no compiler, no CUDA toolkit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

SOURCES = {"puzzlemix_mask": "mask.cu", "puzzlemix_plan": "plan.cu"}
INSTALL = "pip install 'lightning-puzzlemix[cuda]'"


class Kernels(Protocol):
    """What launches a kernel by its name."""

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, shared_bytes: int, *arguments: Tensor | int
    ) -> None:
        """Launch on the current stream, without waiting for it; tensors are passed as pointers, integers as ``int``."""
        ...


class _CudaKernels:
    """The kernels of one device."""

    def __init__(self, kernels: dict[str, Any]) -> None:
        self._kernels = kernels

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, shared_bytes: int, *arguments: Tensor | int
    ) -> None:
        from cuda.core import LaunchConfig, launch

        for argument in arguments:
            # A kernel walks over plain memory and cannot tell that it is another.
            assert not isinstance(argument, Tensor) or argument.is_contiguous(), name
        values = [each.data_ptr() if isinstance(each, Tensor) else np.int32(each) for each in arguments]
        launch(
            _CurrentStream(), LaunchConfig(grid=grid, block=threads, shmem_size=shared_bytes), self._kernels[name], *values
        )  # fmt: skip


class _CurrentStream:
    """Torch's current stream, as ``cuda.core`` asks for streams of other libraries."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream().cuda_stream


@cache
def load_kernels(device_index: int) -> Kernels:
    """Compile the kernels for a device (some 0.5 s) and load them there; once for each device.

    Raises:
        ImportError: If ``cuda.core`` is not installed.
        RuntimeError: If they cannot be compiled or loaded.
    """
    try:
        from cuda.core import Device
    except ImportError as error:
        raise ImportError(f"cuda-core is not installed: {INSTALL}") from error
    with torch.cuda.device(device_index):
        # cuda.core takes the context that torch has made.
        torch.cuda.current_stream()
        Device(device_index).set_current()
        capability = torch.cuda.get_device_capability(device_index)
        return _CudaKernels(
            {name: compile_kernel(source, capability).get_kernel(name) for name, source in SOURCES.items()}
        )


def compile_kernel(file: str, capability: tuple[int, int]) -> Any:
    """Compile one of the source files to a ``cuda.core.ObjectCode``; needs NVRTC, but no device.

    Args:
        file: A file in ``solvers/cuda``.
        capability: Compute capability of the device. One that NVRTC does not know yet gets PTX for the newest that it does,
            which the driver finishes.

    Raises:
        RuntimeError: If NVRTC refuses the source.
    """
    from cuda.bindings import nvrtc
    from cuda.core import Program, ProgramOptions

    name, kind = architecture(capability, nvrtc.nvrtcGetSupportedArchs()[1])
    # Contracted to fused operations, prices and energies would round otherwise than on the host.
    options = ProgramOptions(name=file, arch=name, std="c++17", fma=False)
    source = (Path(__file__).parent / "cuda" / file).read_text("utf-8")
    try:
        return Program(source, "c++", options).compile(kind)
    except Exception as error:  # Its errors have no common base.
        raise RuntimeError(f"NVRTC refuses {file} for {name}: {error}") from error


def architecture(capability: tuple[int, int], known: Sequence[int]) -> tuple[str, str]:
    """Return for what a device's code is compiled, and to what: its own binary, or else PTX of the newest one before it.

    Args:
        capability: Of the device.
        known: Architectures that NVRTC knows, such as 90.

    Raises:
        RuntimeError: If all of them are newer than the device.
    """
    own = 10 * capability[0] + capability[1]
    if own in known:
        return f"sm_{own}", "cubin"
    older = [each for each in known if each < own]
    if not older:
        raise RuntimeError(
            f"this NVRTC compiles for no device as old as compute capability {capability[0]}.{capability[1]}"
        )
    return f"compute_{max(older)}", "ptx"
