"""Every hyperparameter of the mixing, its default and its validation, in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral, Real

SOLVERS = ("exact", "gco")
# Weights, means and standard deviations. Energies are float32, 24 bits: where they are a million times those of images in
# [0, 1] with the paper's weights, the saliency of a block is lost in their rounding, long before they overflow to a mask of
# zeros. As the price of a move it lets no block move on any grid of up to 1000 blocks a side.
LARGEST = 1e6
# Below this a standard deviation is finer than 16-bit pixels, and its inverse would leave the range above.
SMALLEST_STD = 1e-6
# As many as an 8-bit mask has. The solver's time grows with them: 1 ms a mask of 16 x 16 blocks for 256, 0.1 ms for 3.
MOST_LABELS = 256
# Blocks per side of the mask, finer than the pixels of ImageNet's crops: at 256 a strong smoothness costs seconds a sample.
MOST_BLOCKS = 256
# Blocks per side that move: the list of all moves between them has 1023 x 1023 entries (24 MB).
MOST_MOVING_BLOCKS = 512
# More than the cores of any machine; each thread gets at least one sample of the batch.
MOST_THREADS = 1024
# (B, classes) soft targets of a batch of 256 are 1 GB then.
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class PuzzleMixConfig:
    """Hyperparameters of Puzzle Mix; the defaults are those of the paper's CIFAR experiments.

    Args:
        mean: Per-channel mean that the images were normalized with, in [0, 1] pixel units, at most 1e6 in size. ``None``
            together with ``std=None`` means that the images already lie in [0, 1].
        std: Per-channel standard deviation of the normalization, each > 0, from 1e-6 to 1e6.
        alpha: Both parameters of the Beta distribution that lam is drawn from, > 0 and at most 1e6, where lam is 0.5 (paper
            section 5; ``mixup_alpha``).
        per_sample_lam: Draw one lam for each sample; the reference draws one for the batch.
        grid_sizes: The numbers of blocks per side to choose from, one for each batch, from 1 to 256
            (``block_num``).
        num_labels: Mask values per block, 2 to 256: 0, 1/(num_labels-1), ..., 1 (``n_labels``).
        beta: Weight of the label smoothness, in [0, 1e6] (equation 5; applied as beta / (16 n) as in the reference).
        gamma: Weight of the data smoothness relative to ``beta``, in [0, 1]; above 1 the energy would stop being convex
            and its minimum could no longer be found.
        eta: Weight of the mixing prior, in [0, 1e6] (equation 5).
        neighborhood_size: Side in pixels of the cells over which images are averaged before blocks are compared across
            their border, >= 1; at most the block itself counts (``neigh_size``).
        transport: Whether blocks are moved to where the mask shows them (paper section 4.2).
        transport_size: Side in pixels of the blocks that are moved; ``None`` (the reference's ``-1``) moves the mask's
            own blocks. Sizes at or above the mask's block also mean its own blocks.
        transport_cost: Price of moving a block across the image, in [0, 1e6], in units of saliency (xi in the paper,
            ``t_eps``).
        solver: ``"exact"`` for the globally optimal mask, ``"gco"`` for the authors' alpha-beta swap (needs the extra
            ``[gco]``).
        threads: Threads of the solver, 1 to 1024; ``None`` takes this process's share of the cores (``mp``).

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
        self._check_normalization()
        self._keep("alpha", check_alpha(self.alpha))
        for name in ("beta", "eta", "transport_cost"):
            self._keep(name, check_weight(name, getattr(self, name)))
        self._keep("gamma", check_real("gamma", self.gamma, least=0.0, most=1.0))
        self._keep("num_labels", check_integer("num_labels", self.num_labels, least=2, most=MOST_LABELS))
        self._keep("neighborhood_size", check_integer("neighborhood_size", self.neighborhood_size, least=1))
        for name, most in (("transport_size", None), ("threads", MOST_THREADS)):
            if getattr(self, name) is not None:
                hint = "; use None for the default"
                self._keep(name, check_integer(name, getattr(self, name), least=1, most=most, hint=hint))
        for name in ("transport", "per_sample_lam"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.solver, str) or self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {SOLVERS}, got {self.solver!r}")
        self._check_grid_sizes()

    def _keep(self, name: str, value: object) -> None:
        # Plain Python numbers: NumPy's would compute in their own precision, and have the solver compiled for their types.
        object.__setattr__(self, name, value)

    def _check_normalization(self) -> None:
        if (self.mean is None) != (self.std is None):
            missing, given = ("mean", "std") if self.mean is None else ("std", "mean")
            raise ValueError(
                f"{missing} is missing while {given}={getattr(self, given)!r} is given: pass both, as the images were "
                "normalized, or neither for images in [0, 1]"
            )
        if self.mean is None or self.std is None:
            return
        for name in ("mean", "std"):
            values = _numbers(name, getattr(self, name))
            if not values or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must hold one finite number per channel, got {values}")
            if max(abs(value) for value in values) > LARGEST:
                raise ValueError(f"{name} must be in [0, 1] pixel units, at most {LARGEST:g} in size, got {values}")
            self._keep(name, values)
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std must be equally long, got {len(self.mean)} and {len(self.std)} values: "
                f"mean={self.mean}, std={self.std}"
            )
        if min(self.std) < SMALLEST_STD:
            raise ValueError(f"std must be > 0 in every channel, at least {SMALLEST_STD:g}, got {self.std}")

    def _check_grid_sizes(self) -> None:
        try:
            sizes = _as_tuple(self.grid_sizes)
        except TypeError as error:
            raise TypeError(
                f"grid_sizes must be a sequence of integers such as (2, 4, 8, 16), got {self.grid_sizes!r}"
            ) from error
        if not sizes:
            raise ValueError("grid_sizes must name at least one number of blocks per side, got ()")
        hint = f" in {sizes}"
        self._keep(
            "grid_sizes",
            tuple(check_integer("grid_sizes", size, least=1, most=MOST_BLOCKS, hint=hint) for size in sizes),
        )


