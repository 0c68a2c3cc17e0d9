"""Masks of least energy and transport plans: the problem of a batch, and the backends that solve it."""

from lightning_puzzlemix.solvers.backends import solve, warm_up
from lightning_puzzlemix.solvers.deferred_checks import DeferredChecks
from lightning_puzzlemix.solvers.gco import solve_masks_gco
from lightning_puzzlemix.solvers.host import plan_moves, solve_masks
from lightning_puzzlemix.solvers.problem import Energy, MixingProblem, energy_of_mask, mixing_prior
from lightning_puzzlemix.solvers.threads import available_threads
from lightning_puzzlemix.solvers.transfer import send
from lightning_puzzlemix.solvers.value_checks import check_lam

# Not the compiled kernels of maxflow and matching: importing them imports Numba, which takes half a second.
__all__ = [
    "DeferredChecks",
    "Energy",
    "MixingProblem",
    "available_threads",
    "check_lam",
    "energy_of_mask",
    "mixing_prior",
    "plan_moves",
    "send",
    "solve",
    "solve_masks",
    "solve_masks_gco",
    "warm_up",
]
