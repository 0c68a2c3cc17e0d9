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

from experiments import settings
from experiments.atomic_files import UnwritableError, write_text
from experiments.building import Study, build_study
from experiments.claiming import check_folder, clear_folder, owned
from experiments.closing import print_closing
from experiments.commands import command_line, override
from experiments.config_checks import RANGES, TRAIN, SettingError, check_settings, explain, names_a_setting
from experiments.data import DatasetError, MissingDataError
from experiments.ending import optional, report_command, summary_command, tell_end, tell_stop
from experiments.figures import save_training_picture
from experiments.giving_up import give_up
from experiments.hydra_errors import in_sweep, leave_errors_to_hydra, readable
from experiments.loggers import ended_wandb_run
from experiments.masking import MaskedSettingError, check_masked, hide_secrets, mask_config, mask_text, mask_texts
from experiments.outcome import OUTCOME
from experiments.printing import short
from experiments.quiet_lightning import quiet_lightning
from experiments.report import REPORT, write_report
from experiments.reporting import Summary
from experiments.run_errors import RunFolderError
from experiments.run_logging import log_outcome, log_settings
from experiments.runs import (
    CONFIG,
    LAST_CHECKPOINT,
    SUMMARY,
    Start,
    check_start,
    find_start,
    is_done,
    make_command_repeatable,
)
from experiments.stopping import RunInterrupted, RunStopped, interruptible
from experiments.sweeps import missing_plugin, report_sweep
from experiments.versions import save_versions

CONF = Path(__file__).resolve().parents[1] / "conf"
PICTURES, IMAGES = Path("logs") / "pictures", "images.png"
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
            tell_end(error, run_dir, HydraConfig.get().overrides.task, finished=finished)
        raise
    return summary


def train_and_test(cfg: DictConfig, run_dir: Path, start: float) -> tuple[Study, Summary]:
    """Train and test; `start` is when the program began, by `time.perf_counter`."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    origin = find_start(cfg.resume, run_dir)
    notes = [*filter(None, [origin.note]), *check_start(cfg, origin)]
    study = build_study(cfg, kept_steps=origin.steps)
    if study.trainer.is_global_zero:
        clear_folder(run_dir, keep_checkpoints=cfg.resume is not None)
        write_text(run_dir / CONFIG, OmegaConf.to_yaml(mask_config(cfg)))
        save_versions(run_dir / "versions.json")
        log_settings(study.trainer.loggers, cfg, choices())
        if origin.checkpoint is not None:
            log.info(f"resuming from {origin.checkpoint}, {origin.steps} steps made")
        for note in notes:
            log.warning(note)
    fit(study, origin)
    # The weights at hand are those of the last epoch: nothing has chosen them by their accuracy.
    (metrics,) = study.trainer.test(study.model, datamodule=study.data, verbose=False)
    return study, summarise(cfg, study, metrics, seconds=time.perf_counter() - start)


def fit(study: Study, origin: Start) -> None:
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


def summarise(cfg: DictConfig, study: Study, metrics: Mapping[str, float], *, seconds: float) -> Summary:
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


def _count_tested(study: Study) -> int:
    """Images that the test has seen, which `trainer.limit_test_batches` may have made fewer than there are."""
    # Each process has as many batches, of its share of the batch.
    batches = sum(int(count) for count in study.trainer.num_test_batches)
    return min(len(study.data.split("test")), batches * study.data.batch_size)


def keep(summary: Summary, study: Study, run_dir: Path) -> None:
    """Write outcome and summary."""
    assert study.model.outcome is not None
    study.model.outcome.save(run_dir / OUTCOME)
    # After the outcome: a folder with a summary is a finished run.
    summary.save(run_dir / SUMMARY)


def close(summary: Summary, study: Study, run_dir: Path) -> None:
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
        print_closing(get_console(), summary, files, run_dir, alone=alone)


def logging_command(run_dir: Path) -> str:
    """What measures the trained network once more, into the logger of its run."""
    logger = choices()["logger"]
    chosen = [f"logger={logger}"] if logger in ("wandb", "tensorboard") else []
    words = [override("checkpoint", short(run_dir / LAST_CHECKPOINT)), *chosen]
    return command_line("evaluate", words)


class MissingSettingsError(ValueError):
    """Settings that have no default were not given."""


# What a user can put right.
MISTAKES = (
    DatasetError, MaskedSettingError, MisconfigurationException, MissingDataError, MissingSettingsError, RunFolderError,
    SettingError, UnwritableError,
)  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run and return the validation accuracy, which a sweeper may maximise.

    What a user can put right ends in a message and exit code 1, without a traceback; in a sweep it is raised, so that the
    other jobs go on.
    """
    leave_errors_to_hydra()
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            keys = ", ".join(f"{key}=..." for key in missing)
            raise MissingSettingsError(f"These settings have no default and must be given: {keys}")
        check_masked(cfg)
        check_settings(cfg, TRAIN)
        run_dir = Path(cfg.paths.run_dir)
        with owned(run_dir):
            check_folder(cfg, run_dir)
            return run(cfg).val_accuracy
    except MISTAKES as error:
        if in_sweep():
            raise
        give_up(str(error))
    except InstantiationException as error:
        if in_sweep():
            raise
        give_up(explain(error))
    except ValueError as error:
        if in_sweep() or not names_a_setting(error):
            raise
        give_up(str(error))


def command() -> None:
    """The command line: a run, or a sweep, which ends with its summary whatever became of its jobs."""
    try:
        sys.argv[1:] = hide_secrets(sys.argv[1:])
    except MaskedSettingError as error:
        give_up(str(error))
    # With references in place of secrets.
    typed = sys.argv[1:]
    missing = missing_plugin(typed)
    if missing:
        give_up(missing)
    complete = False
    try:
        with interruptible(), readable([*TRAIN, *GROUPS, *RANGES]):
            main()
        complete = True
    except RunInterrupted as stop:
        tell_stop(stop)
        raise
    finally:
        report_sweep(typed, complete=complete)


if __name__ == "__main__":
    command()
