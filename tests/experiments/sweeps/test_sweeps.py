"""Sweeps: which jobs each file makes, the folders that they get, and the report at the end."""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from command_line import TINY
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from experiments.sweeps import jobs as sweeps
from experiments.sweeps.hydra_errors import explain
from experiments.sweeps.jobs import SweepReport, report_sweep

Compose = Callable[..., DictConfig]
CONF = Path(__file__).resolve().parents[3] / "conf"
THREE, FIVE = ["0", "1", "2"], ["0", "1", "2", "3", "4"]
# Every swept value, as the jobs of the sweep set it.
JOBS = {
    "grid": {},
    "methods": {"mix": ["none", "mixup", "cutmix", "manifold", "puzzlemix"], "seed": THREE},
    "cifar100_small": {"seed": FIVE, "mix": ["none", "puzzlemix", "cutmix", "mixup", "manifold"]},
    "digits_few": {"seed": ["0"], "mix": ["none", "puzzlemix"]},
    "digits_ablations": {
        "seed": FIVE,
        "mix": ["puzzlemix"],
        "ablation": [
            "none",
            "gco",
            "no_transport",
            "two_labels",
            "feature_saliency",
            "spectral_saliency",
            "bf16_saliency",
            "half_of_batches",
        ],
    },
    "seeds": {"seed": FIVE},
    "beta": {"mix.config.beta": ["0", "0.6", "1.2", "2.4", "4.8"], "seed": THREE},
    "gamma": {"mix.config.gamma": ["0", "0.25", "0.5", "0.75", "1"], "seed": THREE},
    "eta": {"mix.config.eta": ["0", "0.1", "0.2", "0.4", "0.8"], "seed": THREE},
    "transport_cost": {"mix.config.transport_cost": ["0", "0.4", "0.8", "1.6", "3.2"], "seed": THREE},
    "num_labels": {"mix.config.num_labels": ["2", "3", "5"], "seed": THREE},
    "transport": {"mix.config.transport": ["True", "False"], "seed": THREE},
    "alpha": {"mix.config.alpha": ["0.2", "0.5", "1", "2", "4"], "seed": THREE},
    "prob": {"mix.prob": ["0.25", "0.5", "0.75", "1"], "seed": THREE},
    "grid_sizes": {"mix.config.grid_sizes": ["[2]", "[4]", "[8]", "[16]", "[2,4,8,16]"], "seed": THREE},
    "adversarial_prob": {"mix.adversarial_prob": ["0", "0.1", "0.3"], "seed": THREE},
    "data_fraction": {"data.fraction": ["0.1", "0.25", "0.5", "1"], "mix": ["none", "puzzlemix"], "seed": THREE},
}
LAUNCHERS = {
    "basic": "BasicLauncher",
    "joblib": "JobProcesses",
    "slurm": "SlurmLauncher",
    "submitit_local": "LocalLauncher",
    "ray": "RayLauncher",
}


@pytest.fixture(autouse=True)
def _no_sweep_is_left_over() -> None:
    SweepReport.folder = None


def start(*overrides: str) -> DictConfig:
    """The config that Hydra starts a sweep from, after the callback."""
    config = GlobalHydra.instance().hydra.compose_config("train", list(overrides), run_mode=RunMode.MULTIRUN)
    SweepReport().on_multirun_start(config)
    return config


def jobs_of(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's sweeper splits them."""
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*words, *config.hydra.overrides.task])
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return jobs


def folder_of(config: DictConfig, job: Sequence[str]) -> Path:
    """Where Hydra's launchers put a job."""
    composed = GlobalHydra.instance().config_loader().load_sweep_config(config, list(job))
    return Path(composed.hydra.sweep.dir) / composed.hydra.sweep.subdir


def test_all_files_are_covered() -> None:
    assert {path.stem for path in (CONF / "sweep").glob("*.yaml")} == {*JOBS, "optuna"}
    assert {path.stem for path in (CONF / "launcher").glob("*.yaml")} == {*LAUNCHERS}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.usefixtures("compose_train")
