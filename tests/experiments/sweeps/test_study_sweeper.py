"""The search by Optuna, with a function in place of the runs."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from hydra_plugins import puzzlemix_sweeper as module

optuna = pytest.importorskip("optuna", minversion="4")

Runs = list[dict[str, str]]


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runs]:
    """Runs a command in a folder; returns the settings of its runs, of which `accuracy` is told and may raise."""
    monkeypatch.setattr(module.StudySweeper, "validate_batch_is_legal", lambda *_: None)

    def run(accuracy: Callable[[dict[str, str]], float | None], *words: str, **settings: Any) -> Runs:
        runs: Runs = []

        def launch(jobs: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
            results = []
            for job in jobs:
                result = JobReturn(overrides=job, status=JobStatus.COMPLETED)
                runs.append(dict(word.split("=", 1) for word in job))
                try:
                    result.return_value = accuracy(runs[-1])
                except RuntimeError as error:
                    result.status, result.return_value = JobStatus.FAILED, error
                results.append(result)
            return results

        given = OmegaConf.create({key: value for key, value in module.DEFAULTS.items() if not key.startswith("_")})
        sweeper = module.StudySweeper(**{**given, "n_jobs": 1, "n_trials": 3, **settings})
        sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
        sweeper.hydra_context = SimpleNamespace(config_loader=None)
        sweeper.launcher = SimpleNamespace(launch=launch)
        sweeper.sweep(["seed=3", *(words or ["x=interval(0.0,1.0)"])])
        return runs

    return run


def states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'optuna.db'}")
    return [trial.state.name for trial in study.trials]


def peak(run: dict[str, str]) -> float:
    return 1 - (float(run["x"]) - 0.3) ** 2


def test_it_finds_the_best_value(
    search: Callable[..., Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = search(peak, n_trials=6)
    assert [run["seed"] for run in runs] == ["3"] * 6
    best = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert best.best_params.x == min((float(run["x"]) for run in runs), key=lambda x: abs(x - 0.3))
    assert best.best_value == pytest.approx(1 - (best.best_params.x - 0.3) ** 2)
    said = capsys.readouterr().out
    assert f"x={best.best_params.x}" in said
    assert "sweep=seeds" in said


def test_the_same_command_goes_on(search: Callable[..., Runs], tmp_path: Path) -> None:
    first = search(peak, n_trials=2)
    assert search(peak, n_trials=2) == []
    more = search(peak)
    assert (len(first), len(more)) == (2, 1)
    # As one command would have drawn them: each trial has a seed of its own.
    assert len({run["x"] for run in first + more}) == 3
    (tmp_path / "optuna.db").unlink()
    assert search(peak) == first + more


def test_a_trial_that_fails_leaves_the_others_and_is_repeated_by_the_next_command(
    search: Callable[..., Runs], tmp_path: Path
) -> None:
    def fail_second(run: dict[str, str]) -> float:
        calls.append(run)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return peak(run)

    calls: Runs = []
    with pytest.raises(RuntimeError, match="out of memory"):
        search(fail_second)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert search(peak) == [calls[1]]
    assert states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert search(peak) == []


def test_where_all_fail_it_ends_at_once(search: Callable[..., Runs], tmp_path: Path) -> None:
    with pytest.raises(CompactHydraException, match=r"None as its validation accuracy: give data\.val_fraction > 0"):
        search(lambda run: None)
    assert states(tmp_path) == ["FAIL"]


def test_a_trial_whose_process_is_gone_is_repeated(search: Callable[..., Runs], tmp_path: Path) -> None:
    def stop(run: dict[str, str]) -> float:
        raise SystemExit(run["x"])

    with pytest.raises(SystemExit) as stopped:
        search(stop)
    assert states(tmp_path) == ["RUNNING"]
    runs = search(peak)
    assert (len(runs), runs[0]["x"]) == (3, str(stopped.value))
    assert states(tmp_path) == ["FAIL", *["COMPLETE"] * 3]


def test_trials_that_another_process_runs_are_left_to_it(
    search: Callable[..., Runs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(run: dict[str, str]) -> float:
        raise SystemExit

    with pytest.raises(SystemExit):
        search(stop)
    monkeypatch.setattr(module, "_is_alive", lambda process, name: True)
    assert search(peak, n_trials=1) == []
    assert len(search(peak, n_trials=2)) == 1
    assert states(tmp_path) == ["RUNNING", "COMPLETE"]


def test_another_study_needs_another_folder(search: Callable[..., Runs]) -> None:
    search(peak)
    with pytest.raises(CompactHydraException, match=r"other settings \(epochs=3 differ\): name another folder"):
        search(peak, "epochs=3", "x=interval(0.0,1.0)")
    # Where jobs run, and how many, may change.
    assert len(search(peak, "launcher=joblib", "trainer=gpu", "x=interval(0.0,1.0)", n_trials=4)) == 1
    with pytest.raises(CompactHydraException, match=r"hydra\.sweeper: "):
        search(peak, "x=0.1,0.2", n_trials=5)


def test_secrets_are_not_kept(search: Callable[..., Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = search(peak, "logger.settings.api_key=hunter2", "x=interval(0.0,1.0)", n_trials=1)
    assert run["logger.settings.api_key"] == "hunter2"
    assert "hunter2" not in capsys.readouterr().out
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("x=interval(0.1,10)", optuna.distributions.FloatDistribution(0.1, 10)),
        ("x=tag(log,interval(0.1,10))", optuna.distributions.FloatDistribution(0.1, 10, log=True)),
        ("x=int(interval(1,8))", optuna.distributions.IntDistribution(1, 8)),
        ("x=tag(log,int(interval(1,64)))", optuna.distributions.IntDistribution(1, 64, log=True)),
        # As for Hydra, its end is not in it.
        ("x=range(2,9,3)", optuna.distributions.IntDistribution(2, 8, step=3)),
        ("x=range(0.0,1.0,0.25)", optuna.distributions.FloatDistribution(0.0, 0.75, step=0.25)),
        ("x=none,puzzlemix", optuna.distributions.CategoricalDistribution(["none", "puzzlemix"])),
        ("x=choice([2],[2,4])", optuna.distributions.CategoricalDistribution(["[2]", "[2,4]"])),
    ],
)
def test_values_mean_what_they_mean_on_the_command_line(word: str, expected: object) -> None:
    fixed, space = module._split(OverridesParser.create().parse_overrides(["y=1,2", "x=7", "y=3", word]))
    assert (fixed, space) == (["y=3"], {"x": expected})


@pytest.mark.parametrize(
    ("words", "said"),
    [(["x=tag(log,interval(0.0,1.0))"], r"x=.* cannot be searched"), (["x=1"], "nothing to search")],
)
def test_what_cannot_be_searched_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(CompactHydraException, match=said):
        module._split(OverridesParser.create().parse_overrides(words))


@pytest.mark.parametrize(("key", "value"), [("n_jobs", -1), ("n_trials", 0), ("n_trials", "many")])
def test_numbers_of_trials_are_checked(key: str, value: object) -> None:
    settings = {name: value for name, value in module.DEFAULTS.items() if not name.startswith("_")}
    sweeper = module.StudySweeper(**{**settings, "n_jobs": 1, key: value})
    with pytest.raises(CompactHydraException, match=rf"hydra\.sweeper\.{key} must be .*, got {value}"):
        sweeper.setup(hydra_context=None, task_function=None, config=None)


def test_settings_that_optuna_refuses_are_named(search: Callable[..., Runs]) -> None:
    with pytest.raises(CompactHydraException, match=r"hydra\.sweeper: .*maximi[sz]e"):
        search(peak, direction="upward")
