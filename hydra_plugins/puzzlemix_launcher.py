"""The launcher behind `launcher=joblib`: a process for each job, as joblib's pool ends all jobs where one is killed.

Hydra looks for launchers in this namespace alone, and reads this file at every start: imports that take time come late.
"""

import logging
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from omegaconf import open_dict

log = logging.getLogger(__name__)

# Seconds that stopped jobs have for their checkpoints, and between two checks of the processes.
GRACE, POLL = 60.0, 1.0
# By these libraries choose their number of threads; the jobs share the cores.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class JobKilledError(RuntimeError):
    """The process of a job has ended without a result."""


class JobProcesses(JoblibLauncher):
    """Runs up to `n_jobs` jobs at a time, each in a process of its own; -1: as many as there are cores.

    A job that fails, or whose process is killed, ends alone; its JobReturn holds the error.

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
        from multiprocessing.connection import wait

        from joblib import cpu_count, effective_n_jobs

        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        at_a_time = min(effective_n_jobs(self.n_jobs), len(job_overrides))
        log.info(f"Running {len(job_overrides)} jobs, {at_a_time} at a time, into {self.config.hydra.sweep.dir}")
        jobs = dict(enumerate(job_overrides, initial_job_idx))
        waiting, running, done = list(jobs), {}, {}
        with _shared_cores(max(1, cpu_count() // at_a_time)):
            try:
                while waiting or running:
                    while waiting and len(running) < at_a_time:
                        number = waiting.pop(0)
                        running[number] = self._start(number, jobs[number])
                    ready = wait([results for _, results in running.values()], timeout=POLL)
                    for number, (process, results) in list(running.items()):
                        # The pipe of a killed process stays open as long as the loader processes that it has started.
                        if results in ready or not process.is_alive():
                            done[number] = self._finish(number, jobs[number], *running.pop(number))
            finally:
                _stop([process for process, _ in running.values()])
        return [done[number] for number in jobs]

    def _start(self, number: int, overrides: Sequence[str]) -> tuple[Any, Any]:
        """Start a process; return it and the pipe that its result will come through."""
        from multiprocessing import get_context

        import cloudpickle

        log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
        job = (number, overrides, self.hydra_context, self.config, self.task_function, Singleton.get_state())
        # Not forked: a fork would copy what torch and CUDA have begun. No daemon: it may start processes of its own.
        context = get_context("spawn")
        results, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_job, args=(cloudpickle.dumps(job), sender), name=f"job {number}")
        process.start()
        sender.close()
        return process, results

    def _finish(self, number: int, overrides: Sequence[str], process: Any, results: Any) -> JobReturn:
        """The result of a job whose process has sent it, or has ended without."""
        with suppress(EOFError):
            if results.poll():
                result: JobReturn = pickle.loads(results.recv_bytes())
                process.join()
                return result
        process.join()
        end = _describe_end(process.exitcode)
        error = JobKilledError(f"job {number} ({' '.join(filter_overrides(overrides))}) {end}")
        log.error(str(error))
        with suppress(Exception):
            self._write_error(number, overrides, error)
        result = JobReturn(overrides=overrides, status=JobStatus.FAILED)
        result.return_value = error
        return result

    def _write_error(self, number: int, overrides: Sequence[str], error: JobKilledError) -> None:
        """Write what ended a job into its folder, for the table of the sweep."""
        from experiments.sweep_results.runs import ERROR

        assert self.hydra_context is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{number}", number
        instance = HydraConfig.instance()
        outer = instance.cfg
        try:
            # The name of the folder may refer to it.
            instance.set_config(config)
            folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        finally:
            instance.cfg = outer
        # Not there if the process has ended before the job had begun.
        if folder.is_dir():
            (folder / ERROR).write_text(f"failed: {error}\n", "utf-8")


def _run_job(job: bytes, sender: Any) -> None:
    """Run one job in this process, and send what it returns."""
    import cloudpickle
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    sender.send_bytes(cloudpickle.dumps(execute_job(*cloudpickle.loads(job))))
    sender.close()


def _describe_end(exit_code: int) -> str:
    number = -exit_code if exit_code < 0 else exit_code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else ""
    # By name: Windows has no such signal.
    if exit_code < 0 and name == "SIGKILL":
        return "was killed by SIGKILL, which is also how a system ends a process for want of memory"
    if name:
        return f"was ended by {name}"
    return f"ended with exit code {exit_code} and without a result"


def _stop(processes: Sequence[Any]) -> None:
    """End what is still running: with a checkpoint, if there is time for it."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(GRACE)
    finally:
        for process in processes:
            process.kill()


@contextmanager
def _shared_cores(threads: int) -> Iterator[None]:
    """Inside, processes that are started use this many threads, unless the user has set the number."""
    unset = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, str(threads)))
    try:
        yield
    finally:
        for name in unset:
            del os.environ[name]