def _as_tuple(values: object) -> tuple[object, ...]:
    """Return what a sequence holds; strings have characters, and sets and dicts no order that a channel could be told by."""
    if isinstance(values, (str, bytes, Set, Mapping)):
        raise TypeError(f"a {type(values).__name__} is no sequence of numbers")
    return tuple(values)  # type: ignore[arg-type]


def _numbers(name: str, values: object) -> tuple[float, ...]:
    try:
        return tuple(_number(value) for value in _as_tuple(values))
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be a sequence of one number per channel, got {values!r}") from error


def _number(value: object) -> float:
    # The elements of a tensor are tensors themselves.
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{value!r} is no number")
    return float(plain)


def check_probability(name: str, value: object) -> float:
    """Ask for a number in [0, 1] and return it as a float.

    Raises:
        TypeError: If ``value`` is no number.
        ValueError: If it lies outside [0, 1].
    """
    return check_real(name, value, least=0.0, most=1.0)


def check_real(
    name: str, value: object, *, least: float = -math.inf, most: float = math.inf, above: float | None = None
) -> float:
    """Ask for a finite number in [least, most], and above ``above`` where that is given, and return it as a float.

    Raises:
        TypeError: If ``value`` is no number.
        ValueError: If it lies outside.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        # An integer or fraction beyond 1e308.
        number = math.inf
    if not math.isfinite(number) or not least <= number <= most or (above is not None and number <= above):
        span = (
            f"> {above:g}"
            if above is not None
            else f">= {least:g}"
            if most == math.inf
            else f"in [{least:g}, {most:g}]"
        )
        raise ValueError(f"{name} must be finite and {span}, got {value!r}")
    return number


def check_weight(name: str, value: object) -> float:
    """Ask for a weight from 0 to :data:`LARGEST` and return it as a float.

    Raises:
        TypeError: If ``value`` is no number.
        ValueError: If it lies outside.
    """
    number = check_real(name, value, least=0.0)
    if number > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:g}, beyond which float32 loses all else, got {value!r}")
    return number


def check_alpha(value: object) -> float:
    """Ask for a parameter of the Beta distribution of lam, above 0 and at most :data:`LARGEST`, and return it as a float.

    Raises:
        TypeError: If ``value`` is no number.
        ValueError: If it lies outside.
    """
    number = check_real("alpha", value, above=0.0)
    if number > LARGEST:
        raise ValueError(f"alpha must be at most {LARGEST:g}, where lam is 0.5 in every draw, got {value!r}")
    return number


def check_integer(name: str, value: object, *, least: int, most: int | None = None, hint: str = "") -> int:
    """Ask for an integer from ``least`` to ``most`` and return it as an int.

    Raises:
        TypeError: If ``value`` is no integer.
        ValueError: If it lies outside; the message ends with ``hint``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}{hint}")
    number = int(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}{hint}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {value!r}{hint}")
    return number
