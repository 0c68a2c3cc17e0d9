"""Train and test a classifier: `python -m experiments.train`; settings in `conf/train.yaml`."""

import logging
import time
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich import get_console

from experiments import common, html_report, loggers, runs, sweeps, training
from experiments.common.config_checks import RANGES, TRAIN
from experiments.common.versions import gather_versions
from experiments.test_results import TEST_RESULTS

CONF = Path(__file__).resolve().parents[1] / "conf"

log = logging.getLogger(__name__)

runs.store_permissive_groups()


def run(cfg: DictConfig) -> runs.Summary:
    """Train, test and report a run in `cfg.paths.run_dir`; what is there is left if it is finished and resume=auto."""
    run_dir = Path(cfg.paths.run_dir)
    with runs.interruptible(), runs.owned(run_dir):
        if runs.is_done(cfg, run_dir):
            log.info(f"skipped: {run_dir} is finished")
            return runs.Summary.load(run_dir / runs.SUMMARY)
        runs.make_command_repeatable()
        try:
            with loggers.ended_wandb_run():
                parts, summary = train_and_test(cfg, run_dir)
            # After W&B's own summary.
            if parts.trainer.is_global_zero:
                report(parts, summary, run_dir)
        except BaseException as error:
            # A run that was refused has not ended early: it has not begun.
            if rank_zero_only.rank == 0 and not isinstance(error, common.RunFolderError):
                finished = (run_dir / runs.SUMMARY).is_file()
                runs.print_early_end(error, run_dir, HydraConfig.get().overrides.task, finished=finished)
            raise
    return summary


def train_and_test(cfg: DictConfig, run_dir: Path) -> tuple[training.RunComponents, runs.Summary]:
    """Build all parts, train, test, and save the result."""
    start_time = time.perf_counter()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    start = runs.find_start(cfg.resume, run_dir)
    notes = runs.check_start(cfg, start)
    parts = training.build_components(cfg, kept_steps=start.steps)
    if parts.trainer.is_global_zero:
        # From here on it is no finished run.
        (run_dir / runs.SUMMARY).unlink(missing_ok=True)
        common.write_text(run_dir / runs.CONFIG, OmegaConf.to_yaml(common.mask_config(cfg)))
        common.write_json(run_dir / "versions.json", gather_versions())
        loggers.log_settings(parts.trainer.loggers, cfg, training.choices())
        if start.checkpoint is not None:
            log.info(f"resuming from {start.checkpoint}, {start.steps} steps made")
        for note in notes:
            log.warning(note)
    parts.fit(start.checkpoint)
    # The weights at hand are those of the last epoch: nothing has chosen them by their accuracy.
    (metrics,) = parts.trainer.test(parts.model, datamodule=parts.data, verbose=False)
    summary, results = parts.summarize(cfg, metrics, seconds=time.perf_counter() - start_time), parts.model.test_results
    if parts.trainer.is_global_zero:
        results.save(run_dir / TEST_RESULTS)
        # Last: a folder with a summary is a finished run.
        summary.save(run_dir / runs.SUMMARY)
        remedy = [common.override("checkpoint", common.short(run_dir / runs.LAST_CHECKPOINT))]
        remedy += [f"logger={logger}" for logger in ("wandb", "tensorboard") if logger == summary.choices["logger"]]
        with runs.optional("the result in the loggers", common.command_line("evaluate", *remedy)):
            loggers.log_test_results(parts.trainer.loggers, results, summary, cfg, step=parts.trainer.global_step)
    return parts, summary


def report(parts: training.RunComponents, summary: runs.Summary, run_dir: Path) -> None:
    """Plot the training images, write the report, and print what was trained, its accuracy and where everything is."""
    images, logged_images, files = run_dir / "images.png", run_dir / "logs" / "images", {}
    remedy = common.command_line("show_mixing", "--examples", "--checkpoint", run_dir)
    with runs.optional(f"the picture {images.name}", remedy, images):
        shown = training.save_training_images(images, parts.model.cpu(), parts.mix, parts.data)
        files[f"picture of {shown}"] = images
    if logged_images.is_dir():
        files["pictures while training"] = logged_images
    with runs.optional("the report", common.command_line("report", run_dir), run_dir / html_report.REPORT):
        files["report, for a browser"] = html_report.write_report([run_dir])
    if parts.trainer.checkpoint_callback.best_model_path:
        files["best checkpoint"] = Path(parts.trainer.checkpoint_callback.best_model_path)
    files["last checkpoint"] = run_dir / runs.LAST_CHECKPOINT
    with runs.optional("the final summary", common.command_line("summarize", run_dir)):
        runs.print_final_summary(get_console(), summary, files, run_dir, alone=not sweeps.in_sweep())


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run and return the validation accuracy."""
    with sweeps.checked_job(cfg, TRAIN), runs.owned(Path(cfg.paths.run_dir)):
        runs.check_folder(cfg, Path(cfg.paths.run_dir))
        return run(cfg).val_accuracy


def command() -> None:
    """The command line: a run or a sweep."""
    sweeps.run_command(main, [*TRAIN, *training.GROUPS, *RANGES])


if __name__ == "__main__":
    command()
