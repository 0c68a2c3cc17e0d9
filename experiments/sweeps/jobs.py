"""What surrounds a sweep: one folder for all its jobs, what a job died of in its log, the report at the end."""

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich import get_console

from experiments.common.atomic_files import write_text
from experiments.common.commands import as_typed_here, report_command, summary_command
from experiments.common.console import print_plain, short
from experiments.common.masking import mask_text, mask_texts
from experiments.common.overrides import key_of, override, quote
from experiments.html_report.writing import REPORT, write_report
from experiments.runs.final_summary import optional
from experiments.sweep_results.runs import ERROR, find_runs
from experiments.sweep_results.summary import summarize_runs

log = logging.getLogger(__name__)

# Environment variables by which the processes of one training find each other.
DISTRIBUTED = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
# What an option needs that Hydra itself does not have.
PLUGINS = {
    "launcher=joblib": "hydra-joblib-launcher",
    "launcher=submitit_local": "hydra-submitit-launcher",
    "launcher=slurm": "hydra-submitit-launcher",
    "launcher=ray": "hydra-ray-launcher",
    "sweep=optuna": "hydra-optuna-sweeper",
}


class SweepReport(Callback):
    """Prepares the folders of a sweep and remembers where it is, for `report_sweep`.

    Attributes:
        folder: The folder of the sweep that this process has started; None: none. The processes of the jobs have started
            none.
        metric: What its plot shows.
    """

    folder: Path | None = None
    metric = "accuracy"

    def __init__(self) -> None:
        self._environment: dict[str, str | None] = {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Fix the sweep's folder for all jobs, and have each job's folder named by the swept values alone.

        A job composes its own config, where a folder's name that depends on the data set would be another one if data sets
        are swept. Hydra names a folder by all overrides (`hydra.job.override_dirname`), which can be more than a name holds.
        Both are given to the jobs as overrides of Hydra's own settings, which every launcher passes on.
        """
        given, swept = _split_keys(config)
        with read_write(config), open_dict(config):
            hydra = config.hydra
            for group in set(swept) & set(hydra.runtime.choices):
                hydra.runtime.choices[group] = swept[group].replace(",", "+")
            hydra.sweep.dir = str(Path(hydra.sweep.dir).absolute())
            excluded = [*hydra.job.config.override_dirname.exclude_keys, *(key for key in given if key not in swept)]
            quoted = ",".join(map(quote, excluded))
            hydra.overrides.hydra += [
                f"hydra.sweep.dir={quote(hydra.sweep.dir)}",
                f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]",
            ]
        SweepReport.folder = Path(hydra.sweep.dir)
        # A sweeper with a direction searches by what the run returns.
        SweepReport.metric = "val_accuracy" if "direction" in hydra.sweeper else "accuracy"

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget what an earlier attempt died of."""
        if config.hydra.mode == RunMode.MULTIRUN:
            (Path(config.hydra.runtime.output_dir) / ERROR).unlink(missing_ok=True)
            self._environment = {name: os.environ.get(name) for name in DISTRIBUTED}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write down what a job died of, and make room for the next job's processes.

        Hydra prints the error of the first job only, once the others are done.
        """
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        _leave_process_group(self._environment)
        if job_return.status != JobStatus.FAILED:
            return
        # Its public property raises it.
        error = job_return._return_value
        path = Path(config.hydra.runtime.output_dir) / ERROR
        summary = f"died: {type(error).__name__}: {' '.join(str(error).split())}"
        write_text(path, mask_text(f"{''.join(traceback.format_exception(error))}{summary}\n"))
        log.error(f"{summary} (traceback in {short(path)})")


def _leave_process_group(environment: Mapping[str, str | None]) -> None:
    """Undo what Lightning leaves behind in a process that has trained with others.

    The next job of this process would take itself for one that others have started, and wait for them.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _split_keys(config: DictConfig) -> tuple[list[str], dict[str, str]]:
    """Keys of the command line; and those that the sweep varies or could vary, with their values as written."""
    swept = {str(key): str(values) for key, values in (config.hydra.sweeper.get("params") or {}).items()}
    # As they were typed: references, to secrets for instance, are not looked up.
    typed: Any = OmegaConf.to_container(config.hydra.overrides.task)
    overrides = OverridesParser.create().parse_overrides(typed)
    for each in overrides:
        if each.is_sweep_override() or each.key_or_group in swept:
            swept[each.key_or_group] = each.get_value_string()
    return [each.key_or_group for each in overrides], swept


def report_sweep(typed: Sequence[str] = (), *, complete: bool = True) -> None:
    """Print and save the summary of the sweep that this process has started, if any; never raises.

    To be called when Hydra is done, be it by an error: it raises the first died job's, and then calls no callback.

    Args:
        typed: The words of the command line behind `python -m experiments.train`.
        complete: Whether all jobs have been run and none has failed.
    """
    folder, SweepReport.folder = SweepReport.folder, None
    if folder is None or rank_zero_only.rank != 0 or not folder.is_dir():
        return
    finished: Sequence[Any] = []
    unfinished: Sequence[Any] = []
    with optional("the table of the sweep", summary_command(folder)):
        _leave_ray()
        finished, unfinished = find_runs([folder])
        if finished or unfinished:
            summarize_runs(get_console(), [folder], metric=SweepReport.metric)
    # Also for jobs that have not been begun, of which there is no folder.
    if unfinished or not complete:
        command = as_typed_here(remaining_command(typed, folder))
        print_plain(f"\nTo run all that is not finished, and keep the rest:\n  {command}")
    with optional("the report of the sweep", report_command(folder), folder / REPORT):
        if finished or unfinished:
            page = write_report([folder])
            print_plain(f"{'report':<{len(SweepReport.metric) + 10}}{short(page)}")


def remaining_command(typed: Sequence[str], folder: Path) -> str:
    """The command that runs the jobs of a sweep that are not finished, and leaves the others as they are.

    Args:
        typed: The words of the command line that has started it.
        folder: Its folder, which may be named after the time.
    """
    kept = [each for each in mask_texts(typed) if key_of(each) not in ("resume", "hydra.sweep.dir")]
    words = [*kept, "resume=auto", override("hydra.sweep.dir", short(folder))]
    return shlex.join(["python", "-m", "experiments.train", *words])


def _leave_ray() -> None:
    """Have Ray print what the jobs have said, which it would do at the very end, below the summary."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def missing_plugin(overrides: Sequence[str]) -> str | None:
    """What to say if the command line asks for a launcher or sweeper that is not installed; None: all is there."""
    for each in overrides:
        package = PLUGINS.get(each)
        if package is None:
            continue
        try:
            distribution(package)
        except PackageNotFoundError:
            return f"{each} needs the package {package}: pip install {package}"
    return None
