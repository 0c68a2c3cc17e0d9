"""The CUDA kernels' own source on the CPU, see emulator.cpp, in place of a device's kernels."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from fake_device import DeviceTensor
from torch import Tensor

import lightning_puzzlemix
from lightning_puzzlemix.solvers import device

KERNELS = Path(lightning_puzzlemix.__file__).parent / "solvers" / "cuda"
EMULATOR = Path(__file__).parent / "emulator.cpp"


def build(folder: Path, *, mask: str | None = None, plan: str | None = None) -> EmulatedKernels:
    """Compile the emulator with the kernels, or with other sources in their place; skip the test where that cannot be."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("Linux and g++ are needed to compile the CUDA kernels for the CPU")
    sources = {}
    for name, text in (("mask", mask), ("plan", plan)):
        sources[name] = KERNELS / f"{name}.cu"
        if text is not None:
            sources[name] = folder / f"{name}.cu"
            sources[name].write_text(text)
    library = folder / "emulator.so"
    defines = [f'-D{name.upper()}_SOURCE="{path}"' for name, path in sources.items()]
    command = ["g++", "-O1", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", *defines, EMULATOR, "-o", library]
    subprocess.run(command, check=True, capture_output=True)
    return EmulatedKernels(ctypes.CDLL(str(library)))


def install() -> None:
    """Let the emulated kernels take the device's place for the rest of this process."""
    build(Path(tempfile.mkdtemp())).install(pytest.MonkeyPatch())


class EmulatedKernels:
    """Launches a kernel as the device would, on tensors of the CPU.

    Attributes:
        seed: Of the order in which threads run; every launch has another one.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions = {"puzzlemix_mask": library.emulate_mask, "puzzlemix_plan": library.emulate_plan}
        for function in self._functions.values():
            function.restype = ctypes.c_bool
        self.seed = 0

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, shared_bytes: int, *arguments: Tensor | int
    ) -> None:
        assert threads % 32 == 0
        assert shared_bytes <= 48 * 1024
        for argument in arguments:
            assert not isinstance(argument, Tensor) or argument.is_contiguous()
        # What a tensor of the device that does not exist holds, see fake_device.py.
        plain = [each.inner if isinstance(each, DeviceTensor) else each for each in arguments]
        values = [ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else each for each in plain]
        self.seed += 1
        finished = self._functions[name](*values, grid[0], threads, ctypes.c_uint64(self.seed))
        if not finished:
            raise RuntimeError(f"{name}: the threads wait for each other forever")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let :mod:`lightning_puzzlemix.solvers.device` take these."""
        monkeypatch.setattr(device, "_kernels", lambda _: self)
        device._why_no_kernels.cache_clear()
        monkeypatch.setattr(device, "_on", lambda _: nullcontext())
