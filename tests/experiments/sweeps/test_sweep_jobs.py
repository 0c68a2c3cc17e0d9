"""Whole sweeps of two short runs on the digits, with each launcher, from the command line."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import REPOSITORY, TINY, launch
from omegaconf import OmegaConf

from experiments.common.overrides import override
from hydra_plugins.puzzlemix_launcher import JobProcesses, _describe_end


def read_summaries(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("summary.json")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "ray"])
def test_two_jobs_and_the_report(launcher: str, tmp_path: Path) -> None:
    where = (f"paths.runs={tmp_path}", f"launcher={launcher}")
    result = launch("train", "sweep=methods", "mix=none,puzzlemix", "seed=0", *TINY, *where)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "sweeps" / "methods_digits_small"
    summaries = read_summaries(folder)
    assert set(summaries) == {"mix-none_seed-0", "mix-puzzlemix_seed-0"}
    for name, summary in summaries.items():
        row, *_ = (line for line in result.stdout.splitlines() if line.split()[:1] == [summary["choices"]["mix"]])
        assert f"{100 * summary['test']['accuracy']:.2f} ± -" in row, name
    assert str(folder / "summary_plot.png") in result.stdout
    assert str(folder / "report.html") in result.stdout
    # With one seed no interval; and what comes next, with the run whose images are shown.
    assert "One seed tells what happened once" in result.stdout
    after = result.stdout.split("Next steps:")[1]
    assert f"experiments.evaluate checkpoint={folder / 'mix-puzzlemix_seed-0'}" in after
    assert str(folder / "mix-puzzlemix_seed-0" / "images.png") in result.stdout
    assert (folder / "report.html").is_file()
    assert (folder / "summary_plot.png").is_file()


@pytest.mark.slow
def test_a_job_that_fails_leaves_the_others_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ("sweep=grid", "optimizer.lr=-1,0.1", "mix=none", *TINY, f"paths.runs={tmp_path}")
    first = launch("train", *command)
    folder = tmp_path / "sweeps" / "grid_digits_small"
    assert first.returncode == 1
    assert set(read_summaries(folder)) == {"optimizer.lr-0.1"}
    assert "1 of 2 runs are not finished" in first.stdout
    dead = first.stdout.split("not finished")[1]
    assert str(folder / "optimizer.lr--1") in dead
    assert "failed: " in dead
    assert f"hydra.run.dir={folder / 'optimizer.lr--1'}" in dead
    assert "optimizer.lr=-1" in dead
    written = (folder / "optimizer.lr-0.1" / "summary.json").stat().st_mtime_ns

    second = launch("train", *command)
    assert second.returncode == 1
    assert "skipped" in second.stdout
    assert (folder / "optimizer.lr-0.1" / "summary.json").stat().st_mtime_ns == written
    assert "1 of 2 runs are not finished" in second.stdout


def kill_job(sweep: int, folder: Path) -> bool:
    """SIGKILL the process of a sweep that writes the log of the job in `folder`; False: there is none yet."""
    for child in Path(f"/proc/{sweep}/task/{sweep}/children").read_text().split():
        with contextlib.suppress(OSError):
            opened = {str(path.readlink()) for path in Path(f"/proc/{child}/fd").iterdir()}
            if str(folder / "train.log") in opened:
                os.kill(int(child), signal.SIGKILL)
                return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the job's process in /proc")
@pytest.mark.parametrize("how", ["sweep=grid", "--multirun"])
def test_a_killed_job_leaves_the_others_and_the_printed_command_makes_it_good(how: str, tmp_path: Path) -> None:
    runs = override("paths.runs", tmp_path / "lr=1, it")
    words = [how, "launcher=joblib", "seed=0,1,2", "mix=none", *TINY, runs]
    command = [sys.executable, "-m", "experiments.train", *words]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline, killed = time.monotonic() + 200, False
    while not killed and process.poll() is None and time.monotonic() < deadline:
        for name in ("seed-1", "1_digits_none"):
            killed = killed or any(kill_job(process.pid, folder) for folder in tmp_path.rglob(name))
        time.sleep(0.02)
    said = process.communicate()[0]
    assert killed
    assert process.returncode == 1
    assert len(read_summaries(tmp_path)) == 2
    assert "2 runs, mean ± standard deviation" in said
    assert "The sweep has failed jobs; the first: JobKilledError: job 1 " in said
    assert "was killed by SIGKILL" in said
    assert "Traceback" not in said
    again = said.split("To run all that is not finished, and keep the rest:")[1].strip().splitlines()[0]
    result = subprocess.run(["/bin/sh", "-c", again], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "3 runs, mean ± standard deviation" in result.stdout
    assert len(read_summaries(tmp_path)) == 3


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [(-9, "was killed by SIGKILL"), (-15, "was ended by SIGTERM"), (143, "was ended by SIGTERM"),
     (3, "ended with exit code 3 and without a result")],
)  # fmt: skip
def test_the_end_of_a_job_s_process_in_words(exit_code: int, said: str) -> None:
    assert _describe_end(exit_code).startswith(said)


def test_what_a_pool_would_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hydra\.launcher\.n_jobs alone; drop hydra\.launcher\.timeout"):
        JobProcesses(n_jobs=2, timeout=3.0, verbose=0)


def trials_of(folder: Path) -> list[tuple[str, dict[str, float]]]:
    """State and values of every trial in a study, in the order of their numbers."""
    optuna = pytest.importorskip("optuna", minversion="4")
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'optuna.db'}")
    return [(trial.state.name, trial.params) for trial in study.trials]


@pytest.mark.slow
def test_optuna_maximizes_what_the_runs_validated_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    words = ["sweep=optuna", "hydra.sweeper.n_trials=2", *TINY, f"paths.runs={tmp_path}"]
    folder = tmp_path / "sweeps" / "optuna_digits_small"
    command = [sys.executable, "-m", "experiments.train", *words]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    # In the second trial, which has begun to train.
    while not (len([*folder.glob("*/logs/metrics.csv")]) == 2 and len(read_summaries(folder)) == 1):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [state for state, _ in trials_of(folder)] == ["COMPLETE", "RUNNING"]
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}

    result = launch("train", *words)
    assert result.returncode == 0, result.stderr
    (_, first), (killed, second), (state, third) = trials_of(folder)
    assert (killed, state) == ("FAIL", "COMPLETE")
    assert second == third != first
    # The repeated trial is the same run.
    accuracies = [summary["val_accuracy"] for summary in read_summaries(folder).values()]
    assert len(accuracies) == len([*folder.glob("*/.hydra")]) == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written
    best = OmegaConf.load(folder / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(accuracies))
    assert best.best_params in (first, second)
    assert "2 complete, 1 fail" in result.stdout
    assert (folder / "summary_plot.png").is_file()

    # Nothing is left to do; and other settings would be another study.
    again = launch("train", *words)
    assert again.returncode == 0, again.stderr
    assert len(trials_of(folder)) == 3
    other = launch("train", *words, "optimizer.lr=0.01")
    assert other.returncode == 1
    assert "optimizer.lr=0.01" in other.stdout
    assert "name another folder (hydra.sweep.dir=...)" in other.stdout
    assert len(trials_of(folder)) == 3


@pytest.mark.slow
def test_processes_share_a_study(tmp_path: Path) -> None:
    """Two commands at once, one of which runs two trials at a time: together they make as many trials as one would."""
    words = ["sweep=optuna", "hydra.sweeper.n_trials=5", *TINY, f"paths.runs={tmp_path}"]
    commands = [[sys.executable, "-m", "experiments.train", *words, *more] for more in ([], ["launcher=joblib"])]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(400) for process in processes] == [0, 0]
    folder = tmp_path / "sweeps" / "optuna_digits_small"
    trials = trials_of(folder)
    assert [state for state, _ in trials] == ["COMPLETE"] * 5
    # No two have drawn the same values.
    assert len({params["mix.config.beta"] for _, params in trials}) == len(read_summaries(folder)) == 5


@pytest.mark.slow
def test_jobs_of_two_processes_each(tmp_path: Path) -> None:
    """One job after the other in the same process, each with a second process of its own; one report."""
    settings = ("strategy=ddp", "trainer.devices=2", f"paths.runs={tmp_path}")
    result = launch("train", "sweep=methods", "mix=none", "seed=0,1", *TINY, *settings)
    assert result.returncode == 0, result.stderr
    assert set(read_summaries(tmp_path)) == {"mix-none_seed-0", "mix-none_seed-1"}
    assert result.stdout.count("MEMBER: 2/2") + result.stderr.count("MEMBER: 2/2") == 2
    assert result.stdout.count("2 runs, mean ± standard deviation") == 1


# What the real programs do, as far as submitit uses them; a job runs as soon as it is submitted.
SLURM = {
    "sbatch": """#!/bin/bash
