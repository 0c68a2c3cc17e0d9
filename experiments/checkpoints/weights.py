"""Weights from checkpoints: Lightning's of this study, and `checkpoint.pth.tar` of the Puzzle Mix authors' code."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.checkpoints.authors_names import rename
from experiments.checkpoints.safe_loading import safe_load
from experiments.common import UserError

# Set by Lightning in every checkpoint.
LIGHTNING_KEY = "pytorch-lightning_version"
NET, METRICS = "net.", re.compile(r"(train|val|test)_metrics\.")
# Of DataParallel and of torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
COUNTER = "num_batches_tracked"
# Percentages that the authors' code and its ancestors record: name here, and whether it is an error instead of an accuracy.
AUTHORS_RESULTS = {
    "best_prec1": ("best_test_accuracy", False),
    "best_err1": ("best_test_accuracy", True),
    "best_err5": ("best_test_top5", True),
}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        source: "study": Lightning's of this study; "authors": of the Puzzle Mix authors' code, or in its form.
        epoch: The epoch of the weights, counted from 1; None: not in the file.
        architecture: The authors' name of the network, e.g. preactresnet18; None: not in the file.
        weights: Parameters and buffers by the names in the file, without prefixes of wrappers.
        results: Accuracies that the file records as plain numbers, in [0,1], by name, e.g. `best_val_accuracy`.
    """

    source: Literal["study", "authors"]
    epoch: int | None
    architecture: str | None
    weights: dict[str, Tensor]
    results: dict[str, float]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, without running anything that is pickled in it.

    Args:
        path: A .ckpt of this study, or a file with the key `state_dict` and, if possible, `epoch` and `arch`, as the
            authors' code writes it.

    Raises:
        UserError: If the file is missing, unreadable, holds more than weights and plain values, or is neither of the two.
    """
    content = safe_load(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        held = f"the keys {_join(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise UserError(
            f"{path} must hold a dict with a state_dict, as this study and the Puzzle Mix authors' code write it, got {held}; "
            "bare weights can be wrapped: torch.save({'state_dict': weights}, PATH)"
        )
    weights = {str(name): value for name, value in content["state_dict"].items()}
    wrong = [name for name, value in weights.items() if not _is_dense(value)]
    if wrong:
        raise UserError(f"{path}: its state_dict must hold dense tensors only, but these are none: {_join(wrong)}")
    weights = _unwrap({name: value.detach() for name, value in weights.items()})
    if LIGHTNING_KEY in content:
        return Checkpoint("study", _study_epoch(content), None, _study_weights(path, weights), _results(content))
    epoch = content["epoch"] if isinstance(content.get("epoch"), int) else None
    architecture = content["arch"] if isinstance(content.get("arch"), str) else None
    return Checkpoint("authors", epoch, architecture, weights, _results(content))


def load_weights(net: nn.Module, path: str | Path) -> Checkpoint:
    """Load a checkpoint into `net`, strictly: every key of either side must find its partner.

    Only the counters of BatchNorm may be absent, all together: PyTorch before 0.4.1 had none. Strides leave no trace in the
    weights: whether `stem_stride` is that of the training cannot be checked.

    Args:
        net: The network; changed in place, and not at all if there is an error.
        path: As for `read_checkpoint`.

    Raises:
        UserError: As `read_checkpoint`, and if names, shapes or kinds of numbers do not fit; all of them are listed.
    """
    checkpoint = read_checkpoint(path)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    names = {name: name for name in checkpoint.weights}
    if checkpoint.source == "authors":
        names |= {name: renamed for name in names if (renamed := rename(name, net)) in before}
    weights = {names[name]: value for name, value in checkpoint.weights.items()}
    targets, counters = list(names.values()), [name for name in before if name.endswith(COUNTER)]
    kept = [name for name in counters if name in weights]
    complaints = {
        "Twice in the file, under two names": [name for name in names if targets.count(names[name]) > 1],
        # Torch would accept that some counters are missing, and convert numbers with a loss.
        "Missing in the file": [name for name in counters if kept and name not in kept],
        "Numbers of another kind in the file": [
            name for name in before if name in weights and _number_kind(before[name]) != _number_kind(weights[name])
        ],
    }
    problems = [f"{problem}: {', '.join(found)}" for problem, found in complaints.items() if found]
    try:
        net.load_state_dict(weights)
    # Whatever a network raises that reads weights in a way of its own.
    except Exception as error:
        problems.append(str(error))
    if problems:
        net.load_state_dict(before)
        lines = [f"{path} does not fit the model, which was left as it was. {_describe_network(checkpoint)}", *problems]
        raise UserError("\n".join(lines))
    return checkpoint


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested


def _number_kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def _unwrap(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop prefixes of wrappers as long as all names have one."""
    for prefix in WRAPPERS:
        if weights and all(name.startswith(prefix) for name in weights):
            return _unwrap({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def _study_weights(path: str | Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {name: value for name, value in weights.items() if not METRICS.match(name)}
    others = [name for name in kept if not name.startswith(NET)]
    if others or not kept:
        held = f"it also holds {_join(others)}" if others else "it holds none"
        raise UserError(
            f"{path} is a Lightning checkpoint, but not of this study: all weights must be below {NET!r}, and {held}"
        )
    return _unwrap({name.removeprefix(NET): value for name, value in kept.items()})


def _study_epoch(content: Mapping[str, Any]) -> int | None:
    try:
        # Unlike the key `epoch` it is the same before and after the end of an epoch.
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"])
    except (KeyError, TypeError, ValueError):
        return None


def _results(content: Mapping[str, Any]) -> dict[str, float]:
    callbacks = content.get("callbacks")
    states = list(callbacks.values()) if isinstance(callbacks, Mapping) else []
    best = [state for state in states if isinstance(state, Mapping) and state.get("monitor") == "val_accuracy"]
    found = {"best_val_accuracy": _number(best[0].get("best_model_score")) if best else None}
    for key, (name, is_error) in AUTHORS_RESULTS.items():
        percent = _number(content.get(key))
        if percent is not None:
            found[name] = 1 - percent / 100 if is_error else percent / 100
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    return float(value) if is_number else None


def _describe_network(checkpoint: Checkpoint) -> str:
    """What the file tells of its network, and the options of `conf/model` that may be meant."""
    where = (
        "Its network is in config.yaml of its run" if checkpoint.source == "study" else "Its network is not named in it"
    )
    if checkpoint.architecture is not None:
        wanted = checkpoint.architecture.lower().replace("-", "_")
        options = sorted(path.stem for path in MODELS.glob("*.yaml") if path.stem.startswith(wanted))
        where = f"Its arch is {checkpoint.architecture}" + (f" (try model={' or '.join(options)})" if options else "")
    weights = checkpoint.weights
    traits = [f"{value.shape[0]} classes" for value in weights.values() if value.ndim == 2][-1:]
    blocks: dict[int, set[str]] = defaultdict(set)
    for found in filter(None, (re.match(r"(?:layer|stages\.)(\d+)\.(\d+)\.", name) for name in weights)):
        blocks[int(found[1])].add(found[2])
    if blocks:
        traits.append(f"stages of {'+'.join(str(len(blocks[stage])) for stage in sorted(blocks))} blocks")
    filters = [value.shape[0] for value in weights.values() if value.ndim == 4]
    traits += [f"{channels} channels after the first convolution" for channels in filters[:1]]
    return f"{where}; it has {', '.join(traits)}." if traits else f"{where}."


def _join(names: Iterable[Any], limit: int = 12) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
