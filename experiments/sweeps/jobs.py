"""What surrounds a sweep: one folder for all its jobs, the error of a failed job in its folder, the report at the end."""

import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich import get_console

from experiments import common
from experiments.html_report import REPORT, write_report
from experiments.runs import optional
from experiments.sweep_results import ERROR, summarize_runs

log = logging.getLogger(__name__)

# Environment variables by which the processes of one training find each other.
DISTRIBUTED = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"}


class SweepReport(Callback):
    """Prepares the folders of a sweep and remembers where it is, for `report_sweep`."""

    # Of the sweep that this process has started; None: none, as in the processes of its jobs.
    folder: Path | None = None
    metric = "accuracy"  # what its plot shows

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Fix the sweep's folder for all jobs, and have each job's folder named by the swept values alone.

        Both go to the jobs, which compose configs of their own, as overrides of Hydra's settings: the folder's name may
        depend on a data set that is swept, and all overrides together can be more than a name holds.
        """
        given, swept = _split_keys(config)
        with read_write(config), open_dict(config):
            hydra = config.hydra
            for group in set(swept) & set(hydra.runtime.choices):
                hydra.runtime.choices[group] = swept[group].replace(",", "+")
            hydra.sweep.dir = str(Path(hydra.sweep.dir).absolute())
            excluded = [*hydra.job.config.override_dirname.exclude_keys, *(key for key in given if key not in swept)]
            hydra.overrides.hydra += [
                f"hydra.sweep.dir={common.quote(hydra.sweep.dir)}",
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(common.quote, excluded))}]",
            ]
        SweepReport.folder = Path(hydra.sweep.dir)
        # A sweeper with a direction searches by what the run returns.
        SweepReport.metric = "val_accuracy" if "direction" in hydra.sweeper else "accuracy"

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remove the error of an earlier attempt."""
        if config.hydra.mode == RunMode.MULTIRUN:
            (Path(config.hydra.runtime.output_dir) / ERROR).unlink(missing_ok=True)
            self._own = DISTRIBUTED - set(os.environ)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the error of a failed job, of which Hydra prints the first only, and make room for the next job."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        # The next job would wait for the processes of this one.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name in self._own:
            os.environ.pop(name, None)
        try:
            # Raises the error of a failed job, and writes to stderr what Hydra will write once more.
            with redirect_stderr(io.StringIO()):
                _ = job_return.return_value
        except Exception as error:
            path = Path(config.hydra.runtime.output_dir) / ERROR
            summary = f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
            common.write_text(path, common.mask_text(f"{''.join(traceback.format_exception(error))}{summary}\n"))
            log.error(f"{summary} (traceback in {common.short(path)})")


def _split_keys(config: DictConfig) -> tuple[list[str], dict[str, str]]:
    """Keys of the command line; and those that the sweep varies or could vary, with their values as written."""
    swept = {str(key): str(values) for key, values in (config.hydra.sweeper.get("params") or {}).items()}
    # As they were typed: references, to secrets for instance, are not resolved.
    typed: Any = OmegaConf.to_container(config.hydra.overrides.task)
    overrides = OverridesParser.create().parse_overrides(typed)
    for each in overrides:
        if each.is_sweep_override() or each.key_or_group in swept:
            swept[each.key_or_group] = each.get_value_string()
    return [each.key_or_group for each in overrides], swept


def report_sweep(typed: Sequence[str] = (), *, complete: bool = True) -> None:
    """Print and save the summary of the sweep that this process has started, if any; never raises.

    To be called when Hydra is done, be it by an error: it raises the first failed job's, and then calls no callback.
    `typed` are the words behind `python -m experiments.train`; `complete`: all jobs have been run and none has failed.
    """
    folder, SweepReport.folder = SweepReport.folder, None
    if folder is None or rank_zero_only.rank != 0 or not folder.is_dir():
        return
    begun, unfinished = any(folder.rglob(".hydra")), []
    with optional("the table of the sweep", common.command_line("summarize", folder)):
        if "ray" in sys.modules:
            # It then prints the output of the jobs here, not below the summary.
            sys.modules["ray"].shutdown()
        unfinished = summarize_runs(get_console(), [folder], metric=SweepReport.metric) if begun else []
    # Also for jobs that have not been begun, of which there is no folder.
    if unfinished or not complete:
        kept = [each for each in common.mask_texts(typed) if common.key_of(each) not in ("resume", "hydra.sweep.dir")]
        # The folder may be named after the time.
        words = [*kept, "resume=auto", common.override("hydra.sweep.dir", common.short(folder))]
        command = common.command_line("train", *words)
        common.print_plain(f"\nTo run all that is not finished, and keep the rest:\n  {command}")
    with optional("the report of the sweep", common.command_line("report", folder), folder / REPORT):
        if begun:
            page = write_report([folder])
            width = len(SweepReport.metric) + 10
            common.print_plain(f"{'report':<{width}}{common.short(page)}")
            for picture in sorted(folder.rglob("images.png"))[-1:]:
                common.print_plain(f"{'mixed images':<{width}}{common.short(picture)}\n\nNext steps:")
                common.print_plain(f"  {common.command_line('evaluate', f'checkpoint={common.short(picture.parent)}')}")
                common.print_plain(f"  {common.command_line('show_mixing', '--examples')}")
