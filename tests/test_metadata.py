"""What is said about the package in several files agrees: versions of Python, addresses, targets of the Makefile."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "Programming Language :: Python :: 3."


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]


def test_the_versions_of_python_are_those_that_are_tested(pyproject: dict[str, Any], jobs: dict[str, Any]) -> None:
    named = [each.removeprefix(PYTHON) for each in pyproject["project"]["classifiers"] if each.startswith(PYTHON)]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert [f"3.{minor}" for minor in named] == matrix["python"]
    assert matrix["target"] == ["test", "test-lowest"]
    assert jobs["plugin"]["strategy"]["matrix"]["python"] == [matrix["python"][0], matrix["python"][-1]]
    oldest = matrix["python"][0]
    assert pyproject["project"]["requires-python"] == f">={oldest}"
    assert pyproject["tool"]["mypy"]["python_version"] == oldest
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_every_system_that_is_named_is_tested(pyproject: dict[str, Any], jobs: dict[str, Any]) -> None:
    systems = {each.split(" :: ")[-1] for each in pyproject["project"]["classifiers"] if each.startswith("Operating")}
    runners = {"Linux": "ubuntu-latest", "MacOS": "macos-latest", "Windows": "windows-latest"}
    for job in ("plugin", "dist"):
        assert {runners[system] for system in systems} == set(jobs[job]["strategy"]["matrix"]["os"])


def test_the_workflow_runs_nothing_but_targets_of_the_makefile(jobs: dict[str, Any]) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    ran = set()
    for job in jobs.values():
        for command in (step["run"] for step in job["steps"] if "run" in step):
            choices = job["strategy"]["matrix"].get("target", [])
            expanded = [command.replace("${{ matrix.target }}", choice) for choice in choices or [""]]
            ran |= set(expanded)
    assert ran <= {f"make {target}" for target in targets}
    assert ran == {
        f"make {each}" for each in ("lint", "docs", "test", "test-lowest", "test-plugin", "test-recipes", "dist")
    }


def test_the_citation_is_of_this_version(pyproject: dict[str, Any]) -> None:
    citation, project = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8")), pyproject["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["abstract"].rstrip(".") == project["description"]
    assert citation["keywords"] == project["keywords"]
    assert citation["repository-code"] == project["urls"]["Repository"]
    assert citation["preferred-citation"]["url"] == project["urls"]["Paper"]
    title = citation["preferred-citation"]["title"]
    assert title in (ROOT / "README.md").read_text("utf-8")
