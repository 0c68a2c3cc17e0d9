"""Train and test a classifier: `python -m experiments.train`; settings in `conf/train.yaml`."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich import get_console

from experiments.common import (
    RunFolderError,
    UserError,
    check_masked,
    command_line,
    exit_with_error,
    hide_secrets,
    mask_config,
    override,
    report_command,
    short,
    summary_command,
    write_json,
    write_text,
)
from experiments.common.config_checks import RANGES, TRAIN, check_settings, explain, names_a_setting
from experiments.common.versions import gather_versions
from experiments.html_report import REPORT, write_report
from experiments.loggers import ended_wandb_run, log_settings, log_test_results
from experiments.runs import (
    CONFIG,
    LAST_CHECKPOINT,
    SUMMARY,
    RunStopped,
    Summary,
    check_folder,
    check_start,
    find_start,
    interruptible,
    is_done,
    make_command_repeatable,
    optional,
    owned,
    print_early_end,
    print_final_summary,
    register,
)
from experiments.sweeps import in_sweep, leave_errors_to_hydra, readable, report_sweep
from experiments.test_results import TEST_RESULTS
from experiments.training import RunComponents, build_components, quiet_lightning, save_training_images

CONF = Path(__file__).resolve().parents[1] / "conf"
LOGGED_IMAGES, IMAGES = Path("logs") / "images", "images.png"
GROUPS = ("data", "model", "optimizer", "scheduler", "mix", "trainer", "strategy", "logger", "experiment")

log = logging.getLogger(__name__)

register()


def run(cfg: DictConfig) -> Summary:
    """Train, test and report one run into `cfg.paths.run_dir`; with resume=auto a finished one is left as it is.

    The files of an earlier run are replaced; the command line asks `check_folder` before.

    Raises:
        MissingDataError: If the data set is not there.
        RunFolderError: If there is nothing to resume, the folder holds another run, or it belongs to one that is running.
        UnwritableError: If a file cannot be written, as on a full disk.
        RunStopped: If it was stopped by Ctrl-C or SIGTERM; a checkpoint is written.
    """
    start_time, run_dir, finished = time.perf_counter(), Path(cfg.paths.run_dir), False
    with interruptible(), owned(run_dir):
        if is_done(cfg, run_dir):
            log.info(f"skipped: {run_dir} is finished")
            return Summary.load(run_dir / SUMMARY)
        make_command_repeatable()
        try:
            with quiet_lightning(), ended_wandb_run():
                parts, metrics = train_and_test(cfg, run_dir)
                summary = parts.summarize(cfg, metrics, choices(), seconds=time.perf_counter() - start_time)
                if parts.trainer.is_global_zero:
                    assert parts.model.test_results is not None
                    parts.model.test_results.save(run_dir / TEST_RESULTS)
                    # Last: a folder with a summary is a finished run.
                    summary.save(run_dir / SUMMARY)
                    finished = True
                    log_results(cfg, parts, summary, run_dir)
            # After W&B's own summary.
            if parts.trainer.is_global_zero:
                report(parts, summary, run_dir)
        except BaseException as error:
            # A run that was refused has not ended early: it has not begun.
            if rank_zero_only.rank == 0 and not isinstance(error, RunFolderError):
                print_early_end(error, run_dir, HydraConfig.get().overrides.task, finished=finished)
            raise
    return summary


def train_and_test(cfg: DictConfig, run_dir: Path) -> tuple[RunComponents, Mapping[str, float]]:
    """Build all parts, train, and test; return the parts and the test metrics."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    start = find_start(cfg.resume, run_dir)
    notes = check_start(cfg, start)
    parts = build_components(cfg, kept_steps=start.steps)
    if parts.trainer.is_global_zero:
        # From here on it is no finished run.
        (run_dir / SUMMARY).unlink(missing_ok=True)
        write_text(run_dir / CONFIG, OmegaConf.to_yaml(mask_config(cfg)))
        write_json(run_dir / "versions.json", gather_versions())
        log_settings(parts.trainer.loggers, cfg, choices())
        if start.checkpoint is not None:
            log.info(f"resuming from {start.checkpoint}, {start.steps} steps made")
        for note in notes:
            log.warning(note)
    parts.fit(start.checkpoint)
    # The weights at hand are those of the last epoch: nothing has chosen them by their accuracy.
    (metrics,) = parts.trainer.test(parts.model, datamodule=parts.data, verbose=False)
    return parts, metrics


