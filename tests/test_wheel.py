"""The wheel holds every package and trains where there is no checkout; the sdist holds the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lightning_puzzlemix"
# With the libraries of this environment, and without what else is installed in it.
SMOKE = """
import runpy, sys
sys.path[:0] = [{installed!r}]
sys.path.append({libraries!r})
runpy.run_path({file!r}, run_name="__main__")
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CACHES = shutil.ignore_patterns("__pycache__", "*.py[cod]")
FILES = (
    "pyproject.toml", "MANIFEST.in", "Makefile", "mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    "CITATION.cff", ".gitignore", ".gitattributes",
)  # fmt: skip
FOLDERS = (PACKAGE, "conf", "docs", "experiments", "hydra_plugins", "tests", ".ci", ".github")


@pytest.mark.skipif(sys.platform == "win32", reason="the paths of a copy may be too long for Windows")
def test_the_sdist_is_the_checkout(tmp_path: Path) -> None:
    """So that its tests can be run, those of the study too."""
    pytest.importorskip("setuptools", minversion="77", reason="older ones do not know the license by its SPDX name")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=CACHES)
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    expected = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    run(sys.executable, "-c", code, cwd=tmp_path)
    (found,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(found) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert expected - held == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves folders beside the sources."""
    pytest.importorskip("setuptools", minversion="77", reason="older ones do not know the license by its SPDX name")
    sources = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(ROOT / PACKAGE, sources / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=sources)
    (found,) = (sources / "dist").glob("*.whl")
    return found


def test_every_package_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / PACKAGE).rglob("*.cu"), ROOT / PACKAGE / "py.typed"]
    assert held == {path.relative_to(ROOT).as_posix() for path in files}
    assert {name.split("/")[1] for name in held} > {"solvers", "core", "saliency", "mixers", "monitoring", "callbacks"}


@pytest.mark.slow
def test_it_trains_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed), str(wheel), cwd=tmp_path)
    file = str(ROOT / "tests" / "smoke.py")
    code = SMOKE.format(installed=str(installed), libraries=sysconfig.get_path("purelib"), file=file)
    # Isolated, and without site, which would add the checkout where that is installed in editable form; without Numba's
    # compiler, which would take longer than all else.
    printed = run(sys.executable, "-I", "-S", "-c", code, cwd=tmp_path, NUMBA_DISABLE_JIT="1")
    assert "mixed (4, 2, 2)" in printed
