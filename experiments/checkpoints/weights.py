"""Weights from checkpoints: Lightning's of this study, and `checkpoint.pth.tar` of the Puzzle Mix authors' code."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from experiments.checkpoints.safe_loading import safe_load
from experiments.common import UserError
from experiments.models import PreActResNet, PyramidNet, WideResNet

# Set by Lightning in every checkpoint.
LIGHTNING_KEY = "pytorch-lightning_version"
NET, METRICS = "net.", re.compile(r"(train|val|test)_metrics\.")
# Of DataParallel and of torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
# How a name in the authors' code begins, and what it begins with here: outside the stages by network, and inside them.
OUTER: dict[type[nn.Module], dict[str, str]] = {
    PreActResNet: {r"conv1\.": "stem.", r"linear\.": "head."},
    WideResNet: {r"conv1\.": "stem.", r"bn1\.": "norm.", r"linear\.": "head."},
    PyramidNet: {r"conv1\.": "stem.0.", r"bn1\.": "stem.1.", r"bn_final\.": "norm.", r"fc\.": "head."},
}
INNER = {r"(layer\d+\.\d+)\.bn(\d+)\.": r"\1.norm\2.", r"(layer\d+\.\d+)\.shortcut\.0\.": r"\1.shortcut."}


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
    """Read a .ckpt of this study, or what the authors' code writes: a dict with `state_dict`, and perhaps `epoch` and `arch`.

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
    wrong = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(f"{path}: its state_dict must hold tensors only, but these are none: {_join(wrong)}")
    weights = _unwrap({name: value.detach() for name, value in weights.items()})
    if LIGHTNING_KEY in content:
        return Checkpoint("study", _study_epoch(content), None, _study_weights(path, weights), _results(content))
    epoch = content["epoch"] if isinstance(content.get("epoch"), int) else None
    architecture = content["arch"] if isinstance(content.get("arch"), str) else None
    return Checkpoint("authors", epoch, architecture, weights, _results(content))


def load_weights(net: nn.Module, path: str | Path) -> Checkpoint:
    """Load a checkpoint into `net`, strictly: every key of either side must find its partner.

    Only the counters of BatchNorm may be absent, which evaluation does not use: PyTorch before 0.4.1 had none. Strides leave
    no trace in the weights: whether `stem_stride` is that of the training cannot be checked.

    Raises:
        UserError: As `read_checkpoint`, and if names, shapes or kinds of numbers do not fit; all of them are listed, and
            `net` is left as it was.
    """
    checkpoint = read_checkpoint(path)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    names = {name: rename(name, net) if checkpoint.source == "authors" else name for name in checkpoint.weights}
    weights = {names[name]: value for name, value in checkpoint.weights.items()}
    shared = [key for key in before if key in weights]
    complaints = {
        "Twice in the file": [name for name, key in names.items() if list(names.values()).count(key) > 1],
        # Torch would convert them, with a loss.
        "Numbers of another kind": [key for key in shared if _is_real(weights[key]) != _is_real(before[key])],
    }
    problems = [f"{problem}: {', '.join(found)}" for problem, found in complaints.items() if found]
    try:
        net.load_state_dict(weights)
    # Whatever a network raises that reads weights in a way of its own.
    except Exception as error:
        problems.append(str(error))
    if problems:
        net.load_state_dict(before)
        first = f"{path} does not fit the model, which was left as it was. {_describe_network(checkpoint)}"
        raise UserError("\n".join([first, *problems]))
    return checkpoint


def rename(name: str, net: nn.Module) -> str:
    """What `net` calls the parameter or buffer that is `name` in the authors' code; unknown names stay as they are.

    Torchvision's networks, which the authors use for ImageNet, have the same names on both sides.
    """
    outer = next((rules for kind, rules in OUTER.items() if isinstance(net, kind)), None)
    if outer is None:
        return name
    for pattern, replacement in (outer | INNER).items():
        name = re.sub(f"^{pattern}", replacement, name)
    return re.sub(r"^layer(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}.", name)


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point()


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
        raise UserError(
            f"{path} is a Lightning checkpoint, but not of this study: all weights must be below {NET!r}, got "
            f"{_join(others) or 'none'}"
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
    found = {
        "best_val_accuracy": _number(best[0].get("best_model_score")) if best else None,
        # The authors record a percentage.
        "best_test_accuracy": _number(content.get("best_prec1"), scale=100),
    }
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any, *, scale: float = 1) -> float | None:
    is_number = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    return float(value) / scale if is_number else None


def _describe_network(checkpoint: Checkpoint) -> str:
    """Where the file names its network, and the options of `conf/model` that may be meant."""
    if checkpoint.source == "study":
        return "Its network is in config.yaml of its run."
    if checkpoint.architecture is None:
        return "Its network is not named in it."
    wanted = checkpoint.architecture.lower().replace("-", "_")
    options = sorted(path.stem for path in MODELS.glob("*.yaml") if path.stem.startswith(wanted))
    return f"Its arch is {checkpoint.architecture}" + (f" (try model={' or '.join(options)})." if options else ".")


def _join(names: Iterable[Any], limit: int = 12) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
