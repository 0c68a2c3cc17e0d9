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
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich import get_console

from experiments.common.atomic_files import write_json, write_text
from experiments.common.commands import command_line, report_command, summary_command
from experiments.common.config_checks import RANGES, TRAIN, check_settings, explain, names_a_setting
from experiments.common.console import exit_with_error, short
from experiments.common.errors import RunFolderError, UserError
from experiments.common.masking import (
    check_masked,
    hide_secrets,
    mask_config,
    mask_text,
    mask_texts,
)
from experiments.common.overrides import override
from experiments.common.versions import gather_versions
from experiments.html_report.writing import REPORT, write_report
from experiments.loggers.builders import ended_wandb_run
from experiments.loggers.run_logging import log_outcome, log_settings
from experiments.runs import hydra_setup as settings
from experiments.runs.final_summary import optional, print_early_end, print_final_summary
from experiments.runs.hydra_setup import make_command_repeatable
from experiments.runs.resume import Start, check_start, find_start, is_done
from experiments.runs.run_folder import CONFIG, LAST_CHECKPOINT, SUMMARY
from experiments.runs.stopping import RunStopped, interruptible
from experiments.runs.summary import Summary
from experiments.runs.taking import check_folder, clear_folder, owned
from experiments.sweeps.hydra_errors import in_sweep, leave_errors_to_hydra, readable
from experiments.sweeps.jobs import missing_plugin, report_sweep
from experiments.test_results.results import TEST_RESULTS
from experiments.training.builders import RunComponents, build_components
from experiments.training.mix_image import save_training_picture
from experiments.training.quiet_lightning import quiet_lightning

CONF = Path(__file__).resolve().parents[1] / "conf"
PICTURES, IMAGES = Path("logs") / "images", "images.png"
GROUPS = ("data", "model", "optimizer", "mix", "trainer", "strategy", "logger", "experiment")

log = logging.getLogger(__name__)

settings.register()


def run(cfg: DictConfig) -> Summary:
    """Train, test and report one run into `cfg.paths.run_dir`; with resume=auto a finished one is left as it is.

    Without `resume` what an earlier run has left there goes; the command line asks `check_folder` before.

    Raises:
        MissingDataError: If the data set is not there.
        RunFolderError: If there is nothing to resume, the folder holds another run, or it belongs to one that is running.
        UnwritableError: If a file cannot be written, as on a full disk.
        RunStopped: If it was stopped by Ctrl-C or SIGTERM; a checkpoint is written.
    """
    start = time.perf_counter()
    run_dir = Path(cfg.paths.run_dir)
    with interruptible(), owned(run_dir):
        if is_done(cfg, run_dir):
            log.info(f"skipped: {run_dir} is finished")
            return Summary.load(run_dir / SUMMARY)
        return _run(cfg, run_dir, start)


def _run(cfg: DictConfig, run_dir: Path, start: float) -> Summary:
    make_command_repeatable()
    finished = False
    try:
        with quiet_lightning(), ended_wandb_run():
            study, summary = train_and_test(cfg, run_dir, start)
            if study.trainer.is_global_zero:
                keep(summary, study, run_dir)
                finished = True
                with optional("the result in the loggers", logging_command(run_dir)):
                    log_outcome(
                        study.trainer.loggers, study.model.outcome, summary, cfg, step=study.trainer.global_step
                    )
        # After W&B has said its own last words.
        if study.trainer.is_global_zero:
            close(summary, study, run_dir)
    except BaseException as error:
        # A run that was refused has not ended early: it has not begun.
        if rank_zero_only.rank == 0 and not isinstance(error, RunFolderError):
            print_early_end(error, run_dir, HydraConfig.get().overrides.task, finished=finished)
        raise
    return summary