def choices() -> dict[str, str | None]:
    """The option chosen in each group; None: the group is optional and was left out."""
    chosen = HydraConfig.get().runtime.choices
    return {group: chosen.get(group) for group in GROUPS}


def log_results(cfg: DictConfig, parts: RunComponents, summary: Summary, run_dir: Path) -> None:
    """Log scores and test results; should that fail, an evaluation with the same logger does it."""
    logger = summary.choices["logger"]
    checkpoint = override("checkpoint", short(run_dir / LAST_CHECKPOINT))
    remedy = [checkpoint, *([f"logger={logger}"] if logger in ("wandb", "tensorboard") else [])]
    with optional("the result in the loggers", command_line("evaluate", remedy)):
        trainer, results = parts.trainer, parts.model.test_results
        assert results is not None
        log_test_results(trainer.loggers, results, summary, cfg, step=trainer.global_step)


def report(parts: RunComponents, summary: Summary, run_dir: Path) -> None:
    """Plot the training images, write the report, and print what was trained, its accuracy and where everything is."""
    images, files = run_dir / IMAGES, {}
    remedy = command_line("show_mixing", ["--examples", "--checkpoint", str(short(run_dir))])
    with optional(f"the picture {IMAGES}", remedy, images):
        files[f"picture of {save_training_images(images, parts.model.cpu(), parts.mix, parts.data)}"] = images
    if (run_dir / LOGGED_IMAGES).is_dir():
        files["pictures while training"] = run_dir / LOGGED_IMAGES
    with optional("the report", report_command(run_dir), run_dir / REPORT):
        files["report, for a browser"] = write_report([run_dir])
    if parts.best_checkpoint.best_model_path:
        files["best checkpoint"] = Path(parts.best_checkpoint.best_model_path)
    files["last checkpoint"] = run_dir / LAST_CHECKPOINT
    with optional("the final summary", summary_command(run_dir)):
        print_final_summary(get_console(), summary, files, run_dir, alone=not in_sweep())


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run and return the validation accuracy, which a sweeper may maximize.

    What a user can put right ends in a message and exit code 1, without a traceback; in a sweep it is raised, so that the
    other jobs go on.
    """
    leave_errors_to_hydra()
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            keys = ", ".join(f"{key}=..." for key in missing)
            raise UserError(f"These settings have no default and must be given: {keys}")
        check_masked(cfg)
        check_settings(cfg, TRAIN)
        run_dir = Path(cfg.paths.run_dir)
        with owned(run_dir):
            check_folder(cfg, run_dir)
            return run(cfg).val_accuracy
    except (ValueError, MisconfigurationException, InstantiationException) as error:
        by_user = isinstance(error, UserError) or not isinstance(error, ValueError) or names_a_setting(error)
        if in_sweep() or not by_user:
            raise
        exit_with_error(explain(error) if isinstance(error, InstantiationException) else str(error))


def command() -> None:
    """The command line: a run, or a sweep, which ends with its summary whatever becomes of its jobs."""
    try:
        sys.argv[1:] = hide_secrets(sys.argv[1:])
    except UserError as error:
        exit_with_error(str(error))
    # With references in place of secrets.
    typed, complete = sys.argv[1:], False
    try:
        with interruptible(), readable([*TRAIN, *GROUPS, *RANGES]):
            main()
        complete = True
    except RunStopped as stop:
        stop.report()
        raise
    finally:
        report_sweep(typed, complete=complete)


if __name__ == "__main__":
    command()
