"""Every hyperparameter of the mixing, its default and its validation, in one place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

SOLVERS = ("exact", "gco")


@dataclass(frozen=True, kw_only=True)
class PuzzleMixConfig:
    """Hyperparameters of Puzzle Mix; the defaults are those of the paper's CIFAR experiments.

    Args:
        mean: Per-channel mean that the images were normalised with, in [0, 1] pixel units. ``None`` together with
            ``std=None`` means that the images already lie in [0, 1].
        std: Per-channel standard deviation of the normalisation, each > 0.
        alpha: Both parameters of the Beta distribution that lam is drawn from, > 0 (paper section 5; ``mixup_alpha``).
        per_sample_lam: Draw one lam for each sample; the reference draws one for the batch.
        grid_sizes: The numbers of blocks per side to choose from, one for each batch (``block_num``).
        num_labels: Mask values per block, >= 2: 0, 1/(num_labels-1), ..., 1 (``n_labels``).
        beta: Weight of the label smoothness, >= 0 (equation 5; applied as beta / (16 n) as in the reference).
        gamma: Weight of the data smoothness relative to ``beta``, in [0, 1]; above 1 the energy would stop being convex
            and its minimum could no longer be found.
        eta: Weight of the mixing prior, >= 0 (equation 5).
        neighborhood_size: Side in pixels of the cells over which images are averaged before blocks are compared across
            their border, >= 1; at most the block itself counts (``neigh_size``).
        transport: Whether blocks are moved to where the mask shows them (paper section 4.2).
        transport_size: Side in pixels of the blocks that are moved; ``None`` (the reference's ``-1``) moves the mask's
            own blocks. Sizes at or above the mask's block also mean its own blocks.
        transport_cost: Price of moving a block across the image, >= 0, in units of saliency (xi in the paper, ``t_eps``).
        solver: ``"exact"`` for the globally optimal mask, ``"gco"`` for the authors' alpha-beta swap (needs the extra
            ``[gco]``).
        threads: Threads of the solver, >= 1; ``None`` takes this process's share of the cores (``mp``).

    Raises:
        ValueError: If a value lies outside its range.
        TypeError: If a value has the wrong type.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    alpha: float = 1.0
    per_sample_lam: bool = False
    grid_sizes: Sequence[int] = (2, 4, 8, 16)
    num_labels: int = 3
    beta: float = 1.2
    gamma: float = 0.5
    eta: float = 0.2
    neighborhood_size: int = 4
    transport: bool = True
    transport_size: int | None = None
    transport_cost: float = 0.8
    solver: str = "exact"
    threads: int | None = None

    def __post_init__(self) -> None:
        self._check_normalisation()
        check_real("alpha", self.alpha, above=0.0)
        for name in ("beta", "eta", "transport_cost"):
            check_real(name, getattr(self, name), least=0.0)
        check_real("gamma", self.gamma, least=0.0, most=1.0)
        _check_integer("num_labels", self.num_labels, least=2)
        _check_integer("neighborhood_size", self.neighborhood_size, least=1)
        for name in ("transport_size", "threads"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), least=1, hint="; use None for the default")
        for name in ("transport", "per_sample_lam"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {SOLVERS}, got {self.solver!r}")
        self._check_grid_sizes()

    def _check_normalisation(self) -> None:
        if (self.mean is None) != (self.std is None):
            missing, given = ("mean", "std") if self.mean is None else ("std", "mean")
            raise ValueError(
                f"{missing} is missing while {given}={getattr(self, given)!r} is given: pass both, as the images were "
                "normalised, or neither for images in [0, 1]"
            )
        if self.mean is None or self.std is None:
            return
        for name in ("mean", "std"):
            values = _numbers(name, getattr(self, name))
            if not values or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must hold one finite number per channel, got {values}")
            object.__setattr__(self, name, values)
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std must be equally long, got {len(self.mean)} and {len(self.std)} values: "
                f"mean={self.mean}, std={self.std}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be > 0 in every channel, got {self.std}")

    def _check_grid_sizes(self) -> None:
        if isinstance(self.grid_sizes, (str, Integral)) or not isinstance(self.grid_sizes, Iterable):
            raise TypeError(f"grid_sizes must be a sequence of integers such as (2, 4, 8, 16), got {self.grid_sizes!r}")
        sizes = tuple(self.grid_sizes)
        if not sizes:
            raise ValueError("grid_sizes must name at least one number of blocks per side, got ()")
        for size in sizes:
            _check_integer("grid_sizes", size, least=1, hint=f" in {sizes}")
        object.__setattr__(self, "grid_sizes", tuple(int(size) for size in sizes))


def _numbers(name: str, values: object) -> tuple[float, ...]:
    try:
        if isinstance(values, str):
            raise TypeError("a string is no sequence of numbers")
        return tuple(float(value) for value in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a sequence of one number per channel, got {values!r}") from error


def check_probability(name: str, value: object) -> None:
    """Ask for a number in [0, 1].

    Raises:
        TypeError: If ``value`` is no number.
        ValueError: If it lies outside [0, 1].
    """
    check_real(name, value, least=0.0, most=1.0)


def check_real(
    name: str, value: object, *, least: float = -math.inf, most: float = math.inf, above: float | None = None
) -> None:
    """Ask for a finite number in [least, most], and above ``above`` where that is given.

    Raises:
        TypeError: If ``value`` is no number.
        ValueError: If it lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or not least <= number <= most or (above is not None and number <= above):
        span = (
            f"> {above:g}"
            if above is not None
            else f">= {least:g}"
            if most == math.inf
            else f"in [{least:g}, {most:g}]"
        )
        raise ValueError(f"{name} must be finite and {span}, got {value!r}")


def _check_integer(name: str, value: object, *, least: int, hint: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}{hint}")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}{hint}")
