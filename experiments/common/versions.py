"""What a run was made with: versions of Python, of the packages that matter, of the code, and the machine."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from experiments.common.atomic_files import write_json

PACKAGES = (
    "lightning-puzzlemix",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "numba",
    "hydra-core",
    "omegaconf",
    "timm",
)
REPOSITORY = Path(__file__).resolve().parents[2]


def gather_versions() -> dict[str, str | None]:
    """Versions by name; None: not installed, or not known."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    versions |= {package: _installed(package) for package in PACKAGES}
    versions["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    versions["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or None
    versions["commit"] = _commit()
    return versions


def save_versions(path: Path) -> None:
    """Write the versions as JSON."""
    write_json(path, gather_versions())


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
