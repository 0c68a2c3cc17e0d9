"""Weights from checkpoints: Lightning's of this study, and `checkpoint.pth.tar` of the Puzzle Mix authors' code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.common import UserError
from experiments.models import PreActResNet, PyramidNet, WideResNet

# What the authors' files hold besides tensors: their record of the training, made of NumPy arrays (NumPy 1 and 2).
ALLOWED_GLOBALS = (
    "logger.RecorderMeter", "utils.RecorderMeter", "numpy.ndarray", "numpy.dtype", "_codecs.encode",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
)  # fmt: skip
# Set by Lightning in every checkpoint.
LIGHTNING_KEY = "pytorch-lightning_version"
# Of this study's module (net), DataParallel and torch.compile; and what that module holds beside the network.
PREFIXES = re.compile(r"((module|_orig_mod)\.)*(net\.)?((module|_orig_mod)\.)*")
METRICS = re.compile(r"(train|val|test)_metrics\.")
# How a name in the authors' code begins, and what it begins with here: outside the stages by network, and inside them.
OUTER: dict[type[nn.Module], dict[str, str]] = {
    PreActResNet: {r"conv1\.": "stem.", r"linear\.": "head."},
    WideResNet: {r"conv1\.": "stem.", r"bn1\.": "norm.", r"linear\.": "head."},
    PyramidNet: {r"conv1\.": "stem.0.", r"bn1\.": "stem.1.", r"bn_final\.": "norm.", r"fc\.": "head."},
}
INNER = {r"(layer\d+\.\d+)\.bn(\d+)\.": r"\1.norm\2.", r"(layer\d+\.\d+)\.shortcut\.0\.": r"\1.shortcut."}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds; `study` is Lightning's of this study, `authors` of the authors' code or in its form."""

    source: Literal["study", "authors"]
    epoch: int | None  # Of the weights, counted from 1; None: not in the file.
    architecture: str | None  # The authors' name of the network, e.g. preactresnet18; None: not in the file.
    weights: dict[str, Tensor]  # Parameters and buffers by the names in the file, without prefixes of wrappers.
    results: dict[str, float]  # Accuracies that the file records as plain numbers, in [0,1].


class OpaqueObject:
    """Stands for an object that is not built; it keeps nothing of its content."""

    def __new__(cls, *args: Any) -> "OpaqueObject":
        """Ignore the arguments of the constructor."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


def safe_load(path: str | Path) -> Any:
    """Read a file of torch.save on the CPU: tensors and plain values as they are, `ALLOWED_GLOBALS` as `OpaqueObject`.

    A UserError if the file is missing, unreadable, or holds anything else; nothing of that has been run then.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path.absolute()}")
    # Torch would also build what libraries have told it to; it keeps one list per process.
    hidden = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([(OpaqueObject, name) for name in ALLOWED_GLOBALS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile file can raise anything in the reader.
    except Exception as error:
        found = re.search(r"GLOBAL [`']?([\w.]+)", str(error))
        asked = f"it asks for {found[1]}, which weights do not need" if found else type(error).__name__
        # Not torch's own message, which advises to read the file without care.
        raise UserError(
            f"{path} cannot be read as a checkpoint, and nothing in it was run: {asked}. Readable are checkpoints of this "
            "study and of the Puzzle Mix authors' code; from others take the state_dict alone: "
            "torch.save({'state_dict': weights}, PATH), written where the file is trusted"
        ) from error
    finally:
        torch.serialization.add_safe_globals(hidden)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .ckpt of this study, or what the authors' code writes: a dict with `state_dict`, and perhaps `epoch` and `arch`.

    A UserError as of `safe_load`, and if the file is neither of the two.
    """
    content = safe_load(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise UserError(
            f"{path} must hold a dict with a state_dict, as this study and the Puzzle Mix authors' code write it; bare weights "
            "can be wrapped: torch.save({'state_dict': weights}, PATH)"
        )
    is_study = LIGHTNING_KEY in content
    named = {str(name): value for name, value in content["state_dict"].items()}
    weights = {PREFIXES.sub("", name, count=1): each for name, each in named.items() if not METRICS.match(name)}
    wrong = [name for name, value in named.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(f"{path}: its state_dict must hold tensors only, but these are none: {', '.join(wrong)}")
    epoch = _study_epoch(content) if is_study else content.get("epoch")
    architecture = content["arch"] if isinstance(content.get("arch"), str) else None
    return Checkpoint(
        "study" if is_study else "authors", epoch if isinstance(epoch, int) else None, architecture,
        {name: value.detach() for name, value in weights.items()}, _results(content),
    )  # fmt: skip


def load_weights(net: nn.Module, path: str | Path) -> Checkpoint:
    """Load a checkpoint into `net`, strictly: every key of either side must find its partner.

    Only the counters of BatchNorm may be absent, which evaluation does not use: PyTorch before 0.4.1 had none. Strides leave
    no trace in the weights: whether `stem_stride` is that of the training cannot be checked.

    A UserError as of `read_checkpoint`, and if names, shapes or kinds of numbers do not fit; `net` is then as it was.
    """
    checkpoint = read_checkpoint(path)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    names = {name: rename(name, net) if checkpoint.source == "authors" else name for name in checkpoint.weights}
    weights = {names[name]: value for name, value in checkpoint.weights.items()}
    twice = [name for name, key in names.items() if list(names.values()).count(key) > 1]
    kept = [(key, weights[key], before[key]) for key in before if key in weights]
    # Torch would convert them, with a loss.
    others = [key for key, new, old in kept if new.is_floating_point() != old.is_floating_point()]
    problems = [f"Twice in the file: {', '.join(twice)}"] if twice else []
    problems += [f"Numbers of another kind: {', '.join(others)}"] if others else []
    try:
        net.load_state_dict(weights)
    # Whatever a network raises that reads weights in a way of its own.
    except Exception as error:
        problems.append(str(error))
    if problems:
        net.load_state_dict(before)
        named = f"; its arch is {checkpoint.architecture}" if checkpoint.architecture else ""
        raise UserError("\n".join([f"{path} does not fit the model, which was left as it was{named}.", *problems]))
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


def _study_epoch(content: Mapping[str, Any]) -> int | None:
    try:
        # Unlike the key `epoch` it is the same before and after the end of an epoch.
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"])
    except (KeyError, TypeError, ValueError):
        return None


def _results(content: Mapping[str, Any]) -> dict[str, float]:
    """The validation accuracy of this study's best epoch, or the authors' test accuracy, a percentage."""
    states = content["callbacks"].values() if isinstance(content.get("callbacks"), Mapping) else ()
    best = [state for state in states if isinstance(state, Mapping) and state.get("monitor") == "val_accuracy"]
    score, percentage = best[0].get("best_model_score") if best else None, content.get("best_prec1")
    found = {"best_val_accuracy": (score, 1), "best_test_accuracy": (percentage, 100)}
    return {name: float(value) / scale for name, (value, scale) in found.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
