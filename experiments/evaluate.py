"""Measure a trained network: `python -m experiments.evaluate checkpoint=...`; settings in `conf/evaluate.yaml`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from rich import get_console
from rich.console import Group

from experiments import robustness
from experiments.checkpoints import choose_output_dir, complete_config, find_checkpoint
from experiments.common import (
    UserError,
    check_masked,
    command_line,
    exit_with_error,
    hide_secrets,
    mask_texts,
    print_plain,
    save_figure,
    short,
)
from experiments.common.config_checks import EVALUATE, check_settings, explain
from experiments.data import open_corruptions
from experiments.loggers import ended_wandb_run
from experiments.runs import RunStopped, hydra_setup, interruptible, optional
from experiments.sweeps import in_sweep, leave_errors_to_hydra, readable

CONF = Path(__file__).resolve().parents[1] / "conf"
RESULT, PLOT, DPI = "evaluation.json", "evaluation.png", 150


def register() -> None:
    """Tell Hydra what `conf/evaluate.yaml` refers to: resolvers, and groups that take any key, see `hydra_setup`."""
    hydra_setup.register()
    OmegaConf.register_new_resolver("evaluation_dir", choose_output_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("absolute", lambda path: str(Path(path).absolute()), replace=True)
    groups = {group: DictConfig({}, flags={"struct": False}) for group in ("data", "model", "logger")}
    ConfigStore.instance().store(name="permissive_evaluation_groups", node=OmegaConf.create(groups))


register()


def run(cfg: DictConfig) -> robustness.EvaluationResults:
    """Evaluate one checkpoint into `cfg.output_dir`; each part is saved when it is done, and kept if a later one fails.

    Raises:
        UserError: If a setting is wrong, the checkpoint does not fit the model, or data are missing, see `build_evaluator`.
    """
    file = Path(cfg.output_dir) / RESULT
    with _message_at_stop(file), ended_wandb_run():
        location = find_checkpoint(cfg.checkpoint)
        cfg = complete_config(cfg, location, allow=list(cfg.allow))
        check_settings(cfg, EVALUATE)
        attacks = robustness.build_attacks(cfg.attacks)
        evaluator, checkpoint = robustness.build_evaluator(cfg, location.path)
        corrupted, types = None, []
        if cfg.corruptions.root is not None:
            corrupted, types = open_corruptions(cfg.corruptions.root, evaluator.data, types=cfg.corruptions.types)
        facts = robustness.gather_facts(cfg, location, checkpoint, evaluator)
        settings = {name: robustness.describe_attack(attack) for name, attack in attacks.items()}
        results = robustness.EvaluationResults(facts=facts, attack_settings=settings)
        results.start_file(file)
        title = location.title(checkpoint.architecture)
        loggers = robustness.build_evaluation_loggers(cfg, location, title)
        results.clean = evaluator.measure_clean()
        results.save(file)
        for name, attack in attacks.items():
            results.attacks[name] = evaluator.measure_attack(name, attack)
            results.save(file)
        if corrupted is not None:
            results.corruptions = robustness.CorruptionScores(root=str(corrupted.root.absolute()))
            for name in types:
                evaluator.measure_corruption(corrupted, name, results.corruptions)
                results.save(file)
        results.complete = True
        results.save(file)
        print_results(results, title, file)
        with optional("the result in the loggers", _command()):
            robustness.log_evaluation(loggers, results, title, step=location.steps())
        return results


@contextmanager
def _message_at_stop(file: Path) -> Iterator[None]:
    """Inside, a signal ends the evaluation with a message: what was measured, and the command that measures all of it."""
    try:
        with interruptible():
            yield
    except RunStopped as stop:
        stop.is_reported = True
        kept = f"what was measured by then is in {short(file)}" if file.is_file() else "nothing was measured by then"
        print_plain(f"{stop}: {kept}. To measure all of it:\n{_command()}")
        raise


def _command() -> str:
    """The command that evaluates again."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return command_line("evaluate", mask_texts(overrides))


def print_results(results: robustness.EvaluationResults, title: str, file: Path) -> None:
    """Save the plot beside the file and print the tables and, as the last lines, the files."""
    plot, files = file.with_name(PLOT), [file]
    with optional(f"the plot {PLOT}", _command(), plot):
        save_figure(robustness.plot_evaluation(results, title), plot, dpi=DPI)
        files.append(plot)
    with optional("the table", _command()):
        get_console().print(Group(*results.tables(title)))
        for path in files:
            print_plain(str(short(path)))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Run the evaluation; a UserError ends in its message and exit code 1, in a sweep it is raised: other jobs continue."""
    leave_errors_to_hydra()
    try:
        check_masked(cfg)
        check_settings(cfg, EVALUATE)
        run(cfg)
    except (UserError, InstantiationException) as error:
        if in_sweep():
            raise
        exit_with_error(explain(error) if isinstance(error, InstantiationException) else str(error))


def command() -> None:
    """The command line."""
    try:
        sys.argv[1:] = hide_secrets(sys.argv[1:])
    except UserError as error:
        exit_with_error(str(error))
    try:
        with interruptible(), readable([*EVALUATE, "data", "model", "logger", "attacks"]):
            main()
    except RunStopped as stop:
        stop.report()
        raise


if __name__ == "__main__":
    command()
