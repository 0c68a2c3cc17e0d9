"""Everything that a run folder holds, finished or not, read once."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.common.commands import training_command
from experiments.common.errors import UserError
from experiments.common.masking import mask_settings, mask_texts
from experiments.common.overrides import key_of
from experiments.common.plain_yaml import leads_out, read_plain_yaml
from experiments.data.corruptions import PUBLISHED
from experiments.html_report.metrics import METRICS, Metrics, read_metrics
from experiments.robustness.results import Accuracy, CleanScores, CorruptionScores, EvaluationResults
from experiments.runs.run_folder import CONFIG, SUMMARY
from experiments.runs.summary import Summary
from experiments.sweep_results.runs import UnfinishedRun
from experiments.test_results.results import TEST_RESULTS, TestResults

VERSIONS, IMAGES, EVALUATION = "versions.json", "images.png", "evaluation.json"
PICTURES = Path("logs") / "images"
HYDRA = Path(".hydra")

T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation of a run.

    Args:
        folder: Its name below the run folder.
        report: What was measured.
        picture: Its picture; None: there is none.
    """

    folder: str
    report: EvaluationResults
    picture: Path | None


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run, with None or nothing for what its folder does not hold.

    Args:
        path: The folder.
        summary: Its outcome; None: it is not finished.
        unfinished: What is known of it if it is not finished.
        name: Name of the run.
        seed: Its seed.
        planned_epochs: Epochs that it is to train.
        choices: The option chosen in each Hydra group.
        overrides: What the command line or the sweep set.
        config: All settings, as YAML.
        versions: Of what it was made with.
        metrics: Its curves.
        outcome: Its test, class by class.
        images: Picture of the images that it was fed with at its end.
        pictures: Pictures of mixes, from its start to its end.
        evaluations: What was measured later.
    """

    path: Path
    summary: Summary | None
    unfinished: UnfinishedRun | None
    name: str
    seed: int | None
    planned_epochs: int | None
    choices: Mapping[str, str | None]
    overrides: Sequence[str]
    config: str
    versions: Mapping[str, str | None]
    metrics: Metrics | None
    outcome: TestResults | None
    images: Path | None
    pictures: Sequence[Path]
    evaluations: Sequence[Evaluation]

    @property
    def command(self) -> str:
        """What runs it again, in a new folder; to be pasted into a shell."""
        kept = [each for each in self.overrides if key_of(each) != "resume"]
        # Without the others of its sweep, which the option of a sweep would start.
        alone = ["hydra.mode=RUN"] if any(key_of(each) == "sweep" for each in kept) else []
        return training_command([*kept, *alone])


def read_run(path: Path, unfinished: UnfinishedRun | None = None) -> RunFolder:
    """Read a run folder.

    Args:
        path: The folder of a finished run, or of one that is running, was stopped or died.
        unfinished: What is known of the latter.

    Raises:
        UserError: If a file in it is not what a run writes; the message names the file.
    """
    # The summary of an unfinished run is not there, or not whole.
    summary = None if unfinished else _read(path / SUMMARY, _load_summary)
    settings = _read_settings(path)
    return RunFolder(
        path=path,
        summary=summary,
        unfinished=unfinished,
        name=_plain(settings.get("name"), str, path.name) if summary is None else summary.name,
        seed=_plain(settings.get("seed"), int, None) if summary is None else summary.seed,
        planned_epochs=_plain(settings.get("epochs"), int, None) if summary is None else summary.epochs,
        choices=_read_choices(path) if summary is None else summary.choices,
        overrides=(_read(path / HYDRA / "overrides.yaml", _load_list) or []) if summary is None else summary.overrides,
        config=OmegaConf.to_yaml(OmegaConf.create(settings)) if settings else "",
        versions=_read(path / VERSIONS, _load_json) or {},
        metrics=read_metrics(path / METRICS),
        outcome=_read(path / TEST_RESULTS, TestResults.load),
        images=_picture(path / IMAGES),
        pictures=sorted(filter(_picture, (path / PICTURES).glob("*.png")), key=step_of),
        evaluations=[_read_evaluation(file) for file in sorted(path.glob(f"*/{EVALUATION}"))],
    )


def _plain(value: object, kind: type[T], fallback: V) -> T | V:
    """The value, if it is of that kind and no reference to another setting, as Hydra's config still has them."""
    return value if isinstance(value, kind) and "${" not in str(value) else fallback


