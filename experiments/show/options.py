"""The hyperparameters of the mixing as options of a command line and as keys of a grid, read off `PuzzleMixConfig`."""

import argparse
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import Any, get_args, get_type_hints

from experiments.common.errors import UserError
from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.config import SOLVERS
from lightning_puzzlemix.validation import check_probability

# Fields that would have no effect here, and what is given in their place.
GIVEN_OTHERWISE = {
    "mean": "mean is that of the --checkpoint's data; without one pictures are in [0, 1]",
    "std": "std is that of the --checkpoint's data; without one pictures are in [0, 1]",
    "alpha": "alpha is what training draws lam by; here lam is given",
    "per_sample_lam": "per_sample_lam is for lam drawn at random; here lam is given",
    "grid_sizes": "grid_sizes is what training draws blocks from; here blocks is given",
}
DRAWN = {"lam": float, "blocks": int}
MOST_VALUES = 12


@dataclass(frozen=True)
class Settings:
    """How pictures are mixed.

    Args:
        config: Hyperparameters.
        lam: Wished share of the first picture, in [0, 1].
        blocks: Blocks along each side of the mask.
    """

    config: PuzzleMixConfig
    lam: float
    blocks: int

    def changed(self, **values: Any) -> "Settings":
        """The same with other values: `lam`, `blocks`, or fields of the config.

        Raises:
            UserError: If one is outside its range.
        """
        drawn = {name: value for name, value in values.items() if name in DRAWN}
        try:
            check_probability("lam", drawn.get("lam", self.lam))
            config = replace(self.config, **{name: value for name, value in values.items() if name not in DRAWN})
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        return replace(self, config=config, **drawn)

    def check_blocks(self, height: int, width: int) -> None:
        """Ask for blocks of at least one pixel.

        Raises:
            UserError: If they would be smaller, or there would be none.
        """
        if not 1 <= self.blocks <= min(height, width):
            raise UserError(
                f"blocks must be from 1 to the shorter side of the pictures, {min(height, width)}, got {self.blocks}; give "
                "fewer --blocks, or a larger --size"
            )


@dataclass(frozen=True)
class GridAxis:
    """A setting and the values that it takes along one side of the grid."""

    key: str
    values: tuple[Any, ...]

    def label(self, position: int) -> str:
        """The setting and one of its values, e.g. "beta = 1.2"."""
        value = self.values[position]
        return f"{self.key} = {value:g}" if isinstance(value, float) else f"{self.key} = {str(value).lower()}"


def option_types() -> dict[str, Any]:
    """The type of every field of `PuzzleMixConfig` that can be set here, by its name."""
    hints = get_type_hints(PuzzleMixConfig)
    return {field.name: hints[field.name] for field in fields(PuzzleMixConfig) if field.name not in GIVEN_OTHERWISE}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each hyperparameter, with the default and the words of `PuzzleMixConfig`."""
    group = parser.add_argument_group("hyperparameters of the mixing")
    texts = described_arguments(PuzzleMixConfig)
    defaults = {field.name: field.default for field in fields(PuzzleMixConfig)}
    for name, kind in option_types().items():
        described = f"{texts.get(name, '')} (default: {str(defaults[name]).lower()})".strip().replace("%", "%%")
        settings: dict[str, Any] = {"dest": name, "default": defaults[name], "help": described}
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"metavar": _placeholder(name, kind), "type": _Reader(name)}
        group.add_argument(f"--{name.replace('_', '-')}", **settings)


def described_arguments(documented: type) -> dict[str, str]:
    """What the section "Args:" of a class's docstring says on each argument."""
    section = (inspect.getdoc(documented) or "").partition("Args:\n")[2].split("\n\n", 1)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for name, text in found}


def read_value(name: str, text: str) -> Any:
    """A value in the type that the setting has.

    Args:
        name: `lam`, `blocks`, or a field of `PuzzleMixConfig`.
        text: As typed: a number, true or false, none where the setting may be None, a word.

    Raises:
        UserError: If the text is no such value.
    """
    kind = (option_types() | DRAWN)[name]
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    word = text.strip().lower()
    if type(None) in kinds and word == "none":
        return None
    if bool in kinds and word in ("true", "false"):
        return word == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return number(word)
            except ValueError:
                continue
    if str in kinds:
        return word
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}
    raise UserError(f"{name} must be {' or '.join(words[each] for each in kinds)}, got {text!r}")


def _placeholder(name: str, kind: Any) -> str:
    if name == "solver":
        return "|".join(SOLVERS)
    words = {int: "N", float: "NUMBER", bool: "true|false", str: "WORD", type(None): "none"}
    return "|".join(words[each] for each in (get_args(kind) or (kind,)))


class _Reader:
    """Reads one option, with argparse's own way of complaining."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, text: str) -> Any:
        try:
            return read_value(self.name, text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error


def read_grid(texts: Sequence[str]) -> list[GridAxis]:
    """The sides of the grid, from one or two texts `KEY=VALUE,VALUE,...`.

    Raises:
        UserError: If there are more, or a key or a value is none.
    """
    if len(texts) > 2:
        raise UserError(
            f"--grid takes one or two keys, got {len(texts)}: {' '.join(texts)}; give a third one a single value as an option "
            "and draw one picture for each, or name IMAGES before --grid"
        )
    axes = [_read_axis(text) for text in texts]
    if len({axis.key for axis in axes}) < len(axes):
        raise UserError(f"--grid names {axes[0].key} twice; put all its values behind one {axes[0].key}=")
    return axes


def _read_axis(text: str) -> GridAxis:
    key, equals, listed = text.partition("=")
    key = key.strip().lstrip("-").replace("-", "_")
    if not equals:
        raise UserError(f"--grid takes KEY=VALUE,VALUE,..., got {text}; name IMAGES before --grid")
    if key in GIVEN_OTHERWISE:
        raise UserError(f"--grid {text}: {GIVEN_OTHERWISE[key]}")
    known = (*DRAWN, *option_types())
    if key not in known:
        raise UserError(f"--grid {text}: there is no {key}; it must be one of {', '.join(known)}")
    words = listed.split(",")
    if len(words) > MOST_VALUES:
        raise UserError(f"--grid {key} has {len(words)} values; the picture has room for {MOST_VALUES}")
    return GridAxis(key, tuple(read_value(key, word) for word in words))
