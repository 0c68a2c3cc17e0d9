"""What a checkpoint says of the run that wrote it, and what a run that goes on from it may do otherwise."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from experiments.common.masking import mask_settings
from experiments.runs.errors import RunFolderError

# Where a run goes, what it is called and what it reports to say nothing about what it computes; `logger` may hold keys.
NOT_RECORDED = ("resume", "paths", "name", "logger")
# How the machine is used; and what is told by `epochs` or the run folder.
NOT_RECORDED_KEYS = (
    "data.num_workers", "data.download", "trainer.max_epochs", "trainer.default_root_dir", "trainer.log_every_n_steps",
    "trainer.enable_model_summary", "trainer.enable_progress_bar",
)  # fmt: skip
# Of the Trainer, what decides on the weights.
DECIDING = (
    "limit_train_batches", "overfit_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
)  # fmt: skip
MAY_CHANGE = "epochs, the machine (trainer.*, data.num_workers), where the data lie, name, logger and paths"


class ForeignRunError(RunFolderError):
    """A checkpoint is of a run that computes something else; the message says what differs and what may."""


@dataclass(frozen=True)
class Change:
    """A setting that differs between a checkpoint and the run that goes on from it; None: it is not set."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}={_shown(self.now)} (trained with {_shown(self.before)})"

    @property
    def is_allowed(self) -> bool:
        """Whether the result is still that of the settings now."""
        names = self.key.split(".")
        if names[0] == "trainer":
            return names[-1] not in DECIDING
        return self.key == "epochs" or (names[0] == "data" and names[-1] == "root")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def comparable_settings(cfg: DictConfig) -> dict[str, Any]:
    """The composed settings by dotted key, lists as JSON, without those that do not matter to the result."""
    content = mask_settings(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(content, Mapping)
    kept = {key: value for key, value in content.items() if key not in NOT_RECORDED}
    return {key: value for key, value in _flatten(kept, "") if key not in NOT_RECORDED_KEYS}


def _flatten(node: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(node) if isinstance(node, list) else node


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The settings that differ, in alphabetical order; those that only repeat the seed are left out."""
    changes = [
        Change(key, before.get(key), now.get(key)) for key in sorted({*before, *now}) if before.get(key) != now.get(key)
    ]
    seeds = next(((each.before, each.now) for each in changes if each.key == "seed"), None)
    return [each for each in changes if not (each.key.endswith(".seed") and (each.before, each.now) == seeds)]


def check_changes(changes: Sequence[Change], checkpoint: object) -> list[Change]:
    """Those of the changes that are worth saying, if none would make the result wrong.

    Raises:
        ForeignRunError: If one would.
    """
    refused = [each for each in changes if not each.is_allowed]
    if refused:
        raise ForeignRunError(
            f"{checkpoint} is of a run with other settings: {', '.join(map(str, refused))}. A resumed run keeps its settings, "
            f"but for {MAY_CHANGE}: give those that it was started with, or start anew with resume=null in another folder"
        )
    return list(changes)


class RunRecord(pl.Callback):
    """Puts the settings of a run and what its training images are into its checkpoints.

    Args:
        settings: See `comparable_settings`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)
        self._data: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Learn which data there are."""
        self._data = trainer.datamodule  # type: ignore[attr-defined]

    def _facts(self) -> dict[str, Any]:
        return {"train_images": len(self._data.split("train")), "class_names": list(self._data.class_names)}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"settings": self.settings, **self._facts()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Look whether the data are those of the checkpoint, as the folder may be another one or have been changed.

        Raises:
            ForeignRunError: If they are not.
        """
        here, there = self._facts(), state_dict
        if here["class_names"] != there["class_names"]:
            raise ForeignRunError(
                f"The checkpoint is of a run with other classes: {_few(there['class_names'])}; data has "
                f"{_few(here['class_names'])}. Give the data that it was trained on, or start anew with resume=null"
            )
        if here["train_images"] != there["train_images"]:
            raise ForeignRunError(
                f"The checkpoint is of a run with {there['train_images']} training images; data has {here['train_images']}. "
                "Give the data that it was trained on, or start anew with resume=null"
            )


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''} ({len(names)})"


def recorded_settings(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings in the content of a checkpoint; None: it has none."""
    states = checkpoint.get("callbacks")
    state = states.get(RunRecord.__name__) if isinstance(states, Mapping) else None
    settings = state.get("settings") if isinstance(state, Mapping) else None
    return dict(settings) if isinstance(settings, Mapping) else None