def test_a_sweep_starts_by_its_name_alone_and_makes_every_combination(name: str) -> None:
    config = start(f"sweep={name}")
    assert (config.hydra.mode, config.resume) == (RunMode.MULTIRUN, "auto")
    expected = itertools.product(*([f"{key}={value}" for value in values] for key, values in JOBS[name].items()))
    assert [set(job) for job in jobs_of(config)] == [{*combination, f"sweep={name}"} for combination in expected]


@pytest.mark.parametrize("name", [*JOBS, "optuna"])
def test_the_jobs_of_a_sweep_can_be_built(name: str, compose_train: Compose) -> None:
    """First and last value of each setting, which are its extremes."""
    values = JOBS.get(name, {"mix.config.beta": ["10"], "mix.config.gamma": ["1.0"]})
    for index in (0, -1):
        cfg = compose_train(f"sweep={name}", *(f"{key}={each[index]}" for key, each in values.items()))
        data = instantiate(cfg.data)
        if cfg.mix.get("_target_") is not None:
            instantiate(cfg.mix)
        assert data.val_fraction == (0 if name.startswith("digits_") else 0.1)


@pytest.mark.usefixtures("compose_train")
def test_the_command_line_wins_over_the_file() -> None:
    jobs = jobs_of(start("sweep=beta", "mix.config.beta=0.4,1.2", "seed=7"))
    assert [sorted(job) for job in jobs] == [[f"mix.config.beta={beta}", "seed=7", "sweep=beta"] for beta in (0.4, 1.2)]


def test_optuna_searches_on_validation_images(compose_train: Compose) -> None:
    cfg = compose_train("sweep=optuna", "data=cifar100")
    assert instantiate(cfg.data).val_fraction > 0
    hydra = start("sweep=optuna").hydra
    assert (hydra.sweeper.direction, hydra.sweeper.n_trials, hydra.sweeper.sampler.seed) == ("maximize", 20, 0)
    assert set(hydra.sweeper.params) == {f"mix.config.{key}" for key in ("beta", "gamma", "eta", "transport_cost")}
    assert SweepReport.metric == "val_accuracy"
    start("sweep=seeds")
    assert SweepReport.metric == "accuracy"


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.usefixtures("compose_train")
def test_launchers(name: str) -> None:
    config = start("sweep=seeds", f"launcher={name}")
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(config))
    launcher = Plugins.instance().instantiate_launcher(context, lambda _: None, config)
    assert type(launcher).__name__ == LAUNCHERS[name]
    # It says where jobs run, not which.
    assert len(jobs_of(config)) == 5


@pytest.mark.usefixtures("compose_train")
def test_folders_stay_the_same_when_values_are_added(tmp_path: Path) -> None:
    where = f"paths.runs={tmp_path}"
    few = start("sweep=beta", "epochs=3", "mix.config.beta=1.2", "seed=0", where)
    many = start("sweep=beta", "seed=0,1", "epochs=3", where)
    folder = tmp_path / "sweeps" / "beta_digits_small"
    assert SweepReport.folder == folder
    job = folder_of(few, jobs_of(few)[0])
    assert job == folder / "mix.config.beta-1.2_seed-0"
    folders = [folder_of(many, each) for each in jobs_of(many)]
    assert job in folders
    assert len(set(folders)) == 10


@pytest.mark.usefixtures("compose_train")
def test_a_long_command_line_does_not_make_long_names(tmp_path: Path) -> None:
    config = start("sweep=grid", f"paths.runs={tmp_path}", "seed=0,1", *TINY, *TINY)
    assert [folder_of(config, job).name for job in jobs_of(config)] == ["seed-0", "seed-1"]


