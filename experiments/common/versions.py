"""Versions that a run was made with: Python, the packages that matter, the code, and the machine."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = (
    "lightning-puzzlemix", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "numpy", "numba", "hydra-core",
    "omegaconf", "timm",
)  # fmt: skip
# The commit, with "+" behind it where files differ from it; nothing outside a checkout or without git.
COMMIT = "git describe --always --abbrev=40 --exclude='*' --dirty=+"


def gather_versions() -> dict[str, str | None]:
    """Versions by name; None: not installed, or not known."""
    installed = {each.name: each.version for each in metadata.distributions()}
    packages = {each: installed.get(each) for each in PACKAGES}
    commit = subprocess.run(COMMIT, cwd=Path(__file__).parent, shell=True, capture_output=True, text=True, check=False)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(), "platform": platform.platform(), **packages,
        "cuda": torch.version.cuda if gpu else None, "device": gpu or platform.processor() or None,
        "commit": commit.stdout.strip() or None,
    }  # fmt: skip
