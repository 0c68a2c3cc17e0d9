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
REPOSITORY = Path(__file__).resolve().parents[2]


def gather_versions() -> dict[str, str | None]:
    """Versions by name; None: not installed, or not known."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    versions["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    versions["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or None
    return {**versions, "commit": _commit()}


def _commit() -> str | None:
    """The checked-out commit, with "+" behind it where files differ from it; None outside a checkout or without git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