def _picture(path: Path) -> Path | None:
    """The picture, if it is there; a link to elsewhere is none, so that no page holds a picture that is not of the run."""
    return path if path.is_file() and not leads_out(path) else None


def step_of(picture: Path) -> int:
    """The optimizer step that the name of a picture of a mix ends with; -1: it does not."""
    found = re.search(r"_step_(\d+)$", picture.stem)
    return int(found[1]) if found else -1


def _read(path: Path, load: Callable[[Path], T]) -> T | None:
    """What `load` makes of the file; None: there is none."""
    if not path.is_file():
        return None
    try:
        return load(path)
    except (
        OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, YAMLError, OmegaConfBaseException,
    ) as error:  # fmt: skip
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{path} cannot be read ({reason}); move it away for a report without it, or run again"
        ) from error


def _load_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"it must hold names with values, got a {type(content).__name__}")
    return content


def _load_summary(path: Path) -> Summary:
    summary = Summary.load(path)
    return replace(summary, overrides=mask_texts(summary.overrides))


def _load_list(path: Path) -> list[str]:
    return mask_texts(read_plain_yaml(path))


def _load_settings(path: Path) -> dict[str, Any]:
    # Folders of earlier versions may hold secrets.
    settings = mask_settings(read_plain_yaml(path))
    if not isinstance(settings, dict):
        raise ValueError(f"it must hold settings, got a {type(settings).__name__}")
    return {str(key): value for key, value in settings.items()}


def _read_settings(path: Path) -> dict[str, Any]:
    """The resolved config or, of a run that died before it was written, Hydra's."""
    return _read(path / CONFIG, _load_settings) or _read(path / HYDRA / "config.yaml", _load_settings) or {}


def _read_choices(path: Path) -> dict[str, str | None]:
    content = _read(path / HYDRA / "hydra.yaml", _load_settings) or {}
    choices = content.get("hydra", {}).get("runtime", {}).get("choices", {})
    return {str(group): option for group, option in choices.items()}


def _read_evaluation(path: Path) -> Evaluation:
    report = _read(path, _load_report)
    if report is None:
        raise UserError(f"{path} is no file; move it away for a report without it")
    return Evaluation(folder=path.parent.name, report=report, picture=_picture(path.with_name("evaluation.png")))


def _load_report(path: Path) -> EvaluationResults:
    """The report that was saved as JSON, so that its tables are those of the terminal."""
    content = _load_json(path)
    scores, settings = {}, {}
    for name, entry in content["attacks"].items():
        scores[name] = Accuracy(**{key: entry[key] for key in ("accuracy", "images", "seconds")})
        settings[name] = {key: value for key, value in entry.items() if key not in ("accuracy", "images", "seconds")}
    corruptions = content["corruptions"]
    results = ("complete", "images", "seconds", "clean", "attacks", "corruptions")
    return EvaluationResults(
        facts={key: value for key, value in content.items() if key not in results},
        attack_settings=settings,
        clean=None if content["clean"] is None else CleanScores(**content["clean"]),
        attacks=scores,
        corruptions=None if corruptions is None else _load_corruptions(corruptions),
        complete=content["complete"],
    )


def _load_corruptions(content: Mapping[str, Any]) -> CorruptionScores:
    accuracy = {
        name: {int(severity): value for severity, value in by_severity.items()}
        for name, by_severity in content["accuracy"].items()
    }
    # The order of the published types is that of the tables.
    known = [*(name for name in PUBLISHED if name in accuracy), *(name for name in accuracy if name not in PUBLISHED)]
    return CorruptionScores(
        root=content["root"],
        images=content["images"],
        accuracy={name: accuracy[name] for name in known},
        seconds=content["seconds"],
    )
