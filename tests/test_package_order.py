"""Packages import what stands above them, never what stands below: nothing runs in a circle."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = {
    "lightning_puzzlemix": (
        ("config", "sampling", "results", "normalization", "validation", "targets", "pair_losses"),
        ("solvers",),
        ("core",),
        ("saliency",),
        ("mixers",),
        ("monitoring",),
        ("callbacks",),
    ),
    "experiments": (
        ("common",), ("data",), ("models",), ("test_results",), ("runs",), ("checkpoints",), ("loggers",), ("training",),
        ("robustness",), ("sweep_results",), ("html_report",), ("sweeps",), ("wandb_dashboard",), ("show",), ("benchmarks",),
        (
            "train", "evaluate", "summarize", "report", "dashboard", "show_mixing", "benchmark", "resize_images", "gpu_check",
            "gpu_study",
        ),
    ),
}  # fmt: skip


def rank(package: str, name: str) -> int:
    found = [place for place, names in enumerate(ORDER[package]) if name in names]
    assert found, f"{package}.{name} has no place in the order of packages"
    return found[0]


def imported(path: Path, package: str) -> list[str]:
    """The names directly below the package that a file imports from."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == package:
                names += parts[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            parted = (alias.name.split(".") for alias in node.names)
            names += [parts[1] for parts in parted if parts[0] == package and len(parts) > 1]
    return names


@pytest.mark.parametrize("package", ORDER)
def test_no_import_runs_back_up(package: str) -> None:
    checked = 0
    for path in sorted((ROOT / package).rglob("*.py")):
        own = path.relative_to(ROOT / package).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for name in imported(path, package):
            checked += 1
            assert rank(package, name) <= rank(package, own), f"{path.relative_to(ROOT)} imports {package}.{name}"
    assert checked > 50


def test_the_plugin_knows_nothing_of_the_study() -> None:
    allowed = {
        "torch",
        "pytorch_lightning",
        "lightning_fabric",
        "torchmetrics",
        "numpy",
        "numba",
        "llvmlite",
        "matplotlib",
        "gco",
        "cuda",
    }
    for path in sorted((ROOT / "lightning_puzzlemix").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                top = (module or "").split(".")[0]
                assert top in allowed | {"lightning_puzzlemix"} or top in sys.stdlib_module_names, (path, top)
