"""Train and test a classifier: `python -m experiments.train`; settings in `conf/train.yaml`."""

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich import get_console

from experiments import settings
from experiments.building import Study, build_study
from experiments.data import MissingDataError
from experiments.figures import save_training_picture
from experiments.reporting import Summary, print_report

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = ("data", "model", "optimizer", "mix", "trainer", "logger")

settings.register()


def run(cfg: DictConfig) -> Summary:
    """Train, test and report one run into `cfg.paths.run_dir`.

    Raises:
        MissingDataError: If the data set is not there.
    """
    start = time.perf_counter()
    run_dir = Path(cfg.paths.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _quiet_lightning()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    study = build_study(cfg)
    if study.trainer.is_global_zero:
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    study.trainer.fit(study.model, datamodule=study.data, ckpt_path=cfg.ckpt_path)
    # The weights at hand are those of the last epoch: nothing has chosen them by their accuracy.
    (metrics,) = study.trainer.test(study.model, datamodule=study.data, verbose=False)
    summary = summarise(cfg, study, metrics, seconds=time.perf_counter() - start)
    if study.trainer.is_global_zero:
        report(summary, study, run_dir)
    return summary


def summarise(cfg: DictConfig, study: Study, metrics: Mapping[str, float], *, seconds: float) -> Summary:
    """Gather the outcome of a finished run."""
    choices = HydraConfig.get().runtime.choices
    return Summary(
        name=cfg.name,
        choices={group: choices[group] for group in GROUPS},
        seed=cfg.seed,
        epochs=study.trainer.current_epoch,
        parameters=sum(parameter.numel() for parameter in study.model.net.parameters()),
        train_images=len(study.data.split("train")),
        test_images=_count_tested(study),
        test={name.removeprefix("test_"): value for name, value in metrics.items()},
        epoch_seconds=study.timer.typical(),
        total_seconds=seconds,
    )


def _count_tested(study: Study) -> int:
    """Images that the test has seen, which `trainer.limit_test_batches` may have made fewer than there are."""
    batches = sum(int(count) for count in study.trainer.num_test_batches) * study.trainer.world_size
    return min(len(study.data.split("test")), batches * study.data.batch_size)


def report(summary: Summary, study: Study, run_dir: Path) -> None:
    """Write summary and picture, print the table and where everything is."""
    summary.save(run_dir / "summary.json")
    picture = run_dir / "images.png"
    caption = save_training_picture(picture, study.model.cpu(), study.mix, study.data)
    files = {"config": run_dir / "config.yaml", "summary": run_dir / "summary.json"}
    if study.trainer.loggers:
        files["metrics"] = run_dir / "logs" / "metrics.csv"
    files[caption] = picture
    if study.checkpoint.best_model_path:
        files["best checkpoint"] = Path(study.checkpoint.best_model_path)
    files["last checkpoint"] = Path(study.checkpoint.last_model_path)
    print_report(get_console(), summary, files)


def _quiet_lightning() -> None:
    """Leave out what Lightning says about the machine at every start; real warnings stay."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_worth_saying)
    # Lightning calls an old name of torch's; nothing that a user could change.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.* is deprecated.*")
    # The digits are in memory: loader processes would only cost time.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def _is_worth_saying(record: logging.LogRecord) -> bool:
    # What the mixing callbacks say starts with their name.
    return record.levelno >= logging.WARNING or "Mix" in record.getMessage().split(":")[0]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> None:
    """Run; missing settings and missing data end in a message and exit code 1, without a traceback."""
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        _give_up(
            f"These settings have no default and must be given: {', '.join(f'{key}=...' for key in sorted(missing))}"
        )
    try:
        run(cfg)
    except MissingDataError as error:
        _give_up(str(error))


def _give_up(message: str) -> NoReturn:
    get_console().print(message, soft_wrap=True, highlight=False, markup=False, style="red")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
