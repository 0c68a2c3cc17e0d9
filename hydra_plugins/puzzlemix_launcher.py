"""The launcher behind `launcher=joblib`: a process for each job, so that one that is killed takes no other with it.

Hydra looks for launchers in this namespace alone, and reads this file at every start: imports that take time come late.
"""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)

# Seconds that stopped jobs have for their checkpoints.
GRACE = 60.0
# Seconds between two looks at whether a job's process is still there.
LOOK = 1.0
# What says to the libraries how many threads to start; the jobs share the cores.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class JobKilledError(RuntimeError):
    """The process of a job has ended without a result."""


@dataclass
class _Job:
    number: int
    overrides: Sequence[str]
    process: Any
    results: Any


class JobProcesses(JoblibLauncher):
    """Runs up to `n_jobs` jobs at a time, each in a process of its own; -1: as many as there are cores.

    A job that fails, or whose process is killed, ends alone; its JobReturn holds the error. joblib's pool would end them all.

    Raises:
        ValueError: If another setting of joblib's is given; there is no pool to apply it to.
    """

    def __init__(self, n_jobs: int = -1, **unused: Any) -> None:
        super().__init__(n_jobs=n_jobs, **unused)
        usual = vars(JobLibLauncherConf())
        changed = [key for key, value in unused.items() if usual.get(key, value) != value]
        if changed:
            raise ValueError(f"launcher=joblib takes hydra.launcher.n_jobs alone; drop hydra.launcher.{changed[0]}")
        self.n_jobs = n_jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; return their results in the order of the jobs."""
        from joblib import cpu_count, effective_n_jobs

        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        at_a_time = min(effective_n_jobs(self.n_jobs), len(job_overrides))
        log.info(f"Running {len(job_overrides)} jobs, {at_a_time} at a time, into {self.config.hydra.sweep.dir}")
        waiting = [(initial_job_idx + index, overrides) for index, overrides in enumerate(job_overrides)]
        running: list[_Job] = []
        done: dict[int, JobReturn] = {}
        with _shared_cores(max(1, cpu_count() // at_a_time)):
            try:
                while waiting or running:
                    while waiting and len(running) < at_a_time:
                        running.append(self._start(*waiting.pop(0)))
                    for job in _ended(running):
                        running.remove(job)
                        done[job.number] = self._finish(job)
            finally:
                _stop(running)
        return [done[number] for number in sorted(done)]

    def _start(self, number: int, overrides: Sequence[str]) -> _Job:
        from multiprocessing import get_context

        from joblib.externals import cloudpickle

        log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
        content = (number, overrides, self.hydra_context, self.config, self.task_function, Singleton.get_state())
        # Not forked: a fork would copy what torch and CUDA have begun. No daemon: it may start processes of its own.
        context = get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(cloudpickle.dumps(content), sender), name=f"job {number}")
        process.start()
        sender.close()
        return _Job(number, overrides, process, receiver)

    def _finish(self, job: _Job) -> JobReturn:
        """The result of a job whose process has sent it, or has ended without."""
        import pickle

        try:
            result: JobReturn = pickle.loads(job.results.recv_bytes())
            job.process.join()
            return result
        except EOFError:
            job.process.join()
        finally:
            job.results.close()
        words = " ".join(filter_overrides(job.overrides))
        error = JobKilledError(f"job {job.number} ({words}) {_ending(job.process.exitcode)}")
        log.error(str(error))
        with suppress(Exception):
            self._write_error(job, error)
        result = JobReturn()
        result.overrides, result.status, result.return_value = job.overrides, JobStatus.FAILED, error
        return result

    def _write_error(self, job: _Job, error: JobKilledError) -> None:
        """Leave in the job's folder what ended it, for the table of the sweep."""
        from experiments.sweep_results.runs import ERROR

        assert self.hydra_context is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(job.overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{job.number}", job.number
        # After the changes: Hydra makes its config read-only.
        with _as_hydra_config(config):
            folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        # Not there if the process has ended before the job had begun.
        if folder.is_dir():
            (folder / ERROR).write_text(f"failed: {error}\n")


def _work(content: bytes, sender: Any) -> None:
    """Run one job in this process, and send what it returns."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job
    from joblib.externals import cloudpickle

    sender.send_bytes(cloudpickle.dumps(execute_job(*cloudpickle.loads(content))))
    sender.close()


def _ended(jobs: Sequence[_Job]) -> list[_Job]:
    """Those that have sent a result or have ended; waits a while for one."""
    from multiprocessing.connection import wait

    ready = wait([job.results for job in jobs], timeout=LOOK)
    # The pipe of a killed process stays open as long as those that it has started, its loader processes.
    return [job for job in jobs if job.results in ready or not job.process.is_alive()]


def _ending(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed by SIGKILL, which is also how a system ends a process for want of memory"
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number in set(signal.Signals):
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with exit code {exit_code} and without a result"


def _stop(jobs: Sequence[_Job]) -> None:
    """End what is still running: with a checkpoint, if there is time for it."""
    try:
        for job in jobs:
            job.process.terminate()
        for job in jobs:
            job.process.join(GRACE)
    finally:
        for job in jobs:
            job.process.kill()


@contextmanager
def _shared_cores(threads: int) -> Iterator[None]:
    """Inside, processes that are started take so many threads, unless the user has said how many."""
    unset = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, str(threads)))
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]


@contextmanager
def _as_hydra_config(config: DictConfig) -> Iterator[None]:
    """Inside, what asks Hydra for its config gets this one, as a job does."""
    instance = HydraConfig.instance()
    outer = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = outer
