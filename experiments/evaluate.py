"""Measure a trained network: `python -m experiments.evaluate checkpoint=...`; settings in `conf/evaluate.yaml`."""

import json
import logging
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich import get_console

from experiments import common, robustness
from experiments.checkpoints import choose_output_dir, complete_config, find_checkpoint
from experiments.common import UserError, short
from experiments.common.config_checks import EVALUATE, check_settings
from experiments.data import CorruptedImages
from experiments.loggers import ended_wandb_run
from experiments.runs import optional, store_permissive_groups
from experiments.sweeps import checked_job, in_sweep, run_command

CONF = Path(__file__).resolve().parents[1] / "conf"
RESULT, PLOT, DPI = "evaluation.json", "evaluation.png", 150

log = logging.getLogger(__name__)


def register() -> None:
    """Tell Hydra what `conf/evaluate.yaml` refers to: resolvers, and groups that take any key."""
    store_permissive_groups("permissive_evaluation_groups", ("data", "model", "logger"))
    OmegaConf.register_new_resolver("evaluation_dir", choose_output_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("absolute", lambda path: str(Path(path).absolute()), replace=True)


register()


def run(cfg: DictConfig) -> robustness.EvaluationResults:
    """Evaluate one checkpoint into `cfg.output_dir`; each part is saved when it is done, and kept if a later one fails."""
    file = Path(cfg.output_dir) / RESULT
    with ended_wandb_run():
        location = find_checkpoint(cfg.checkpoint)
        cfg = complete_config(cfg, location, allow=list(cfg.allow))
        check_settings(cfg, EVALUATE)
        attacks = robustness.build_attacks(cfg.attacks)
        evaluator, facts = robustness.build_evaluator(cfg, location)
        root, types = cfg.corruptions.root, cfg.corruptions.types
        corrupted = CorruptedImages(root, evaluator.data, types) if root else None
        results = robustness.EvaluationResults(facts={**facts, "sweep_job": claim(file)})
        results.save(file)
        title = location.title(facts["architecture"])
        loggers = robustness.build_loggers(cfg, location, title)
        log.info(f"Each part is saved in {short(file)} when it is done")
        results.clean = evaluator.measure_clean()
        results.save(file)
        for name, attack in attacks.items():
            results.attacks[name] = evaluator.measure_attack(name, attack)
            log.info(f"{name}: accuracy {results.attacks[name].accuracy:.4f}")
            results.save(file)
        if corrupted is not None:
            results.corruptions = robustness.CorruptionScores(root=str(corrupted.root))
            for name in corrupted.types:
                evaluator.measure_corruption(corrupted, name, results.corruptions)
                log.info(f"{name}: accuracy {results.corruptions.mean_by_type[name]:.4f}")
                results.save(file)
        results.complete = True
        results.save(file)
        overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        repeat = common.command_line("evaluate", *common.mask_texts(overrides))
        print_results(results, title, file, repeat)
        with optional("the result in the loggers", repeat):
            robustness.log_evaluation(loggers, results, title, step=location.steps())
        return results


def claim(file: Path) -> list[Any] | None:
    """The folder of this sweep and the number of this job; a UserError if another of its jobs has written to the file."""
    if not in_sweep():
        return None
    job = [HydraConfig.get().sweep.dir, HydraConfig.get().job.num]
    other = json.loads(file.read_bytes()).get("sweep_job") if file.is_file() else None
    if other and other[0] == job[0] and other != job:
        advice = "give each its own folder, e.g. 'output_dir=runs/evaluations/${hydra:job.num}'"
        raise UserError(f"Two jobs of this sweep write to {file}; {advice}")
    return job


def print_results(results: robustness.EvaluationResults, title: str, file: Path, repeat: str) -> None:
    """Save the plot beside the file and print the tables and, as the last lines, the files."""
    plot = file.with_name(PLOT)
    with optional(f"the plot {PLOT}", repeat, plot):
        common.save_figure(robustness.plot_evaluation(results, title), plot, dpi=DPI)
    get_console().print(*results.tables(title), sep="\n")
    for path in filter(Path.exists, (file, plot)):
        common.print_plain(str(short(path)))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Run the evaluation."""
    with checked_job(cfg, EVALUATE):
        run(cfg)


def command() -> None:
    """The command line: an evaluation, or a sweep of them."""
    run_command(main, [*EVALUATE, "data", "model", "logger", "attacks"])


if __name__ == "__main__":
    command()
