"""The check on a CUDA device: its criteria, its results while it runs, and that it needs no more than a bare machine has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import gpu_check

SOLVER = {
    "device": "H100",
    "emulated": False,
    "samples that differ from the host's, n=16 batch=128 side=32": 0,
    "kernels ms, n=16 batch=128 side=32": {"mask": 0.19, "plan": 0.1},
}
STEPS = {
    "step ms, preactresnet18, fp32": {"plain": 100.0, "saliency alone": 170.0, "puzzlemix, device": 172.9},
    "step ms, resnet50, fp32": {"plain": 100.0, "saliency alone": 170.0, "puzzlemix, device": 170.4},
}


def summary(folder: Path, solver: dict[str, Any], steps: dict[str, Any] | None) -> int:
    (folder / "times_solver.json").write_text(json.dumps(solver))
    if steps is not None:
        (folder / "times_steps.json").write_text(json.dumps(steps))
    return gpu_check.main(["summary", str(folder)])


def test_all_criteria_are_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary(tmp_path, SOLVER, STEPS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("H100")
    assert [line[:4] for line in lines[1:]] == ["pass"] * 4


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        ({"samples that differ from the host's, n=2 batch=128 side=32": 1}, {}),
        ({"kernels ms, n=16 batch=128 side=32": {"mask": 0.2}}, {}),
        ({"kernels ms, n=16 batch=128 side=32": {"mask": float("nan")}}, {}),
        ({"kernels ms, n=16 batch=128 side=32": {}}, {}),
        ({}, {"step ms, preactresnet18, fp32": {"plain": 100.0, "saliency alone": 170.0, "puzzlemix, device": 173.1}}),
        ({}, {"step ms, resnet50, fp32": {"plain": 100.0, "saliency alone": 170.0, "puzzlemix, device": 170.6}}),
        ({}, {"step ms, resnet50, fp32": {"plain": 100.0, "saliency alone": 170.0, "puzzlemix, host": 170.0}}),
        ({}, {"step ms, resnet50, fp32": {}}),
    ],
)
def test_one_criterion_that_is_not_met_or_not_measured_fails(
    solver: dict[str, Any], steps: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summary(tmp_path, SOLVER | solver, STEPS | steps) == 1
    assert capsys.readouterr().out.count("FAIL") == 1


def test_results_that_are_missing_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["summary", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("FAIL") == 4
    assert summary(tmp_path, SOLVER, None) == 1
    assert capsys.readouterr().out.count("FAIL") == 2


def test_a_dry_run_asks_for_equal_masks_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary(tmp_path, {"emulated": True, "samples that differ from the host's, n=2": 0}, None) == 0
    assert "nothing is measured" in capsys.readouterr().out
    assert summary(tmp_path, {"emulated": True}, None) == 1


def test_what_was_found_is_there_when_it_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(target: torch.device, *, emulated: bool) -> Iterator[tuple[str, Any]]:
        yield "first", 1
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_check, "measure_steps", measure)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main(["steps", str(tmp_path / "times_steps.json")])
    found = json.loads((tmp_path / "times_steps.json").read_text())
    assert (found["first"], found["device"], found["emulated"]) == (1, "H100", False)


def test_it_runs_emulated_without_the_libraries_of_the_study(tmp_path: Path) -> None:
    """Lightning alone may import rich, where that is installed."""
    code = """
import sys
import pytorch_lightning
for name in ("hydra", "omegaconf", "wandb", "wandb_workspaces", "rich", "jsonargparse", "pydantic", "gco", "jinja2"):
    sys.modules[name] = None
from experiments import gpu_check
sys.exit(gpu_check.main(["steps", sys.argv[1], "--emulate"]))
"""
    pytest.importorskip("sklearn")
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "times_steps.json")], capture_output=True, text=True, check=False
    )
    if "Linux and g++ are needed" in result.stderr:
        pytest.skip("Linux and g++ are needed")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "times_steps.json").read_text())
    for precision in ("fp32", "bf16 channels_last"):
        times = found[f"step ms, preactresnet18, {precision}"]
        assert set(times) == {"plain", "saliency alone", "puzzlemix, host", "mixup", "cutmix"}
        assert found[f"step over plain, preactresnet18, {precision}"]["plain"] == 1
        assert found[f"peak MiB, preactresnet18, {precision}"].keys() == times.keys()


def test_the_emulated_kernels_agree_with_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import emulated

    emulated.build(tmp_path).install(monkeypatch)
    found = dict(gpu_check.measure_solver(torch.device("cpu"), emulated=True))
    wrong = [value for name, value in found.items() if name.startswith(gpu_check.DIFFERING)]
    assert wrong == [0] * 8
    # As the summary looks for it, but for the batch.
    assert "mixing ms, n=16 batch=4 side=32" in found
    ((name, number),) = gpu_check.solve_once(torch.device("cpu"), emulated=True)
    assert number > 0, name