@pytest.mark.usefixtures("compose_train")
def test_all_jobs_share_the_folder_of_the_sweep_even_if_data_sets_are_swept(tmp_path: Path) -> None:
    """Quotes and blanks in the path too; the folder is absolute, as workers may start elsewhere."""
    config = start("sweep=seeds", "seed=0", "data=digits,cifar10", f"paths.runs='{tmp_path}/my runs'")
    folders = [folder_of(config, job) for job in jobs_of(config)]
    parent = tmp_path / "my runs" / "sweeps" / "seeds_digits+cifar10_small"
    assert folders == [parent / "data-digits_seed-0", parent / "data-cifar10_seed-0"]
    relative = start("sweep=seeds", "paths.runs=somewhere")
    assert Path(relative.hydra.sweep.dir).is_absolute()


@pytest.mark.usefixtures("compose_train")
def test_quotes_in_the_folder_reach_the_jobs(tmp_path: Path) -> None:
    config = start("sweep=seeds", rf"hydra.sweep.dir='{tmp_path}/x\'y, z'")
    assert folder_of(config, jobs_of(config)[3]) == tmp_path / "x'y, z" / "seed-3"


def end_job(folder: Path, error: Exception | None, mode: str = "MULTIRUN") -> None:
    config = OmegaConf.create({"hydra": {"mode": RunMode[mode], "runtime": {"output_dir": str(folder)}}})
    status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
    callback = SweepReport()
    callback.on_job_start(config, task_function=None)
    os.environ["LOCAL_RANK"] = "0"
    job = JobReturn(status=status)
    job.return_value = error
    callback.on_job_end(config, job)


def test_the_error_of_a_job_is_kept_until_it_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    end_job(tmp_path, ValueError("lr must be above 0,\ngot -1"))
    lines = (tmp_path / "error.txt").read_text().splitlines()
    assert lines[-1] == "failed: ValueError: lr must be above 0, got -1"
    assert "ValueError: lr must be above 0," in lines[:-1]
    assert str(tmp_path / "error.txt") in caplog.text
    end_job(tmp_path, None)
    assert not (tmp_path / "error.txt").exists()
    # Lightning sets it when it starts other processes, and starts none where it is set.
    assert "LOCAL_RANK" not in os.environ
    end_job(tmp_path, ValueError("a run alone"), mode="RUN")
    assert not (tmp_path / "error.txt").exists()
    del os.environ["LOCAL_RANK"]


def test_no_report_where_no_sweep_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes of jobs, and in those that share a job's training."""
    (tmp_path / "job/.hydra").mkdir(parents=True)
    monkeypatch.setattr(sweeps, "summarize_runs", lambda *_, **__: pytest.fail("reported"))
    report_sweep()
    SweepReport.folder = tmp_path / "absent"
    report_sweep()
    SweepReport.folder = tmp_path
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    report_sweep()


def test_a_report_that_fails_raises_nothing_that_could_hide_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    (tmp_path / "job/.hydra").mkdir(parents=True)
    monkeypatch.setattr(sweeps, "summarize_runs", fail)
    SweepReport.folder = tmp_path
    report_sweep()
    assert "disk full" in caplog.text


@pytest.mark.parametrize("name", ["joblib", "submitit_slurm", "ray"])
@pytest.mark.usefixtures("compose_train")
def test_a_launcher_that_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(store, f"{name}.yaml")
    launcher = name.removeprefix("submitit_")
    with pytest.raises(HydraException) as refused:
        start("sweep=seeds", f"launcher={launcher}")
    said = explain(str(refused.value), [])
    assert said.startswith(f"hydra/launcher={name} needs hydra-{name.split('_')[0]}-launcher, ")
    assert said.endswith(f"pip install -e '.[{'experiments' if name == 'joblib' else 'sweeps'}]'")


@pytest.mark.usefixtures("compose_train")
def test_a_misspelled_launcher_is_no_missing_package() -> None:
    with pytest.raises(HydraException) as refused:
        start("sweep=seeds", "hydra/launcher=joblibb")
    assert explain(str(refused.value), []).startswith(
        "hydra/launcher=joblibb is no option of the group hydra/launcher; it is one"
    )