def train_and_test(cfg: DictConfig, run_dir: Path, start: float) -> tuple[RunComponents, Summary]:
    """Train and test; `start` is when the program began, by `time.perf_counter`."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    origin = find_start(cfg.resume, run_dir)
    notes = [*filter(None, [origin.note]), *check_start(cfg, origin)]
    study = build_components(cfg, kept_steps=origin.steps)
    if study.trainer.is_global_zero:
        clear_folder(run_dir, keep_checkpoints=cfg.resume is not None)
        write_text(run_dir / CONFIG, OmegaConf.to_yaml(mask_config(cfg)))
        write_json(run_dir / "versions.json", gather_versions())
        log_settings(study.trainer.loggers, cfg, choices())
        if origin.checkpoint is not None:
            log.info(f"resuming from {origin.checkpoint}, {origin.steps} steps made")
        for note in notes:
            log.warning(note)
    fit(study, origin)
    # The weights at hand are those of the last epoch: nothing has chosen them by their accuracy.
    (metrics,) = study.trainer.test(study.model, datamodule=study.data, verbose=False)
    return study, summarize(cfg, study, metrics, seconds=time.perf_counter() - start)


def fit(study: RunComponents, origin: Start) -> None:
    """Train.

    Raises:
        RunStopped: If it was stopped by a signal.
    """
    path = None if origin.checkpoint is None else str(origin.checkpoint)
    try:
        study.trainer.fit(study.model, datamodule=study.data, ckpt_path=path, weights_only=True)
    except SIGTERMException:
        # Lightning's exits with 0. In the processes that were not told themselves it is right: they are to end quietly.
        if study.stop.signum is not None:
            raise RunStopped(study.stop.signum) from None
        raise
    # Asked after the last batch, when there was nothing left to stop; the last epoch has left its checkpoint.
    if study.stop.signum is not None:
        raise RunStopped(study.stop.signum)


def choices() -> dict[str, str | None]:
    """The option chosen in each group; None: the group is optional and was left out."""
    chosen = HydraConfig.get().runtime.choices
    return {group: chosen.get(group) for group in GROUPS}


def summarize(cfg: DictConfig, study: RunComponents, metrics: Mapping[str, float], *, seconds: float) -> Summary:
    """Gather the outcome of a finished run."""
    return Summary(
        name=mask_text(cfg.name),
        choices=choices(),
        overrides=mask_texts(HydraConfig.get().overrides.task),
        seed=cfg.seed,
        epochs=study.trainer.current_epoch,
        parameters=sum(parameter.numel() for parameter in study.model.net.parameters()),
        train_images=len(study.data.split("train")),
        test_images=_count_tested(study),
        val_accuracy=study.history.val_accuracy,
        test={name.removeprefix("test_"): value for name, value in metrics.items()},
        test_accuracy_by_epoch=study.history.summary(),
        epoch_seconds=study.timer.typical(),
        total_seconds=seconds,
    )


def _count_tested(study: RunComponents) -> int:
    """Images that the test has seen, which `trainer.limit_test_batches` may have made fewer than there are."""
    # Each process has as many batches, of its share of the batch.
    batches = sum(int(count) for count in study.trainer.num_test_batches)
    return min(len(study.data.split("test")), batches * study.data.batch_size)


def keep(summary: Summary, study: RunComponents, run_dir: Path) -> None:
    """Write outcome and summary."""
    assert study.model.outcome is not None
    study.model.outcome.save(run_dir / TEST_RESULTS)
    # After the outcome: a folder with a summary is a finished run.
    summary.save(run_dir / SUMMARY)


def close(summary: Summary, study: RunComponents, run_dir: Path) -> None:
    """Draw the picture, write the report, and print what was trained, how good it is and where everything is."""
    picture, files = run_dir / IMAGES, {}
    look = command_line("show_mixing", ["--examples", "--checkpoint", str(short(run_dir))])
    with optional(f"the picture {IMAGES}", look, picture):
        caption = save_training_picture(picture, study.model.cpu(), study.mix, study.data)
        files[f"picture of {caption}"] = picture
    if (run_dir / PICTURES).is_dir():
        files["pictures while training"] = run_dir / PICTURES
    with optional("the report", report_command(run_dir), run_dir / REPORT):
        files["report, for a browser"] = write_report([run_dir])
    if study.checkpoint.best_model_path:
        files["best checkpoint"] = Path(study.checkpoint.best_model_path)
    files["last checkpoint"] = run_dir / LAST_CHECKPOINT
    alone = not in_sweep()
    with optional("the final summary", summary_command(run_dir)):
        print_final_summary(get_console(), summary, files, run_dir, alone=alone)


def logging_command(run_dir: Path) -> str:
    """What measures the trained network once more, into the logger of its run."""
    logger = choices()["logger"]
    chosen = [f"logger={logger}"] if logger in ("wandb", "tensorboard") else []
    words = [override("checkpoint", short(run_dir / LAST_CHECKPOINT)), *chosen]
    return command_line("evaluate", words)


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
    except (UserError, MisconfigurationException) as error:
        if in_sweep():
            raise
        exit_with_error(str(error))
    except InstantiationException as error:
        if in_sweep():
            raise
        exit_with_error(explain(error))
    except ValueError as error:
        if in_sweep() or not names_a_setting(error):
            raise
        exit_with_error(str(error))


def command() -> None:
    """The command line: a run, or a sweep, which ends with its summary whatever became of its jobs."""
    try:
        sys.argv[1:] = hide_secrets(sys.argv[1:])
    except UserError as error:
        exit_with_error(str(error))
    # With references in place of secrets.
    typed = sys.argv[1:]
    missing = missing_plugin(typed)
    if missing:
        exit_with_error(missing)
    complete = False
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
