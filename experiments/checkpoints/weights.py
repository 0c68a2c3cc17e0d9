"""Weights from checkpoints: Lightning's of this study, and `checkpoint.pth.tar` of the Puzzle Mix authors' code."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.checkpoints.authors_names import rename
from experiments.checkpoints.safe_loading import decode_array, decode_number, is_a, load_inert
from experiments.common.errors import UserError

# Set by Lightning in every checkpoint.
LIGHTNING_MARK = "pytorch-lightning_version"
NET, METRICS = "net.", re.compile(r"(train|val|test)_metrics\.")
# Of DataParallel and of torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        source: "study": Lightning's of this study; "authors": of the Puzzle Mix authors' code, or in its form.
        epoch: The epoch that the weights come from, counted from 1; None: the file does not say.
        architecture: The authors' name of the network, e.g. preactresnet18; None: the file does not say.
        weights: Parameters and buffers by the names in the file, without what wrappers put in front of them.
        results: Accuracies that the file records, as shares in [0,1]: of the authors' `test_accuracy` (of `epoch`),
            `best_test_accuracy`, `best_test_top5`; of the study `best_val_accuracy`. Absent where the file has none.
    """

    source: Literal["study", "authors"]
    epoch: int | None
    architecture: str | None
    weights: dict[str, Tensor]
    results: dict[str, float]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, without running anything that is pickled in it.

    Args:
        path: A .ckpt of this study, or a file with the keys `state_dict` and, if possible, `epoch` and `arch`, as the authors'
            code writes it.

    Raises:
        UserError: If the file is not there, cannot be read, holds more than weights and plain values, or is neither
            of the two.
    """
    content = load_inert(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        held = f"the keys {_join(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise UserError(
            f"{path} must hold a dict with a state_dict, as this study and the Puzzle Mix authors' code write it, got {held}; "
            "bare weights can be wrapped: torch.save({'state_dict': weights}, PATH)"
        )
    wrong = [str(name) for name, value in content["state_dict"].items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(f"{path}: its state_dict must hold tensors only, but these are none: {_join(wrong)}")
    weights = {str(name): value.detach() for name, value in content["state_dict"].items()}
    if LIGHTNING_MARK in content:
        return _read_study(path, content, weights)
    epoch, architecture = content.get("epoch"), content.get("arch")
    return Checkpoint(
        source="authors",
        epoch=epoch if isinstance(epoch, int) else None,
        architecture=architecture if isinstance(architecture, str) else None,
        weights=_unwrap(weights),
        results=_authors_results(content),
    )


def load_weights(net: nn.Module, path: str | Path) -> Checkpoint:
    """Load a checkpoint into `net`; every name in the file and in the network must find its partner.

    Only the counters of BatchNorm may be absent, all together: PyTorch before 0.4.1 had none. Strides leave no trace in the
    weights: whether `stem_stride` is that of the training cannot be checked.

    Args:
        net: The network; changed in place, and not at all if there is an error.
        path: As for `read_checkpoint`.

    Raises:
        UserError: As `read_checkpoint`, and if names or shapes do not fit; all of them are listed.
    """
    checkpoint = read_checkpoint(path)
    here = {name: rename(name, net) if checkpoint.source == "authors" else name for name in checkpoint.weights}
    weights = {here[name]: value for name, value in checkpoint.weights.items()}
    expected = net.state_dict()
    if not any(name.endswith(COUNTER) for name in weights):
        weights |= {name: torch.zeros_like(value) for name, value in expected.items() if name.endswith(COUNTER)}
    taken = Counter(here.values())
    complaints = {
        "missing in the file": [name for name in expected if name not in weights],
        "unknown to the model": [name for name in here if here[name] not in expected],
        "twice in the file, under two names": [name for name in here if taken[here[name]] > 1],
        "of another shape": [
            f"{name} ({tuple(weights[name].shape)} in the file, {tuple(value.shape)} in the model)"
            for name, value in expected.items()
            if name in weights and weights[name].shape != value.shape
        ],
        "of another kind": [
            f"{name} ({_kind(weights[name])} in the file, {_kind(value)} in the model)"
            for name, value in expected.items()
            if name in weights and _kind(weights[name]) != _kind(value)
        ],
    }
    if any(complaints.values()):
        lists = [f"{kind}: {', '.join(names)}" for kind, names in complaints.items() if names]
        raise UserError("\n".join([f"{path} does not fit the model. {_advise(checkpoint)}", *lists]))
    _copy(weights, net, path)
    return checkpoint


def _kind(value: Tensor) -> str:
    """What must be the same on both sides, so that every number is copied; the precision need not be."""
    if type(value.detach()) is not Tensor or value.is_nested or value.is_meta or value.is_quantized:
        return "no plain tensor"
    if value.layout != torch.strided:
        return "sparse"
    return "complex" if value.is_complex() else "floating" if value.is_floating_point() else "whole numbers"


def _copy(weights: dict[str, Tensor], net: nn.Module, path: str | Path) -> None:
    """Copy weights into a network; one that refuses some of them keeps all of its own."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        net.load_state_dict(weights)
    # What a network raises that reads weights in its own way.
    except Exception as error:
        net.load_state_dict(before)
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} does not fit the model, which was left as it was: {reason}") from error


