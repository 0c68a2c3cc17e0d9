"""What the setting `checkpoint` stands for: a file, perhaps a run of this study, and where its evaluation goes."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.checkpoints.foreign_config import checked_group
from experiments.common.errors import UserError
from experiments.common.plain_yaml import leads_out, read_plain_yaml
from experiments.runs.run_folder import CONFIG

# In a run folder the first of these that is there is taken.
RUN_CHECKPOINTS = ("best.ckpt", "last.ckpt")


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint.

    Args:
        path: The file.
        run_dir: The folder of the run that wrote it; None: it is not from a run of this study.
    """

    path: Path
    run_dir: Path | None


def find_checkpoint(setting: str | None) -> CheckpointSource:
    """Find the file that the setting names: a checkpoint, or a run folder, whose best one it is, or else the last.

    Raises:
        UserError: If there is no such file.
    """
    if setting is None:
        raise UserError("checkpoint has no default; give checkpoint=PATH, a checkpoint or a run folder")
    path = Path(setting).expanduser()
    if path.is_dir():
        candidates = [path / "checkpoints" / name for name in RUN_CHECKPOINTS]
        found = next((each for each in candidates if each.is_file()), None)
        if found is None:
            places = " and ".join(str(each.absolute()) for each in candidates)
            raise UserError(f"checkpoint={setting} is a folder, but not that of a run: there is no {places}")
        path = found
    if not path.is_file():
        raise UserError(
            f"checkpoint must be a checkpoint or a run folder, got {setting}: there is no {path.absolute()}"
        )
    run_dir = path.absolute().parents[1]
    is_run = path.absolute().parent.name == "checkpoints" and (run_dir / CONFIG).is_file()
    return CheckpointSource(path, run_dir if is_run else None)


def choose_output_dir(setting: str | None, fallback: str) -> str:
    """Where an evaluation goes if the user does not say: beside the checkpoint.

    `<run>/evaluation` for a run folder or its best checkpoint, `<run>/evaluation_last` for `last.ckpt`; for a file from
    elsewhere `evaluation_<its name>` in its folder. Where that folder, or a file in it, is a link out of it, the fallback.

    Args:
        setting: The setting `checkpoint`.
        fallback: The folder if there is no such checkpoint.
    """
    try:
        source = find_checkpoint(setting)
    except UserError:
        return fallback
    stem = source.path.name.split(".")[0]
    if source.run_dir is None:
        folder = source.path.absolute().parent / f"evaluation_{stem}"
    else:
        chosen = Path(str(setting)).expanduser().is_dir() or source.path.name == RUN_CHECKPOINTS[0]
        folder = source.run_dir / ("evaluation" if chosen else f"evaluation_{stem}")
    # In a folder of somebody else, writing could overwrite any file.
    return (
        fallback
        if any(leads_out(path) for path in (folder, *folder.glob("*"), *folder.glob(".hydra/*")))
        else str(folder)
    )


def complete(cfg: DictConfig, source: CheckpointSource, *, allow: Collection[str] = ()) -> DictConfig:
    """Settings with the groups `data` and `model`: those of the command line, else those of the run, changed by the former.

    What the run says is not trusted, see `foreign_settings`.

    Args:
        cfg: Settings of the command line.
        source: The checkpoint.
        allow: Names of classes and functions that may be built though they are not of this study.

    Raises:
        UserError: If neither the command line nor a run names a data set and a model.
        UserError: If the run names anything that is not built from a run folder.
    """
    completed = cfg.copy()
    with open_dict(completed):
        for group in ("data", "model"):
            if "_target_" not in completed[group]:
                completed[group] = OmegaConf.merge(_stored_group(source, group, allow), completed[group])
    return completed


def _stored_group(source: CheckpointSource, group: str, allow: Collection[str]) -> DictConfig:
    if source.run_dir is None:
        raise UserError(
            f"{source.path} is not from a run of this study (there is no ../{CONFIG}), so {group} must be given: "
            f"{group}=NAME, an option of conf/{group}"
        )
    path = source.run_dir / CONFIG
    stored = read_plain_yaml(path)
    if not isinstance(stored, dict) or group not in stored:
        raise UserError(f"{path} has no {group}; give {group}=NAME, an option of conf/{group}")
    return OmegaConf.create(checked_group(path, group, stored[group], allow=allow))
