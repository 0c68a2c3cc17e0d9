"""The sweeper behind `sweep=optuna`: a study of Optuna's in the folder of the sweep, whose trials are the jobs.

Hydra looks for sweepers in this namespace alone, and reads this file at every start: imports that take time come late.
"""

import io
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

# In the folder of the sweep: the best values; the study; a lock of it, and a folder for each process that works on it.
RESULT, DATABASE, PROCESSES = "optimization_results.yaml", "optuna.db", ".optuna"
# May differ between commands that work on the same study: where jobs run, and what they are called.
NOT_COMPARED = {
    "resume", "paths", "name", "logger", "launcher", "trainer", "trainer.accelerator", "trainer.devices", "strategy",
    "data.root", "data.download", "data.num_workers",
}  # fmt: skip
DEFAULTS = {
    "_target_": f"{__name__}.StudySweeper",
    # The sampler is made anew for each trial.
    "_recursive_": False,
    "direction": "maximize",
    "n_trials": 20,
    # As many as the launcher runs side by side.
    "n_jobs": "${oc.select:hydra.launcher.n_jobs,1}",
    "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 0},
    "storage": None,
    "study_name": "sweep",
    "params": {},
}
ConfigStore.instance().store(group="hydra/sweeper", name="study", node=OmegaConf.create(DEFAULTS), provider="puzzlemix")


class SweepError(CompactHydraException):
    """A message of the sweeper's; no job has failed."""


class StudySweeper(Sweeper):
    """Searches for the values of some settings by which the runs have the best validation accuracy.

    The study is kept, so the same command goes on with it, and several processes may work on it at a time. A trial that
    fails leaves the others; the next command repeats it with the same values, from its last checkpoint.

    Args:
        params: Values by setting, as on the command line, which comes after them: `interval(0.1, 10)`, with
            `tag(log, interval(0.1, 10))` on a logarithmic scale, and with `int(interval(1, 8))` whole numbers;
            `range(2, 9)`; `choice(a, b)`. One value alone is fixed.
        direction: "maximize", or "minimize".
        n_trials: Number of trials in the study, with those of earlier commands and of other processes.
        n_jobs: Trials that are launched together; the next ones wait for all of them.
        sampler: `_target_` in `optuna.samplers` and its arguments; each trial has a seed of its own, `seed` + its number.
        storage: Where the study is kept, as an URL that Optuna takes; None: a SQLite file in the folder of the sweep.
        study_name: Name of the study in the storage.
    """

    def __init__(
        self, params: DictConfig, direction: str, n_trials: int, n_jobs: int, sampler: DictConfig, storage: str | None,
        study_name: str,
    ) -> None:  # fmt: skip
        self.params, self.direction, self.sampler = params, direction, sampler
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.storage, self.study_name = storage, study_name

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has to give to every sweeper; a SweepError where a number of trials is none."""
        for key in ("n_trials", "n_jobs"):
            if not isinstance(number := getattr(self, key), int) or number < 1:
                raise SweepError(f"hydra.sweeper.{key} must be a whole number >= 1, got {number}")
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until the study has `n_trials`; then raises the error of the first that has failed here, if any.

        Raises:
            SweepError: If Optuna is not installed, or the folder holds the study of other settings.
        """
        from experiments.common import MissingPackageError, require

        try:
            require("optuna", "sweep=optuna")
        except MissingPackageError as error:
            raise SweepError(str(error)) from error
        import optuna
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        fixed, space = _split(parser.parse_overrides(words))
        folder, errors = Path(self.config.hydra.sweep.dir), []
        with _process_folder(folder / PROCESSES) as process:
            study = self._open(folder, fixed)
            while trials := self._ask(study, space, process):
                jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
                self.validate_batch_is_legal(jobs)
                results = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
                for trial, result in zip(trials, results, strict=True):
                    errors += self._tell(study, trial, result)
                # Most likely it is not the values.
                if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
                    raise errors[0]
        self._report(study, folder, fixed)
        if errors:
            raise errors[0]

    def _open(self, folder: Path, fixed: Sequence[str]) -> Any:
        """The study in the storage, a new one if there is none yet."""
        import optuna
        from filelock import FileLock

        from experiments.common import key_of, mask_texts

        # Several processes may write at a time.
        file = {"url": f"sqlite:///{folder / DATABASE}", "engine_kwargs": {"connect_args": {"timeout": 60}}}
        with FileLock(folder / PROCESSES / "lock"):
            try:
                storage = self.storage or optuna.storages.RDBStorage(**file)
                names = {"storage": storage, "study_name": self.study_name, "direction": self.direction}
                study = optuna.create_study(**names, load_if_exists=True)
            # The storage raises errors of many kinds.
            except Exception as error:
                raise SweepError(f"hydra.sweeper: {' '.join(str(error).split())}") from error
            settings = sorted(each for each in mask_texts(fixed) if key_of(each) not in NOT_COMPARED)
            known = study.user_attrs.get("settings", settings)
            study.set_user_attr("settings", known)
        if changed := sorted({*settings} ^ {*known}):
            raise SweepError(
                f"{folder} holds a study that was begun with other settings ({', '.join(changed)} differ): name another folder "
                "(hydra.sweep.dir=...), or remove it"
            )
        return study

    def _ask(self, study: Any, space: Mapping[str, Any], process: Path) -> list[Any]:
        """The next trials, at most `n_jobs`; none if the study has enough, with those that are running."""
        from filelock import FileLock
        from optuna.trial import TrialState

        with FileLock(process.parent / "lock"):
            trials = study.get_trials(deepcopy=False)
            repeated = {trial.user_attrs.get("repeats") for trial in trials}
            alive = {name for name in {trial.user_attrs.get("process") for trial in trials} if _is_alive(process, name)}
            count = 0
            for trial in trials:
                ended = trial.user_attrs.get("process") not in alive
                if trial.state == TrialState.RUNNING and ended:
                    study.tell(trial.number, state=TrialState.FAIL)
                if trial.state in (TrialState.RUNNING, TrialState.FAIL) and ended:
                    if trial.number not in repeated:
                        study.enqueue_trial(trial.params, user_attrs={"repeats": trial.number})
                elif trial.state != TrialState.WAITING:
                    count += 1
            return [self._ask_one(study, space, process) for _ in range(min(self.n_jobs, self.n_trials - count))]

    def _ask_one(self, study: Any, space: Mapping[str, Any], process: Path) -> Any:
        # With one seed for all, a sampler that is made anew would draw the same values again.
        number, seed = len(study.get_trials(deepcopy=False)), self.sampler.get("seed")
        try:
            study.sampler = instantiate(self.sampler, **({} if seed is None else {"seed": seed + number}))
            trial = study.ask(space)
        # What Optuna refuses, as a setting that has had values of another kind in this study.
        except (ImportError, ValueError) as error:
            raise SweepError(f"hydra.sweeper: {error}") from error
        trial.set_user_attr("process", process.name)
        return trial

    def _tell(self, study: Any, trial: Any, result: JobReturn) -> list[Exception]:
        """Tell the study what a trial has returned; return its error, if it has failed."""
        from optuna.trial import TrialState

        try:
            # Raises the error of a failed job, and writes to stderr what Hydra will write once more.
            with redirect_stderr(io.StringIO()):
                value = result.return_value
            if value is None or not math.isfinite(value):
                raise SweepError(f"a run returned {value} as its validation accuracy: give data.val_fraction > 0")
        except Exception as error:
            study.tell(trial, state=TrialState.FAIL)
            log.warning(f"trial {trial.number} failed: {type(error).__name__}")
            return [error]
        study.tell(trial, value)
        log.info(f"trial {trial.number}: validation accuracy {value:.4f}; best so far {study.best_value:.4f}")
        return []

    def _report(self, study: Any, folder: Path, fixed: Sequence[str]) -> None:
        """Write the best values, and print them with a command that trains with them."""
        from experiments.common import command_line, key_of, mask_texts, override, print_plain, short, write_text

        trials = study.get_trials(deepcopy=False)
        states = [trial.state.name.lower() for trial in trials]
        if "complete" not in states:
            print_plain(f"All {self.n_trials} trials are running in other processes")
            return
        best = study.best_trial
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        content = {"name": "optuna", "best_params": best.params, "best_value": best.value, "best_trial": best.number}
        write_text(folder / RESULT, OmegaConf.to_yaml(OmegaConf.create(content)))
        values = [f"{key}={value}" for key, value in best.params.items()]
        kept = [each for each in mask_texts(fixed) if key_of(each) not in ("sweep", "launcher", "data.val_fraction")]
        where = override("hydra.sweep.dir", f"{short(folder)}_best")
        command = command_line("train", "sweep=seeds", *kept, *values, "data.val_fraction=0", where)
        print_plain(
            f"\nBest of {len(trials)} trials ({counts}): trial {best.number}, validation accuracy {best.value:.4f}\n"
            + "".join(f"  {value}\n" for value in values)
            + f"To train with them on all training images, with five seeds:\n  {command}"
        )


