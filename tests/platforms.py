"""What some tests need, and not every system or version has: marks that skip them elsewhere, with the reason."""

from __future__ import annotations

import sys

import pytest
import torch

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, paths or file systems are needed")
needs_compile = pytest.mark.skipif(
    not torch._dynamo.is_dynamo_supported(),
    reason=f"torch {torch.__version__} cannot compile on Python {sys.version.split()[0]}, {sys.platform}",
)