def _read_study(path: str | Path, content: Mapping[str, Any], weights: dict[str, Tensor]) -> Checkpoint:
    kept = {name: value for name, value in _unwrap(weights).items() if not METRICS.match(name)}
    strange = [name for name in kept if not name.startswith(NET)]
    if strange or not kept:
        held = f"it also holds {_join(strange)}" if strange else "it holds none"
        raise UserError(
            f"{path} is a Lightning checkpoint, but not of this study: all weights must be below {NET!r}, and {held}"
        )
    return Checkpoint(
        source="study",
        epoch=_study_epoch(content),
        architecture=None,
        weights=_unwrap({name.removeprefix(NET): value for name, value in kept.items()}),
        results=_study_results(content),
    )


def _study_epoch(content: Mapping[str, Any]) -> int | None:
    try:
        # Unlike the key `epoch` it is the same before and after the end of an epoch.
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"])
    except (KeyError, TypeError, ValueError):
        return None


def _study_results(content: Mapping[str, Any]) -> dict[str, float]:
    states = content.get("callbacks")
    for state in states.values() if isinstance(states, Mapping) else ():
        if isinstance(state, Mapping) and state.get("monitor") == "val_accuracy":
            best = decode_number(state.get("best_model_score"))
            return {} if best is None else {"best_val_accuracy": best}
    return {}


def _authors_results(content: Mapping[str, Any]) -> dict[str, float]:
    """Their percentages, some of them errors, as shares of hits."""
    results = _read_recorder(content.get("recorder"))
    best = decode_number(content.get("best_prec1"))
    if best is not None:
        results["best_test_accuracy"] = best / 100
    for key, name in (("best_err1", "best_test_accuracy"), ("best_err5", "best_test_top5")):
        error = decode_number(content.get(key))
        if error is not None:
            results[name] = 1 - error / 100
    return results


def _read_recorder(recorder: Any) -> dict[str, float]:
    if not is_a(recorder, "logger.RecorderMeter", "utils.RecorderMeter") or not isinstance(recorder.state, Mapping):
        return {}
    # One row per epoch, of training and test; those to come are 0.
    accuracies, done = decode_array(recorder.state.get("epoch_accuracy")), recorder.state.get("current_epoch")
    if accuracies is None or accuracies.shape[1:] != (2,) or not isinstance(done, int):
        return {}
    if not 0 < done <= len(accuracies):
        return {}
    test = accuracies[:done, 1]
    return {"test_accuracy": float(test[-1]) / 100, "best_test_accuracy": float(test.max()) / 100}


def _unwrap(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop prefixes of wrappers as long as all names have one."""
    for prefix in WRAPPERS:
        if weights and all(name.startswith(prefix) for name in weights):
            return _unwrap({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def _advise(checkpoint: Checkpoint) -> str:
    """What the file says about its network."""
    said = "The checkpoint does not name its network"
    if checkpoint.architecture is not None:
        wanted = checkpoint.architecture.lower().replace("-", "_")
        options = sorted(path.stem for path in MODELS.glob("*.yaml") if path.stem.startswith(wanted))
        said = f"The checkpoint says arch {checkpoint.architecture}"
        said += f" (try model={' or '.join(options)})" if options else ""
    elif checkpoint.source == "study":
        said = "Its network is in config.yaml of its run"
    traits = []
    matrices = [value for value in checkpoint.weights.values() if value.ndim == 2]
    if matrices:
        traits.append(f"{matrices[-1].shape[0]} classes")
    blocks: dict[int, set[int]] = {}
    for name in checkpoint.weights:
        found = re.match(r"(?:layer|stages\.)(\d+)\.(\d+)\.", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    if blocks:
        traits.append(f"stages of {'+'.join(str(len(blocks[stage])) for stage in sorted(blocks))} blocks")
    filters = next((value for value in checkpoint.weights.values() if value.ndim == 4), None)
    if filters is not None:
        traits.append(f"{filters.shape[0]} channels after the first convolution")
    return f"{said}; it has {', '.join(traits)}." if traits else f"{said}."


def _join(names: Iterable[Any], most: int = 12) -> str:
    """Names for a message; nothing that must be complete."""
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
