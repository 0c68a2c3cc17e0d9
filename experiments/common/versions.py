"""Versions that a run was made with: Python, the packages that matter, the code, and the machine."""

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = (
    "lightning-puzzlemix", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "numpy", "numba", "hydra-core",
    "omegaconf", "timm",
)  # fmt: skip
# The commit, with "+" behind it where files differ from it.
COMMIT = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]


def gather_versions() -> dict[str, str | None]:
    """Versions by name; None: not installed, or not known, as the commit outside a checkout."""
    installed = {each.name: each.version for each in metadata.distributions()}
    packages = {each: installed.get(each) for each in PACKAGES}
    has_gpu, commit = torch.cuda.is_available(), None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(COMMIT, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        commit = result.stdout.strip()
    return {
        "python": platform.python_version(), "platform": platform.platform(), **packages,
        "cuda": torch.version.cuda if has_gpu else None,
        "device": torch.cuda.get_device_name() if has_gpu else platform.processor() or None, "commit": commit,
    }  # fmt: skip
