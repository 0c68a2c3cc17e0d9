"""The optional solver of the authors: import, limits and errors. Its masks are compared in test_golden.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_puzzlemix import PuzzleMixConfig, puzzle_mix
from lightning_puzzlemix.solvers.host import solve_masks
from lightning_puzzlemix.solvers.problem import Energy

GCO = PuzzleMixConfig(solver="gco")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, which may die."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def energy_with(weight: float, n: int = 4) -> Energy[np.ndarray]:
    """Return energies of one sample whose weights are all ``weight``."""
    shares = np.random.default_rng(0).random((2, 1, n, n)).astype(np.float32) / n**2
    return Energy(
        shares[0], shares[1], np.full((1, n - 1, n), weight, np.float32), np.full((1, n, n - 1), weight, np.float32)
    )


def test_no_aliases_are_left_in_numpy() -> None:
    pytest.importorskip("gco")
    code = """
import numpy as np
before = {name: np.__dict__.get(name, "absent") for name in ("int", "float", "bool")}
from lightning_puzzlemix.solvers.gco import _import_gco
assert hasattr(_import_gco(), "cut_grid_graph")
after = {name: np.__dict__.get(name, "absent") for name in ("int", "float", "bool")}
assert before == after, (before, after)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_aliases_that_were_there_stay() -> None:
    pytest.importorskip("gco")
    code = """
import numpy as np
np.int = marker = object()
from lightning_puzzlemix.solvers.gco import _import_gco
_import_gco()
assert np.int is marker
assert "float" not in np.__dict__
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_without_gco_the_error_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gco", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-puzzlemix\[gco\]'.*solver='exact'"):
        puzzle_mix(
            torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8), permutation=torch.tensor([1, 0]), lam=0.5, blocks_per_side=2,
            config=GCO,
        )  # fmt: skip


def test_weights_that_gco_cannot_take_are_refused() -> None:
    """In a process of its own: gco would end it. Weights beyond 32 bits must not slip through by wrapping around."""
    pytest.importorskip("gco")
    code = f"""
import sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from test_gco import GCO, energy_with, solve_masks
print(solve_masks(energy_with(9_999 / 16_000), 0.5, GCO).shape)
for units in (10_002, 50_000, 2**31 - 1000, 2**31 + 1000, 2**33, 10**20):
    try:
        solve_masks(energy_with(units / 16_000), 0.5, GCO)
        print("solved", units)
    except ValueError as error:
        assert "beta" in str(error) and "10000" in str(error), error
"""
    done = run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "(1, 4, 4)"), done.stdout + done.stderr


def test_one_block_is_refused() -> None:
    pytest.importorskip("gco")
    with pytest.raises(ValueError, match=r"gco.*at least 2 blocks per side, got 1.*exact"):
        solve_masks(energy_with(0.1, n=1), 0.5, GCO)
    labels = solve_masks(energy_with(0.1, n=1), 0.5, PuzzleMixConfig())
    assert labels.shape == (1, 1, 1)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_labels_count_up_to_the_first_image(count: int) -> None:
    """Where showing the first image costs nothing, its label is L - 1, and 0 where the second does."""
    pytest.importorskip("gco")
    energy = energy_with(0.0)
    cheap, dear = np.zeros_like(energy.cost_first), np.ones_like(energy.cost_first)
    for first, second, label in ((cheap, dear, count - 1), (dear, cheap, 0)):
        sided = Energy(first, second, energy.weight_rows, energy.weight_cols)
        for solver in ("gco", "exact"):
            assert (solve_masks(sided, 0.5, PuzzleMixConfig(solver=solver, num_labels=count)) == label).all()


def test_one_lam_for_each_sample() -> None:
    pytest.importorskip("gco")
    one = energy_with(0.01)
    both = Energy(*(np.concatenate([part, part]) for part in vars(one).values()))
    config = PuzzleMixConfig(solver="gco", eta=5.0)
    together = solve_masks(both, np.array([0.1, 0.9]), config)
    for index, lam in enumerate((0.1, 0.9)):
        np.testing.assert_array_equal(together[index], solve_masks(one, lam, config)[0])
    assert together[0].mean() < together[1].mean()


def test_more_labels_than_integers_can_count() -> None:
    """From 69 labels on a binomial coefficient is larger than any integer of NumPy."""
    pytest.importorskip("gco")
    labels = solve_masks(energy_with(0.01), 0.5, PuzzleMixConfig(solver="gco", num_labels=100))
    assert labels.shape == (1, 4, 4)
    assert 0 <= labels.min() <= labels.max() <= 99