script="${@: -1}"
cp "$script" "$SLURM_STANDIN/submitted.sh"
for task in 0 1; do
  SLURM_JOB_ID=7$task SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$script" >"$SLURM_STANDIN/$task.log" 2>&1 &
done
echo "Submitted batch job 7"
""",
    "srun": """#!/bin/bash
while [[ "$1" == -* ]]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
export SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NNODES=1
export SLURM_JOB_NODELIST=localhost SLURM_NODELIST=localhost SLURM_JOB_NAME=train
exec "$@"
""",
    "sacct": """#!/bin/bash
printf 'JobID|State|NodeList\\n7_0|RUNNING|localhost\\n7_1|RUNNING|localhost\\n'
""",
}


@pytest.mark.slow
def test_jobs_go_through_slurm(tmp_path: Path) -> None:
    """With a stand-in for Slurm's programs: submitit writes the job's script, and the jobs start from nothing else."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "SLURM_STANDIN": str(tmp_path)}
    settings = ("launcher=slurm", "hydra.launcher.partition=gpu_long", f"paths.runs={tmp_path}")
    result = launch("train", "sweep=methods", "mix=none", "seed=0,1", *TINY, *settings, **environment)
    assert result.returncode == 0, result.stderr
    script = (tmp_path / "submitted.sh").read_text()
    for option in ("partition=gpu_long", "time=1440", "gpus-per-node=1", "cpus-per-task=8", "mem=32GB", "array=0-1%"):
        assert f"#SBATCH --{option}" in script
    assert set(read_summaries(tmp_path)) == {"mix-none_seed-0", "mix-none_seed-1"}
    assert "summary_plot.png" in result.stdout