def _split(overrides: Sequence[Override]) -> tuple[list[str], dict[str, Any]]:
    """Overrides that all jobs share, and the settings to search with their distributions; later ones win."""
    fixed: dict[str, str] = {}
    space: dict[str, Any] = {}
    for each in overrides:
        key = each.get_key_element()
        fixed.pop(key, None)
        space.pop(key, None)
        if each.is_sweep_override():
            space[key] = _distribution(key, each)
        else:
            fixed[key] = each.get_value_element_as_str()
    if not space:
        raise SweepError(
            "There is nothing to search: give a setting several values, such as 'mix.prob=interval(0.1,1)'"
        )
    return [f"{key}={value}" for key, value in fixed.items()], space


def _distribution(key: str, each: Override) -> Any:
    """What Optuna draws a setting's values from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = each.value()
    try:
        if each.is_interval_sweep():
            kind = (
                IntDistribution if all(isinstance(end, int) for end in (value.start, value.end)) else FloatDistribution
            )
            return kind(value.start, value.end, log="log" in value.tags)
        if each.is_range_sweep():
            numbers = list(value.range())
            kind = IntDistribution if all(isinstance(number, int) for number in numbers) else FloatDistribution
            return kind(min(numbers), max(numbers), step=abs(value.step))
        return CategoricalDistribution(list(each.sweep_string_iterator()))
    except ValueError as error:
        raise SweepError(f"{key}={each.get_value_string()} cannot be searched: {error}") from error


@contextmanager
def _process_folder(parent: Path) -> Iterator[Path]:
    """A folder that belongs to this process while it works on the study, however it ends."""
    from experiments.runs import owned

    folder = parent / uuid4().hex[:8]
    with owned(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: Path, name: str | None) -> bool:
    """Whether a process is working on the study, by the name of its folder; `process` is this one's."""
    from experiments.runs import RunningError, owned

    other = process.with_name(str(name))
    if other == process or not other.is_dir():
        return other == process
    with suppress(RunningError):
        with owned(other):
            shutil.rmtree(other, ignore_errors=True)
        return False
    return True
