"""Every hyperparameter of the mixing, its default and its validation, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from lightning_puzzlemix.normalization import check_normalization
from lightning_puzzlemix.validation import (
    check_alpha,
    check_bool,
    check_integer,
    check_option,
    check_real,
    check_weight,
)

SOLVERS = ("exact", "gco")
SOLVE_ON = ("auto", "host", "device")
# As many as an 8-bit mask has. The solver's time grows with them: 1 ms a mask of 16 x 16 blocks for 256, 0.1 ms for 3.
MOST_LABELS = 256
# Blocks per side of the mask, finer than the pixels of ImageNet's crops: at 256 a strong smoothness costs seconds a sample.
MOST_BLOCKS = 256
# Blocks per side that move: the list of all moves between them has 1023 x 1023 entries (24 MB).
MOST_MOVING_BLOCKS = 512
# More than the cores of any machine; each thread gets at least one sample of the batch.
MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class PuzzleMixConfig:
    """Hyperparameters of Puzzle Mix; the defaults are those of the paper's CIFAR experiments.

    Args:
        mean: Per-channel mean that the images were normalized with, in [0, 1] pixel units, at most 1e6 in size. ``None``
            together with ``std=None`` means that the images already lie in [0, 1].
        std: Per-channel standard deviation of the normalization, each > 0, from 1e-6 to 1e6.
        alpha: Both parameters of the Beta distribution that lam is drawn from, from 1e-6 to 1e6, where lam is 0.5 (paper
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
        solve_on: ``"device"`` solves masks and transport on the images' CUDA device, with the same result and without waiting
            for it (needs the extra ``[cuda]``; at most 22 blocks per side, 16 labels and 4,000 moving blocks); ``"host"``
            on the CPU; ``"auto"`` on the host, until the check on a device has been run.
        threads: Threads of the solver on the host, 1 to 1024; ``None`` takes this process's share of the cores (``mp``).

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
    solve_on: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        values: dict[str, object] = {"alpha": check_alpha(self.alpha)}
        values["mean"], values["std"] = check_normalization(self.mean, self.std)
        for name in ("beta", "eta", "transport_cost"):
            values[name] = check_weight(name, getattr(self, name))
        values["gamma"] = check_real("gamma", self.gamma, least=0.0, most=1.0)
        values["num_labels"] = check_integer("num_labels", self.num_labels, least=2, most=MOST_LABELS)
        values["neighborhood_size"] = check_integer("neighborhood_size", self.neighborhood_size, least=1)
        for name, most in (("transport_size", None), ("threads", MOST_THREADS)):
            if getattr(self, name) is not None:
                hint = "; use None for the default"
                values[name] = check_integer(name, getattr(self, name), least=1, most=most, hint=hint)
        for name in ("transport", "per_sample_lam"):
            check_bool(name, getattr(self, name))
        for name, options in (("solver", SOLVERS), ("solve_on", SOLVE_ON)):
            check_option(name, getattr(self, name), options)
        values["grid_sizes"] = _check_grid_sizes(self.grid_sizes)
        # Plain Python numbers: NumPy's would compute in their own precision, and have the solver compiled for their types.
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _check_grid_sizes(grid_sizes: object) -> tuple[int, ...]:
    try:
        if isinstance(grid_sizes, (str, bytes, Set, Mapping)):
            raise TypeError("it is not a sequence of integers")
        sizes: tuple[object, ...] = tuple(grid_sizes)  # type: ignore[arg-type]
    except TypeError as error:
        message = f"grid_sizes must be a sequence of integers such as (2, 4, 8, 16), got {grid_sizes!r}"
        raise TypeError(message) from error
    if not sizes:
        raise ValueError("grid_sizes must name at least one number of blocks per side, got ()")
    hint = f" in {sizes}"
    return tuple(check_integer("grid_sizes", size, least=1, most=MOST_BLOCKS, hint=hint) for size in sizes)
