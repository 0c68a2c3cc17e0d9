"""Measure a trained network: `python -m experiments.evaluate checkpoint=...`; settings in `conf/evaluate.yaml`."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich import get_console

from experiments.checkpoints.weights import Checkpoint
from experiments.common.commands import command_line
from experiments.common.config_checks import EVALUATE, check_settings, explain
from experiments.common.console import exit_with_error, print_plain, short
from experiments.common.errors import UserError
from experiments.common.masking import check_masked, hide_secrets, mask_settings, mask_texts
from experiments.common.versions import gather_versions
from experiments.data.corruptions import open_corruptions
from experiments.loggers.builders import ended_wandb_run
from experiments.robustness.checkpoint_source import CheckpointSource, choose_output_dir, complete, find_checkpoint
from experiments.robustness.evaluation_logging import build_evaluation_loggers, log_evaluation, steps_of
from experiments.robustness.evaluator import Evaluator, build_evaluator
from experiments.robustness.plots import save_picture
from experiments.robustness.registry import build_attacks, describe_attack
from experiments.robustness.results import CorruptionScores, Report, print_report
from experiments.runs import hydra_setup as settings
from experiments.runs.final_summary import optional
from experiments.runs.stopping import RunStopped, interruptible
from experiments.sweeps.hydra_errors import in_sweep, leave_errors_to_hydra, readable

CONF = Path(__file__).resolve().parents[1] / "conf"
RESULT, PICTURE = "evaluation.json", "evaluation.png"
RECORDED = ("attacks", "corruptions", "limit", "batch_size", "seed")

log = logging.getLogger(__name__)


def register() -> None:
    """Tell Hydra what `conf/evaluate.yaml` refers to: resolvers, and groups that take any key, see `settings.register`."""
    settings.register()
    OmegaConf.register_new_resolver("evaluation_dir", choose_output_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("absolute", lambda path: str(Path(path).absolute()), replace=True)
    base = OmegaConf.create({})
    for group in ("data", "model", "logger"):
        OmegaConf.update(base, group, DictConfig({}, flags={"struct": False}))
    ConfigStore.instance().store(name="open_evaluation_groups", node=base)


register()


def run(cfg: DictConfig) -> Report:
    """Evaluate one checkpoint into `cfg.output_dir`; what is done is on disk, so that a killed evaluation keeps it.

    Raises:
        UserError: If the checkpoint does not fit the model.
        UserError: If the corrupted images are not there, or not in their layout.
        UserError: If a setting is wrong, or the model gives NaN.
        UserError: If the run names anything that is not built from a run folder.
        MissingDataError: If the data set is not there.
    """
    try:
        with interruptible(), ended_wandb_run():
            return _run(cfg)
    except RunStopped as stop:
        stop.is_reported = True
        result = Path(cfg.output_dir) / RESULT
        kept = (
            f"what was measured by then is in {short(result)}" if result.is_file() else "nothing was measured by then"
        )
        print_plain(f"{stop}: {kept}. To measure all of it:\n{_command()}")
        raise


def _command() -> str:
    """The command that evaluates again."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return command_line("evaluate", mask_texts(overrides))


def _run(cfg: DictConfig) -> Report:
    source = find_checkpoint(cfg.checkpoint)
    cfg = complete(cfg, source, allow=list(cfg.allow))
    check_settings(cfg, EVALUATE)
    attacks = build_attacks(_plain(cfg.attacks))
    subject, loaded = build_evaluator(cfg, source)
    opened = None
    if cfg.corruptions.root is not None:
        opened = open_corruptions(cfg.corruptions.root, subject.data, types=cfg.corruptions.types)
    facts = gather_facts(cfg, source, loaded, subject)
    report = Report(facts=facts, attack_settings={name: describe_attack(attack) for name, attack in attacks.items()})
    result, title = start_result(Path(cfg.output_dir), report), describe(source, loaded)
    loggers = build_evaluation_loggers(cfg, source, title)
    report.clean = subject.measure_clean()
    report.save(result)
    for name, attack in attacks.items():
        report.attacks[name] = subject.measure_attack(name, attack)
        report.save(result)
    if opened is not None:
        corrupted, types = opened
        report.corruptions = CorruptionScores(root=str(corrupted.root.absolute()))
        for name in types:
            subject.measure_corruption(corrupted, name, report.corruptions)
            report.save(result)
    report.complete = True
    report.save(result)
    picture = result.with_name(PICTURE)
    files = [result]
    with optional(f"the picture {PICTURE}", _command(), picture):
        save_picture(picture, report, title)
        files.append(picture)
    with optional("the table", _command()):
        print_report(get_console(), report, title, files)
    with optional("the result in the loggers", _command()):
        log_evaluation(loggers, report, title, step=steps_of(source))
    return report


def gather_facts(cfg: DictConfig, source: CheckpointSource, loaded: Checkpoint, subject: Evaluator) -> dict[str, Any]:
    """What the file says about where the numbers come from."""
    return {
        "checkpoint": str(source.path.absolute()),
        "checkpoint_source": loaded.source,
        "epoch": loaded.epoch,
        "architecture": loaded.architecture,
        "results_in_checkpoint": loaded.results,
        "data": mask_settings(_plain(cfg.data)),
        "model": mask_settings(_plain(cfg.model)),
        "settings": {key: _plain(cfg[key]) for key in RECORDED},
        "device": str(subject.device),
        "test_images": len(subject.data.split("test")),
        "versions": gather_versions(),
        "sweep_job": _sweep_job(),
    }


def _sweep_job() -> list[Any] | None:
    """The folder of the sweep and the number of this job in it; None outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return [HydraConfig.get().sweep.dir, HydraConfig.get().job.num]


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def start_result(output_dir: Path, report: Report) -> Path:
    """Write the file without results; return its path.

    Raises:
        UserError: If another job of the same sweep has written there.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    path, job = output_dir / RESULT, report.facts["sweep_job"]
    if job is not None and path.is_file():
        other = json.loads(path.read_text()).get("sweep_job")
        if other is not None and other[0] == job[0] and other[1] != job[1]:
            raise UserError(
                f"Two jobs of this sweep write to {path}; give each its own folder, e.g. "
                "'output_dir=runs/evaluations/${hydra:job.num}'"
            )
    report.save(path)
    return path


def describe(source: CheckpointSource, loaded: Checkpoint) -> str:
    """One line on what was evaluated, for titles."""
    named = source.path.absolute() if source.run_dir is None else source.run_dir
    name = f"{named.parent.name}/{named.name}"
    parts = [name, loaded.architecture, None if source.run_dir is None else source.path.stem]
    return ", ".join(part for part in parts if part)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Run the evaluation.

    What a user can put right ends in a message and exit code 1, without a traceback; in a sweep it is raised, so that the
    other jobs go on.
    """
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
