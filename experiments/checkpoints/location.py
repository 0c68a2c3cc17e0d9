"""Where the checkpoint of the setting `checkpoint` lies, what its run was trained on, and where its evaluation goes."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.checkpoints.foreign_config import checked_group
from experiments.common import UserError, leads_out, read_plain_yaml
from experiments.runs import CONFIG, LAST_CHECKPOINT, find_start
from experiments.runs.run_folder import BEST_CHECKPOINT


@dataclass(frozen=True)
class CheckpointLocation:
    """The file `path` of a checkpoint, and the folder of the run that wrote it; None: not a run of this study."""

    path: Path
    run_dir: Path | None

    def title(self, architecture: str | None) -> str:
        """One line on the checkpoint, for plots and tables."""
        named, stem = (self.run_dir, self.path.stem) if self.run_dir else (self.path.absolute(), None)
        return ", ".join(part for part in (f"{named.parent.name}/{named.name}", architecture, stem) if part)

    def steps(self) -> int:
        """Optimizer steps of the run before the checkpoint; 0: not a run of this study."""
        return 0 if self.run_dir is None else find_start(str(self.path), self.run_dir).steps


def find_checkpoint(setting: str | None) -> CheckpointLocation:
    """Find a checkpoint, or that of a run folder: the best one if it is there, else the last; a UserError if there is none."""
    if setting is None:
        raise UserError("checkpoint has no default; give checkpoint=PATH, a checkpoint or a run folder")
    path = Path(setting).expanduser()
    candidates = [path / BEST_CHECKPOINT, path / LAST_CHECKPOINT] if path.is_dir() else [path]
    found = next((each for each in candidates if each.is_file()), None)
    if found is None:
        searched = " and no ".join(str(each.absolute()) for each in candidates)
        raise UserError(f"checkpoint must be a checkpoint or a run folder, got {setting}: there is no {searched}")
    run_dir = found.absolute().parents[1]
    is_run = found.absolute().parent.name == BEST_CHECKPOINT.parent.name and (run_dir / CONFIG).is_file()
    return CheckpointLocation(found, run_dir if is_run else None)


def choose_output_dir(setting: str | None, fallback: str) -> str:
    """The default folder of an evaluation: `evaluation` in a run folder; for other checkpoints `evaluation_<name>` beside them.

    The fallback where there is no checkpoint, or where that folder or a file in it is a link out of it.
    """
    try:
        found = find_checkpoint(setting)
    except UserError:
        return fallback
    is_default = Path(str(setting)).expanduser().is_dir() or found.path.name == BEST_CHECKPOINT.name
    name = "evaluation" if found.run_dir and is_default else f"evaluation_{found.path.name.split('.')[0]}"
    folder = (found.run_dir or found.path.absolute().parent) / name
    # In a folder of somebody else, writing could overwrite any file.
    written = (folder, *folder.glob("*"), *folder.glob(".hydra/*"))
    return fallback if any(map(leads_out, written)) else str(folder)


def complete_config(cfg: DictConfig, location: CheckpointLocation, *, allow: Collection[str] = ()) -> DictConfig:
    """A copy of `cfg` with the groups `data` and `model` of the run, where the command line does not replace them.

    A UserError if neither names a data set and a model, or the run what is not built from a run folder (`checked_group`).
    """
    completed = cfg.copy()
    for group in ("data", "model"):
        if "_target_" in completed[group]:
            continue
        if location.run_dir is None:
            raise UserError(
                f"{location.path} is not from a run of this study (there is no ../{CONFIG}), so {group} must be given: "
                f"{group}=NAME, an option of conf/{group}"
            )
        path = location.run_dir / CONFIG
        config = read_plain_yaml(path)
        found = checked_group(path, group, config.get(group) if isinstance(config, dict) else None, allow=allow)
        with open_dict(completed):
            completed[group] = OmegaConf.merge(found, completed[group])
    return completed
